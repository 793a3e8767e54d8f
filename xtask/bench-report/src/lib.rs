//! The report of a bench, as JSON: `lvx-bench` and `lvx-load` print it, `cargo xtask bench` reads it and keeps it in
//! `target/bench/`.

mod check;
mod digits;
mod report;
mod row;
mod statistics;

pub use check::Check;
pub use digits::{grouped, number};
pub use report::Report;
pub use row::Row;
pub use statistics::{median, range};
