//! `GET /v1/pick?service=...`: one healthy backend's address, by weight and load, for clients that connect directly.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::view::HealthView;
use crate::model::{Desired, Service, ServiceAddress};

/// Connections at once at most.
const CONNECTIONS: usize = 1_024;
/// How long one connection may last.
const LIFE: Duration = Duration::from_secs(60);

/// Answer to a pick.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picked {
    /// The service.
    pub service: ServiceAddress,
    /// The address and port of a backend that takes new connections.
    pub address: SocketAddr,
}

/// Picks a backend by weight; `dice` is a random number.
pub fn pick(view: &HealthView, service: &Service, dice: u64) -> Option<SocketAddr> {
    // What is not known to be healthy is not handed out, though the dataplane may have to try it.
    let healthy = |backend| view.of(service, backend).is_some_and(|health| health.state.serves());
    let candidates: Vec<_> = service
        .backends
        .iter()
        .zip(view.weights(service))
        .filter(|(backend, _)| healthy(backend))
        .map(|(backend, weight)| (backend, u64::from(weight)))
        .collect();
    let total: u64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = dice.checked_rem(total)?;
    for (backend, weight) in candidates {
        if left < weight {
            return Some(SocketAddr::new(backend.address, backend.port(service)));
        }
        left -= weight;
    }
    None
}

/// A bucket of tokens: so many per second, and as many at once.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    /// A full bucket.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            state: Mutex::new((f64::from(per_second), Instant::now())),
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, last) = *state;
        let filled =
            (tokens + now.saturating_duration_since(last).as_secs_f64() * self.per_second).min(self.per_second);
        let taken = filled >= 1.0;
        *state = (if taken { filled - 1.0 } else { filled }, now);
        taken
    }
}

/// What picks are made from.
pub(super) struct Source {
    pub(super) view: tokio::sync::watch::Receiver<Arc<HealthView>>,
    pub(super) desired: tokio::sync::watch::Receiver<Arc<Desired>>,
    pub(super) rate: Rate,
}

/// Serves picks until the listener fails.
pub(super) async fn serve(listener: TcpListener, source: Arc<Source>) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // A client that went away, or no descriptors just now.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&source, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_buf_size(8 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            let _ = timeout(LIFE, connection).await;
            drop(permit);
        });
    }
}

fn answer(source: &Source, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match choose(source, request) {
        Ok(picked) => (StatusCode::OK, serde_json::to_value(picked)),
        Err((status, error)) => (status, serde_json::to_value(crate::api::ErrorBody { error })),
    };
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json");
    if status == StatusCode::TOO_MANY_REQUESTS {
        response = response.header(RETRY_AFTER, "1");
    }
    let body = Bytes::from(body.unwrap_or_default().to_string());
    response.body(Full::new(body)).unwrap_or_default()
}

fn choose(source: &Source, request: &Request<Incoming>) -> Result<Picked, (StatusCode, String)> {
    if request.uri().path() != "/v1/pick" {
        return Err((
            StatusCode::NOT_FOUND,
            "there is only /v1/pick?service=SERVICE here".into(),
        ));
    }
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "ask with GET".into()));
    }
    if !source.rate.take(Instant::now()) {
        return Err((
            StatusCode::TOO_MANY_REQUESTS,
            "too many picks: try again in a second".into(),
        ));
    }
    let address = service_of(request.uri().query().unwrap_or_default()).ok_or((
        StatusCode::BAD_REQUEST,
        "name the service: /v1/pick?service=tcp://10.0.0.100:80".to_owned(),
    ))?;
    let address: ServiceAddress = address
        .parse()
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}")))?;
    let desired = Arc::clone(&source.desired.borrow());
    let service = desired
        .service(address)
        .map_err(|refusal| (StatusCode::NOT_FOUND, refusal.to_string()))?;
    let view = Arc::clone(&source.view.borrow());
    match pick(&view, service, rand::rng().random()) {
        Some(backend) => Ok(Picked {
            service: address,
            address: backend,
        }),
        None => Err((
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no backend of {address} is healthy"),
        )),
    }
}

/// The value of `service` in a query, its percent-encoding undone (RFC 3986, section 2.1).
fn service_of(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("service="))?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use std::collections::BTreeMap;

    use super::*;
    use crate::health::{
        state::State,
        view::{BackendHealth, ServiceHealth},
    };

    #[test]
    fn picks_follow_weights_and_never_name_one_that_is_down() {
        let mut service = Service::new("tcp://10.0.0.100:80".parse().unwrap());
        let mut healths = ServiceHealth::new();
        for (last, weight, state) in [
            (1, 1, State::Up),
            (2, 3, State::Up),
            (3, 100, State::Down),
            (4, 9, State::Unknown),
        ] {
            let mut backend = crate::model::Backend::new(format!("10.0.0.{last}").parse().unwrap());
            backend.weight = weight;
            let health = BackendHealth {
                takes_new: state != State::Down,
                share: 100,
                weight: None,
                state,
            };
            healths.insert((backend.address, 80), health);
            service.backends.push(backend);
        }
        let view = HealthView([(service.address, Arc::new(healths))].into());
        let mut counts = BTreeMap::new();
        for dice in 0..400 {
            *counts
                .entry(pick(&view, &service, dice).map(|picked| picked.to_string()))
                .or_insert(0) += 1;
        }
        assert_eq!(counts[&Some("10.0.0.1:80".to_owned())], 100);
        assert_eq!(counts[&Some("10.0.0.2:80".to_owned())], 300);
        assert!(!counts.contains_key(&Some("10.0.0.3:80".to_owned())));
        assert!(!counts.contains_key(&Some("10.0.0.4:80".to_owned())));
    }

    #[test]
    fn the_rate_is_kept() {
        let rate = Rate::new(10);
        let begin = Instant::now();
        let taken = |at: u64| {
            (0..100)
                .filter(|_| rate.take(begin + Duration::from_millis(at)))
                .count()
        };
        assert_eq!([taken(0), taken(500), taken(10_000)], [10, 5, 10]);
    }

    #[test]
    fn the_service_is_read_from_the_query() {
        assert_eq!(
            service_of("a=b&service=tcp%3A%2F%2F10.0.0.1%3a80").as_deref(),
            Some("tcp://10.0.0.1:80")
        );
        assert_eq!(
            service_of("service=tcp://1.2.3.4:5").as_deref(),
            Some("tcp://1.2.3.4:5")
        );
        assert_eq!(service_of("service=%zz"), None);
        assert_eq!(service_of(""), None);
    }
}
