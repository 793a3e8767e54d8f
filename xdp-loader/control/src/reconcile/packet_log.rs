//! What the packet path logs: rare things, at most one a second.

use std::io;

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// The packet path's messages.
pub(super) type PacketLog = AsyncFd<EbpfLogger<&'static dyn log::Log>>;

/// Has it be read when there is something.
pub(super) fn open(logger: EbpfLogger<&'static dyn log::Log>) -> io::Result<PacketLog> {
    // SAFETY: the logger owns its descriptor, and is owned by what is returned.
    Ok(unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?)
}

/// Passes it on to the daemon's log.
pub(super) async fn follow(mut logger: PacketLog) {
    while let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
