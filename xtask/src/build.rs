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

/// What measuring needs.
#[derive(Debug)]
pub struct Measuring {
    /// The program `lvx`.
    pub lvx: PathBuf,
    /// The program that measures the XDP program.
    pub bench: PathBuf,
    /// The program that measures `lvx` and others between namespaces.
    pub load: PathBuf,
    /// Where all that is built goes.
    pub target: PathBuf,
}

/// Builds what measuring needs: everything, or `lvx` and the program that measures it alone.
pub fn measuring(everything: bool) -> Result<Measuring> {
    let mut build = cargo();
    build.args(["build", "--release"]);
    if !everything {
        build.args([
            "--package",
            "xdp-loader",
            "--package",
            "lvx-bench",
            "--bin",
            "lvx",
            "--bin",
            "lvx-bench",
        ]);
    }
    command::run(&mut build)?;
    let built = built()?;
    let release = built.lvx.parent().context("lvx is in no directory")?.to_path_buf();
    Ok(Measuring {
        bench: release.join("lvx-bench"),
        load: release.join("lvx-load"),
        target: release.parent().unwrap_or(&release).to_path_buf(),
        lvx: built.lvx,
    })
}

/// Builds the host's crates for release; the build script of `lvx-program` builds the XDP program.
pub fn release() -> Result<Built> {
    command::run(cargo().args(["build", "--release"]))?;
    built()
}

/// Builds of `lvx` with other layouts, for the tests of upgrades: their features, and where they are.
pub fn variants() -> Result<Vec<(&'static str, PathBuf)>> {
    let target = target()?;
    let directory = target.join("variants");
    std::fs::create_dir_all(&directory)?;
    ["other-configuration", "other-flows"]
        .into_iter()
        .map(|feature| {
            // Unoptimised, with the dependencies that the tests are built with anyway; the XDP program is always optimised.
            let build = [
                "build",
                "--package",
                "xdp-loader",
                "--bin",
                "lvx",
                "--features",
                feature,
            ];
            command::run(cargo().args(build))?;
            let variant = directory.join(format!("lvx-{feature}"));
            // Its own file, not one that is linked anew while it runs.
            let _ = std::fs::remove_file(&variant);
            std::fs::copy(target.join("debug/lvx"), &variant)?;
            Ok((feature, variant))
        })
        .collect()
}

/// Where a build for release puts things.
fn built() -> Result<Built> {
    let release = target()?.join("release");
    Ok(Built {
        lvx: release.join("lvx"),
        lab: release.join("lab"),
    })
}

/// Where all that is built goes.
pub fn target() -> Result<PathBuf> {
    let metadata = command::output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str();
    Ok(target
        .context("cargo metadata does not name the target directory")?
        .into())
}
