//! `cargo xtask build`: everything for release.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{self, cargo};

/// What a build made.
#[derive(Debug)]
pub struct Built {
    /// The program `lvx`.
    pub lvx: PathBuf,
    /// The program that builds the lab.
    pub lab: PathBuf,
}

/// Builds the host's crates for release; `xdp-loader`'s build script builds the XDP program.
pub fn release() -> Result<Built> {
    command::run(cargo().args(["build", "--release"]))?;
    let metadata = command::output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata does not name the target directory")?;
    let release = PathBuf::from(target).join("release");
    Ok(Built {
        lvx: release.join("lvx"),
        lab: release.join("lab"),
    })
}
