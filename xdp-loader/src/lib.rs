//! LVX's daemon as a library: everything that the binary `lvx` is made of.

pub mod netlink;
