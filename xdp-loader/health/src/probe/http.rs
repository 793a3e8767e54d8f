//! `http` and `https`: one HTTP/1.1 request, its status, and if asked its body.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{Expect, Finding, Outcome, ProbeError, Route, bounded::Bounded, socket, tls::Tls, why};
use lvx_model::{CheckForm, CheckType, check::Statuses};

/// The longest head of an answer, in bytes.
const HEAD: usize = 32 * 1024;

/// How much of a body is looked at, in bytes.
const BODY: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Http {
    tls: Option<Tls>,
    method: Method,
    path: String,
    host: Option<String>,
    status: Statuses,
    drain: Statuses,
    body: Option<Expect>,
    load: Option<Load>,
}

/// How much of a body that is read has come, to be told when the time is over.
#[derive(Debug, Default)]
struct BodySoFar(Mutex<Option<usize>>);

impl BodySoFar {
    fn set(&self, bytes: usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// None before the body.
    fn bytes(&self) -> Option<usize> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Load {
    field: String,
    full: f64,
}

impl Http {
    pub(super) fn new(form: &CheckForm) -> Result<Self, ProbeError> {
        let tls = match form.kind {
            CheckType::Https => Some(Tls::new(form, &[b"http/1.1"])?),
            _ => None,
        };
        let method = form.method.as_deref().unwrap_or("GET");
        let body = match (&form.body, &form.body_regex) {
            (Some(text), _) => Some(Expect::text(text.clone().into_bytes())),
            (None, Some(pattern)) => Some(Expect::pattern(pattern).map_err(ProbeError)?),
            (None, None) => None,
        };
        Ok(Self {
            tls,
            method: Method::from_bytes(method.as_bytes()).map_err(|error| ProbeError(error.to_string()))?,
            path: form.path.clone().unwrap_or_else(|| "/".into()),
            host: form.host.clone(),
            status: form.status.clone().unwrap_or_else(|| Statuses::range(200..=399)),
            drain: form.drain_status.clone().unwrap_or_else(|| Statuses::range(503..=503)),
            body,
            load: form.load_field.clone().map(|field| Load {
                field,
                full: form.load_full.map_or(1.0, f64::from),
            }),
        })
    }

    /// Asks, and keeps the time itself: a body without an end is told apart from no answer.
    pub(super) async fn run(&self, route: Route, limit: Duration) -> Finding {
        let body = BodySoFar::default();
        match timeout(limit, self.exchange(route, &body)).await {
            Ok(finding) => finding,
            Err(_) => match body.bytes() {
                None => Finding::down(format!("no answer within {} ms", limit.as_millis())),
                Some(bytes) => Finding::down(format!(
                    "the body did not end within {} ms ({bytes} bytes came)",
                    limit.as_millis()
                )),
            },
        }
    }

    async fn exchange(&self, route: Route, body: &BodySoFar) -> Finding {
        let stream = match socket::connect(route, socket::End::Close).await {
            Ok(stream) => Bounded::new(stream),
            Err(error) => return Finding::refused(&error),
        };
        match &self.tls {
            None => self.ask(stream, route, body).await,
            Some(tls) => match tls.connect(stream, route.to.ip()).await {
                Ok(stream) => self.ask(stream, route, body).await,
                Err(finding) => finding,
            },
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        route: Route,
        body: &BodySoFar,
    ) -> Finding {
        let built = http1::Builder::new()
            .max_buf_size(HEAD)
            .max_headers(128)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await;
        let (mut sender, connection) = match built {
            Ok(built) => built,
            Err(error) => return Finding::failed(&error, why(&error)),
        };
        let host = self.host.clone().unwrap_or_else(|| route.to.to_string());
        let request = Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("lvx/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::new());
        let request = match request {
            Ok(request) => request,
            Err(error) => return Finding::down(format!("the request cannot be written: {error}")),
        };
        let exchange = async {
            match sender.send_request(request).await {
                Ok(response) => self.judge(response, body).await,
                Err(error) => Finding::failed(&error, format!("not HTTP as it should be: {}", why(&error))),
            }
        };
        // The connection is driven here, so that nothing of it is left when the probe is over.
        let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
        tokio::select! {
            biased;
            finding = &mut exchange => finding,
            // Why it ended is told to the exchange.
            _ = &mut connection => exchange.await,
        }
    }

    async fn judge(&self, response: Response<Incoming>, so_far: &BodySoFar) -> Finding {
        let status = response.status().as_u16();
        if self.drain.contains(status) && !self.status.contains(status) {
            return Finding::said(Outcome::Drain, format!("status {status}: asks to be drained"));
        }
        if !self.status.contains(status) {
            return Finding::down(format!("status {status}, not {}", self.status));
        }
        if self.body.is_none() && self.load.is_none() {
            return Finding::up();
        }
        let (body, whole) = match read(response.into_body(), so_far).await {
            Ok(read) => read,
            Err(finding) => return finding,
        };
        if let Some(expect) = &self.body
            && !expect.is_in(&body)
        {
            let part = if whole {
                "the body"
            } else {
                "the first 64 KiB of the body"
            };
            return Finding::down(format!(
                "status {status}, but {expect} is not in {part} ({} bytes)",
                body.len()
            ));
        }
        self.load.as_ref().map_or_else(Finding::up, |load| load.read(&body))
    }
}

impl Load {
    fn read(&self, body: &[u8]) -> Finding {
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            return Finding::down(format!(
                "the body is not JSON within 64 KiB, so there is no load at {}",
                self.field
            ));
        };
        match json.pointer(&self.field).and_then(Value::as_f64) {
            Some(load) if load >= 0.0 => Finding::of(Outcome::Load((load / self.full * 1_000.0).min(10_000.0) as u32)),
            _ => Finding::down(format!("there is no number of 0 or more at {} of the body", self.field)),
        }
    }
}

/// The body up to [`BODY`], and whether that is all of it.
async fn read(mut body: Incoming, so_far: &BodySoFar) -> Result<(Vec<u8>, bool), Finding> {
    let mut bytes = Vec::new();
    so_far.set(0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Finding::failed(&error, format!("the body breaks off: {}", why(&error))))?;
        if let Ok(data) = frame.into_data() {
            let room = BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            so_far.set(bytes.len());
            if data.len() >= room {
                return Ok((bytes, false));
            }
        }
    }
    Ok((bytes, true))
}
