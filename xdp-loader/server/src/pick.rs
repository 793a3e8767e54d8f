//! `GET /v1/pick?service=...`: one healthy backend's address, by weight and load, for clients that connect directly.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::get,
};
use lvx_api::Picked;
use lvx_model::{Desired, Service, ServiceAddress, health::HealthView};
use rand::Rng as _;
use serde::Deserialize;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    error::{ApiError, Params},
    listener::{self, Limits},
};

/// What clients may take.
const LIMITS: Limits = Limits {
    connections: 1_024,
    header_bytes: 8 * 1024,
    header_time: Duration::from_secs(5),
    life: Duration::from_secs(60),
};

/// Why picks cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve picks on {address}: {source}; choose another address for `pick` under [health]")]
pub struct PickError {
    /// The address of the settings.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// Listens for those who want to be told a backend.
///
/// # Errors
/// When the address is not this node's or is taken.
pub fn listen(address: SocketAddr) -> Result<TcpListener, PickError> {
    listener::bind(address).map_err(|source| PickError { address, source })
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
pub struct Rate(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    /// When it had that many.
    at: Instant,
}

impl Rate {
    /// A full bucket.
    pub fn new(per_second: u32) -> Self {
        Self(Mutex::new(Bucket {
            per_second: f64::from(per_second),
            tokens: f64::from(per_second),
            at: Instant::now(),
        }))
    }

    /// From now on so many per second.
    pub fn set(&self, per_second: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).per_second = f64::from(per_second);
    }

    /// Takes a token, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        let filled = (bucket.tokens + elapsed * bucket.per_second).min(bucket.per_second);
        let taken = filled >= 1.0;
        bucket.tokens = if taken { filled - 1.0 } else { filled };
        bucket.at = now;
        taken
    }
}

/// What picks are made from.
pub struct Source {
    /// How backends are.
    pub view: watch::Receiver<Arc<HealthView>>,
    /// Which there are.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// How many may be had.
    pub rate: Arc<Rate>,
}

/// Serves picks until `stop` ends.
pub async fn serve(listener: TcpListener, source: Source, stop: impl Future<Output = ()>) {
    listener::serve(listener, router(source), LIMITS, stop).await;
}

fn router(source: Source) -> Router {
    let elsewhere = async || ApiError::new(StatusCode::NOT_FOUND, "there is only /v1/pick?service=SERVICE here");
    let otherwise = async || ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "ask with GET");
    Router::new()
        .route("/v1/pick", get(answer).fallback(otherwise))
        .fallback(elsewhere)
        .with_state(Arc::new(source))
}

/// The query of a pick.
#[derive(Debug, Deserialize)]
struct Query {
    service: Option<String>,
}

async fn answer(State(source): State<Arc<Source>>, Params(query): Params<Query>) -> Response {
    if !source.rate.take(Instant::now()) {
        let refused = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many picks: try again in a second");
        return ([(RETRY_AFTER, "1")], refused).into_response();
    }
    choose(&source, query).map(Json).into_response()
}

fn choose(source: &Source, query: Query) -> Result<Picked, ApiError> {
    let named = query.service.ok_or_else(|| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "name the service: /v1/pick?service=tcp://10.0.0.100:80",
        )
    })?;
    let address: ServiceAddress = named.parse()?;
    let desired = Arc::clone(&source.desired.borrow());
    let view = Arc::clone(&source.view.borrow());
    let picked = pick(&view, desired.service(address)?, rand::rng().random());
    let address_of_backend = picked.ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("no backend of {address} is healthy"),
        )
    })?;
    Ok(Picked {
        service: address,
        address: address_of_backend,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use std::collections::BTreeMap;

    use super::*;
    use lvx_model::health::{BackendHealth, ServiceHealth, State};

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
            let mut backend = lvx_model::Backend::new(format!("10.0.0.{last}").parse().unwrap());
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
}
