//! Which connections of a listener are idle, and since when relative to each other: where there is no room, the one that is
//! idle longest goes.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// The idle connections, in the order in which they became idle.
#[derive(Debug, Default)]
pub(super) struct Idle(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    connections: BTreeMap<u64, Arc<Notify>>,
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection that is idle longest, if any is.
    pub(super) fn close_longest(&self) {
        if let Some((_, close)) = self.lock().connections.pop_first() {
            close.notify_one();
        }
    }
}

/// A connection; idle but while it has a [`Busy`].
#[derive(Debug)]
pub(super) struct Connection {
    idle: Arc<Idle>,
    close: Arc<Notify>,
    /// Its place among the idle ones.
    place: Mutex<Option<u64>>,
}

impl Connection {
    /// One that has just come.
    pub(super) fn new(idle: &Arc<Idle>) -> Arc<Self> {
        let connection = Arc::new(Self {
            idle: Arc::clone(idle),
            close: Arc::default(),
            place: Mutex::default(),
        });
        connection.wait();
        connection
    }

    /// Waits until it is to be closed, to make room.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    /// A request has come.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.leave();
        Busy(Arc::clone(self))
    }

    /// It is idle from now on.
    fn wait(&self) {
        let mut waiting = self.idle.lock();
        waiting.last += 1;
        let place = waiting.last;
        waiting.connections.insert(place, Arc::clone(&self.close));
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// It is not idle any more.
    fn leave(&self) {
        let mut waiting = self.idle.lock();
        if let Some(place) = self.place.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waiting.connections.remove(&place);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// The body of an answer: its connection is busy until it is sent.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _busy: Busy,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
