//! What is done about a reconcile that failed: it is tried again, less and less often, until one succeeds.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep_until};
use tracing::{info, warn};

use lvx_api::ReconcileFailure;

/// How soon after a failure the reconcile is tried again, at first and at last.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long is waited after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let (first, last) = PAUSE;
    let doubled = 2_u32.checked_pow(failures.saturating_sub(1));
    doubled
        .and_then(|times| first.checked_mul(times))
        .map_or(last, |pause| pause.min(last))
}

/// Reconciles that failed since the last one that succeeded.
#[derive(Clone, Debug)]
struct Failing {
    error: String,
    since: Instant,
    failures: u32,
    next: Instant,
}

/// Whether reconciles fail, and when the next is due.
pub(super) struct Retry(watch::Sender<Option<Failing>>);

impl Default for Retry {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Retry {
    /// A reconcile failed: another one is due.
    pub(super) fn failed(&self, error: &dyn fmt::Display) {
        let now = Instant::now();
        self.0.send_modify(|failing| {
            let (since, failures) = failing.as_ref().map_or((now, 1), |it| (it.since, it.failures + 1));
            let pause = pause(failures);
            warn!(%error, failures, "what is desired is not in place; trying again in {pause:?}");
            *failing = Some(Failing {
                error: error.to_string(),
                since,
                failures,
                next: now + pause,
            });
        });
    }

    /// All that is desired is in place.
    pub(super) fn succeeded(&self) {
        if let Some(Failing { failures, .. }) = self.0.send_replace(None) {
            info!(failures, "what is desired is in place again");
        }
    }

    /// Whether the last reconcile failed.
    pub(super) fn is_failing(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until a reconcile is to be tried again; for ever while none fails.
    pub(super) async fn due(&self) {
        let mut failing = self.0.subscribe();
        loop {
            let next = failing.borrow_and_update().as_ref().map(|it| it.next);
            let due = async {
                match next {
                    Some(next) => sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => return,
                // The sender is ours, so that there always is a next value.
                _ = failing.changed() => {}
            }
        }
    }

    /// As users are told.
    pub(super) fn report(&self) -> Option<ReconcileFailure> {
        self.0.borrow().as_ref().map(|failing| ReconcileFailure {
            error: failing.error.clone(),
            since_seconds: failing.since.elapsed().as_secs(),
            failures: failing.failures,
            retry_seconds: failing.next.saturating_duration_since(Instant::now()).as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn pauses_double_from_100_ms_to_30_s() {
        let milliseconds: Vec<u128> = (1..=12).map(|failures| pause(failures).as_millis()).collect();
        let expected = [
            100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000, 30_000,
        ];
        assert_eq!(milliseconds, expected);
        assert_eq!(pause(u32::MAX), PAUSE.1);
    }

    #[tokio::test]
    async fn a_failure_makes_the_next_try_due_until_one_succeeds() {
        let retry = Retry::default();
        assert!(retry.due().now_or_never().is_none());
        retry.failed(&"no room");
        retry.failed(&"still none");
        let told = retry.report().map(|it| (it.error, it.failures));
        assert_eq!(told, Some(("still none".to_owned(), 2)));
        retry.due().await;
        assert!(retry.is_failing());
        retry.succeeded();
        assert!(retry.due().now_or_never().is_none() && retry.report().is_none());
    }
}
