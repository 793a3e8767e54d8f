//! systemd's watchdog: fed with the reconciler's heartbeat and nothing else, so that a reconciler that hangs has the daemon
//! started again.

use tokio::sync::watch;

/// Calls `tell` with each beat, for as long as there are any to come.
pub(crate) async fn feed(mut heartbeat: watch::Receiver<()>, tell: impl Fn()) {
    while heartbeat.changed().await.is_ok() {
        tell();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_watchdog_is_fed_with_each_beat_and_not_without() {
        let heart = watch::Sender::new(());
        let (sender, mut told) = mpsc::unbounded_channel();
        tokio::spawn(feed(heart.subscribe(), move || assert!(sender.send(()).is_ok())));
        for _ in 0..3 {
            heart.send_replace(());
            assert_eq!(told.recv().await, Some(()));
        }
        tokio::task::yield_now().await;
        assert!(told.recv().now_or_never().is_none());
    }
}
