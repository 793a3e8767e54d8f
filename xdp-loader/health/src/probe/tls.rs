//! TLS for probes: rustls with ring; certificates verified or not, as the check says.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Finding, ProbeError, why};
use lvx_model::CheckForm;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

/// The system's certificates, read once.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

pub(super) struct Tls {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn new(form: &CheckForm, alpn: &[&[u8]]) -> Result<Self, ProbeError> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()
            .map_err(|error| ProbeError(error.to_string()))?;
        let mut config = if form.verify == Some(false) {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone))
                .with_no_client_auth()
        } else {
            let roots = form.ca.as_deref().map_or_else(|| Ok(Arc::clone(&SYSTEM)), read)?;
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // Every probe is a whole handshake, as a new client's is.
        config.resumption = rustls::client::Resumption::disabled();
        let name = form.sni.as_deref().or(form.host.as_deref());
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: name.map(server_name).transpose()?,
        })
    }

    /// Shakes hands; the error is what that says of the backend.
    pub(super) async fn connect<S>(&self, stream: S, to: IpAddr) -> Result<TlsStream<S>, Finding>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(to));
        self.connector
            .connect(name, stream)
            .await
            .map_err(|error| Finding::failed(&error, format!("TLS: {}", why(&error))))
    }
}

/// A Host without its port, as the name to verify.
fn server_name(host: &str) -> Result<ServerName<'static>, ProbeError> {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && !name.contains(':') => name,
        _ => host,
    };
    let bare = without_port.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).map_err(|_| ProbeError(format!("`{host}` is not a name that TLS can verify: give sni")))
}

fn read(path: &Path) -> Result<Arc<RootCertStore>, ProbeError> {
    let refuse = |reason: String| ProbeError(format!("cannot use the certificates in {}: {reason}", path.display()));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("there is none in it".into()));
    }
    Ok(Arc::new(roots))
}

/// Takes every certificate, one that cannot be read too (X.509 version 1): the check asks whether a backend answers, not who it
/// is, so neither is it asked whether the certificate's key signed the handshake.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
