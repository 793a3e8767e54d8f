//! `cargo xtask check`: form, lints, documentation, and what is depended on.

use anyhow::Result;

use crate::{
    command::{self, cargo},
    setup,
};

/// `xdp-ebpf` compiles for the BPF target only.
const HOSTS: [&str; 3] = ["--workspace", "--exclude", "xdp-ebpf"];

/// Checks all that is no test.
pub fn check() -> Result<()> {
    setup::ensure(setup::Wanted {
        checks: true,
        ..setup::Wanted::BUILDING
    })?;
    command::run(cargo().args(["fmt", "--all", "--check"]))?;
    command::run(
        cargo()
            .arg("clippy")
            .args(HOSTS)
            .args(["--all-targets", "--", "-D", "warnings"]),
    )?;
    command::run(
        cargo()
            .arg("doc")
            .args(HOSTS)
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    let what = ["check", "licenses", "bans", "sources"];
    command::run(cargo().args(["deny", "--log-level", "error"]).args(what))
}
