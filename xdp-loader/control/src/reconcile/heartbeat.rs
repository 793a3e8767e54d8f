//! The reconciler's heartbeat: it beats as long as the reconciler gets on, and systemd's watchdog lives on it.

use std::time::Duration;

use tokio::sync::{Mutex, watch};

/// How often it beats.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// Counts nothing: that there is a new value is what it says.
#[derive(Default)]
pub(super) struct Heartbeat(watch::Sender<()>);

impl Heartbeat {
    /// Beats once it has had what a reconcile works on. A reconcile that hangs has it, and keeps the heart from beating.
    pub(super) async fn beat<T>(&self, tables: &Mutex<T>) {
        drop(tables.lock().await);
        self.0.send_replace(());
    }

    /// Has a new value with each beat.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_reconcile_that_hangs_keeps_the_heart_from_beating() {
        let (heart, tables) = (Heartbeat::default(), Mutex::new(()));
        let mut beats = heart.subscribe();
        let hanging = tables.lock().await;
        assert!(heart.beat(&tables).now_or_never().is_none());
        assert!(beats.changed().now_or_never().is_none());
        drop(hanging);
        heart.beat(&tables).await;
        assert!(beats.changed().now_or_never().is_some());
    }
}
