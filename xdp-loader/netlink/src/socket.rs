//! Asking the kernel: one rtnetlink socket for requests and their answers.

use std::{io, pin::pin, time::Duration};

use futures::{Stream, TryStreamExt as _};
use thiserror::Error;
use tokio::time::timeout;

/// How long the kernel may take to answer one request. It answers within microseconds; the limit only keeps a lost or
/// unreadable answer from stopping the daemon.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Requests under way at once; their answers must fit the socket's receive buffer.
pub(super) const AT_ONCE: usize = 64;

/// Why the kernel's tables could not be read or changed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("cannot open an rtnetlink socket: {0}")]
    Open(#[source] io::Error),
    /// The socket, once open, could not be read.
    #[error("cannot read the kernel's rtnetlink messages: {0}")]
    Read(#[source] io::Error),
    /// The kernel refused the request.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked, as it follows "refused to".
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel's answer did not come or was not understood.
    #[error("no usable answer from the kernel when asked to {what}: {reason}")]
    Answer {
        /// What was asked.
        what: String,
        /// What was wrong with the answer.
        reason: String,
    },
}

impl NetlinkError {
    /// The kernel's error number (`errno`), when it is the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Open(_) | Self::Read(_) | Self::Answer { .. } => None,
        }
    }

    fn from_rtnetlink(what: &str, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused {
                what: what.to_owned(),
                source: message.to_io(),
            },
            other => Self::Answer {
                what: what.to_owned(),
                reason: other.to_string(),
            },
        }
    }
}

/// The kernel's rtnetlink, for requests. Cheap to clone; the socket is closed with the last clone.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: rtnetlink::Handle,
}

impl Kernel {
    /// Opens the socket, in the network namespace of the calling thread, and starts the task that serves it.
    ///
    /// # Errors
    ///
    /// [`NetlinkError::Open`] if the kernel gives no socket.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The connection that requests go over.
    pub const fn requests(&self) -> &rtnetlink::Handle {
        &self.handle
    }
}

/// Collects all answers to one request; `what` names it in errors.
pub(super) async fn answers<T>(
    what: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    let stream = pin!(stream);
    done(what, stream.try_collect()).await
}

/// Waits for one request to be answered; `what` names it in errors.
pub async fn done<T>(
    what: &str,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match timeout(ANSWER_WITHIN, request).await {
        Ok(result) => result.map_err(|error| NetlinkError::from_rtnetlink(what, error)),
        Err(_elapsed) => Err(NetlinkError::Answer {
            what: what.to_owned(),
            reason: format!("none within {} s", ANSWER_WITHIN.as_secs()),
        }),
    }
}
