//! What the packet path runs on here. Its tables are in [`crate::maps`], all else in [`crate::platform`].

/// The kernel.
#[derive(Clone, Copy)]
pub struct Kernel;
