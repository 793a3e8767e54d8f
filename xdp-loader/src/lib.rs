//! LVX's daemon and its parts: what is desired, where it is kept, how it is changed and how it reaches the kernel.

pub mod control;
pub mod diff;
pub mod document;
pub mod located;
pub mod model;
#[cfg(test)]
mod recording;
pub mod report;
pub mod store;
