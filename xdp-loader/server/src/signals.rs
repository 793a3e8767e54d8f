//! What the daemon is told by signals.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// What a running daemon is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To read its settings again.
    Reload,
    /// To stop, and why.
    Stop(&'static str),
}

/// SIGHUP, which is caught from the beginning: one that comes while the daemon starts does not end it.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Catches it from now on.
    ///
    /// # Errors
    /// When it cannot be caught.
    pub fn catch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }
}

/// Tells what signals say, for as long as somebody listens.
pub(crate) fn follow(mut hangup: Hangup) -> io::Result<mpsc::Receiver<Told>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, told) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let tell = tokio::select! {
                _ = terminate.recv() => Told::Stop("SIGTERM"),
                _ = interrupt.recv() => Told::Stop("SIGINT"),
                _ = hangup.0.recv() => Told::Reload,
            };
            if sender.send(tell).await.is_err() {
                return;
            }
        }
    });
    Ok(told)
}
