//! `grpc`: the health checking protocol (grpc.health.v1.Health/Check).

use std::sync::Mutex;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{Finding, ProbeError, Route, bounded::Bounded, socket, tls::Tls, why};
use lvx_model::CheckForm;

/// The longest list of headers and the longest message that are read, in bytes.
const LIMIT: u32 = 16 * 1024;

#[derive(Debug)]
pub(super) struct Grpc {
    tls: Option<Tls>,
    host: Option<String>,
    service: String,
}

impl Grpc {
    pub(super) fn new(form: &CheckForm) -> Result<Self, ProbeError> {
        let tls = match form.tls {
            Some(true) => Some(Tls::new(form, &[b"h2"])?),
            _ => None,
        };
        Ok(Self {
            tls,
            host: form.host.clone(),
            service: form.grpc_service.clone().unwrap_or_default(),
        })
    }

    pub(super) async fn run(&self, route: Route) -> Finding {
        let stream = match socket::connect(route, socket::End::Close).await {
            Ok(stream) => Bounded::new(stream),
            Err(error) => return Finding::refused(&error),
        };
        let authority = self.host.clone().unwrap_or_else(|| route.to.to_string());
        match &self.tls {
            None => self.ask(channel("http", &authority, TokioIo::new(stream)).await).await,
            Some(tls) => match tls.connect(stream, route.to.ip()).await {
                Ok(stream) => self.ask(channel("https", &authority, TokioIo::new(stream)).await).await,
                Err(finding) => finding,
            },
        }
    }

    async fn ask(&self, channel: Result<Channel, Finding>) -> Finding {
        let channel = match channel {
            Ok(channel) => channel,
            Err(finding) => return finding,
        };
        let mut client = HealthClient::new(channel).max_decoding_message_size(LIMIT as usize);
        let request = HealthCheckRequest {
            service: self.service.clone(),
        };
        match client.check(request).await {
            Ok(response) => match response.get_ref().status() {
                ServingStatus::Serving => Finding::up(),
                other => Finding::down(format!("says {}", other.as_str_name())),
            },
            Err(status) if status.code() == Code::NotFound => {
                Finding::down(format!("knows no gRPC service `{}`", self.service))
            }
            Err(status) if status.code() == Code::Unimplemented => {
                Finding::down("does not speak grpc.health.v1.Health")
            }
            Err(status) => Finding::failed(&status, format!("{}: {}", status.code(), why(&status))),
        }
    }
}

/// A stream that tonic can take.
trait Stream: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static {}
impl Stream for TokioIo<Bounded<TcpStream>> {}
impl Stream for TokioIo<TlsStream<Bounded<TcpStream>>> {}

/// A channel over a stream that is connected already: the one socket that was bound and marked for it.
async fn channel<S: Stream>(scheme: &str, authority: &str, stream: S) -> Result<Channel, Finding> {
    let uri: Uri = format!("{scheme}://{authority}").parse().map_err(|_| {
        Finding::unknown(format!(
            "`{authority}` is not an authority: write name or name:port as host"
        ))
    })?;
    let stream = Mutex::new(Some(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let taken = stream.lock().ok().and_then(|mut stream| stream.take());
        async move { taken.ok_or_else(|| std::io::Error::other("the connection ended")) }
    });
    Endpoint::from(uri)
        .http2_max_header_list_size(LIMIT)
        .initial_stream_window_size(LIMIT * 4)
        .initial_connection_window_size(LIMIT * 4)
        .buffer_size(4)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Finding::failed(&error, format!("not HTTP/2 as it should be: {}", why(&error))))
}
