//! How a daemon ends that ends well.

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// To stop: the dataplane goes on.
    Stopped,
    /// To detach: there is no dataplane any more.
    Detached,
}
