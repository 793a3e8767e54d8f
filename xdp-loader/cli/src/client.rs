//! The daemon's API as the command line uses it: HTTP/1 over the Unix socket.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use lvx_api::{BODY_LIMIT, ErrorBody, too_large};
use lvx_model::settings::DEFAULT_SOCKET;

/// How long the daemon may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the daemon listens.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The daemon that listens at `socket`, or where it does by default.
    pub fn new(socket: Option<PathBuf>) -> Self {
        Self {
            socket: socket.unwrap_or(DEFAULT_SOCKET.into()),
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(self.request(Method::GET, path, Bytes::new()).await?).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(self.request(Method::DELETE, path, Bytes::new()).await?).await
    }

    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        self.read(self.request(method, path, body.into()).await?).await
    }

    /// The answer as text.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let body = self.request(Method::GET, path, Bytes::new()).await?.collect().await?;
        Ok(String::from_utf8(body.to_bytes().into())?)
    }

    /// Makes a request and returns the body of a successful answer, to be read as it comes.
    pub async fn request(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Incoming> {
        // The daemon refuses it without reading it all, which a client that still writes does not get to see.
        ensure!(body.len() <= BODY_LIMIT, too_large());
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.no_daemon(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer or with an error that the answer's reader sees.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "lvx")
            .body(Full::new(body))?;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request))
            .await
            .map_err(|_| anyhow!("the daemon at {} does not answer: see its log", self.socket.display()))?
            .with_context(|| format!("the daemon at {} hung up", self.socket.display()))?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        bail!(refusal(response).await)
    }

    async fn read<T: DeserializeOwned>(&self, body: Incoming) -> anyhow::Result<T> {
        let bytes = body.collect().await?.to_bytes();
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "the daemon at {} answers in another form: is it another version of lvx?",
                self.socket.display()
            )
        })
    }

    fn no_daemon(&self, error: &io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => anyhow!(
                "not allowed to talk to the daemon at {socket}: root and the members of group {} may",
                group_of(&self.socket)
            ),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
                "no daemon answers at {socket} ({}): start it with `lvx run --interface IF`",
                without_code(error)
            ),
            _ => anyhow!("cannot talk to the daemon at {socket}: {error}"),
        }
    }
}

/// What the daemon said in refusing.
async fn refusal(response: Response<Incoming>) -> String {
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => body.error,
        Err(_) => format!("the daemon answers {status}"),
    }
}

/// The kernel's words without Rust's `(os error 2)`.
fn without_code(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// The name of the group that a file belongs to, or its number.
fn group_of(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else {
        return "root".to_owned();
    };
    let gid = metadata.gid().to_string();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid).then(|| name.to_owned())
    });
    name.unwrap_or(gid)
}

/// A value as one segment of a path or one value of a query (RFC 3986, section 2.3: the rest is percent-encoded).
pub(super) fn segment(value: impl ToString) -> String {
    let mut encoded = String::new();
    for byte in value.to_string().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
