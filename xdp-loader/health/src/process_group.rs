//! A program and all that it started, which end together.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// Kills the group when it is dropped, so that a program that is given up leaves nothing behind.
#[derive(Debug)]
pub(super) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group of a child that leads one (`process_group(0)`).
    pub(super) fn of(leader: &Child) -> Self {
        Self(leader.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Leaves what the leader started to itself: the leader was reaped, and its number may be another's soon.
    pub(super) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself, and its number is not used again while the leader is not reaped.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
