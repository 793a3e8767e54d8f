//! The netlink side of the daemon against the real kernel, in network namespaces of its own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod announcements;
mod lab;
mod links;
mod next_hops;
mod vips;
