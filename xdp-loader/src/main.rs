//! The binary `lvx`.

fn main() {}
