//! `cargo xtask setup`: what building and testing need, installed where it is missing.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    command::{self, find},
    packages, toolchain,
};

/// What is needed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The programs of the lab and the tests.
    pub programs: bool,
    /// The virtual machine.
    pub vm: bool,
    /// What benches compare with, and how they plot.
    pub benches: bool,
    /// What checks what is depended on.
    pub checks: bool,
}

impl Wanted {
    /// To build.
    pub const BUILDING: Self = Self {
        programs: false,
        vm: false,
        benches: false,
        checks: false,
    };
    /// To build, and to run the lab and the tests.
    pub const TESTING: Self = Self {
        programs: true,
        vm: false,
        benches: false,
        checks: false,
    };
}

/// Installs what is missing of what is `wanted`; says nothing where nothing is.
pub fn ensure(wanted: Wanted) -> Result<()> {
    let mut missing = Vec::new();
    if wanted.programs {
        missing.extend(packages::missing(packages::TESTING));
    }
    if wanted.vm {
        missing.extend(packages::missing(packages::VM));
        if !has_stock_kernel() {
            missing.push(packages::KERNEL);
        }
    }
    if wanted.benches {
        missing.extend(packages::missing(&[packages::PLOTTER]));
        if wanted.programs {
            missing.extend(packages::missing(packages::BENCHES));
        }
    }
    packages::install(&missing)?;
    if wanted.checks && find("cargo-deny").is_none() {
        install_deny()?;
    }
    if toolchain::installed()?.is_none() || !toolchain::has_linker() {
        toolchain::install()?;
        let linker = find("bpf-linker").context("there is no bpf-linker")?;
        let toolchain = toolchain::installed()?.context("there is no compiler")?;
        println!(
            "setup: the XDP program is compiled by {} and linked by {}",
            toolchain.name,
            linker.display()
        );
    }
    Ok(())
}

/// The release of cargo-deny that reads `deny.toml`.
const DENY: &str = "0.20.2";

/// Builds cargo-deny, which no distribution packages.
fn install_deny() -> Result<()> {
    println!("setup: building cargo-deny {DENY} (some minutes)");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "--quiet", "--locked", "cargo-deny", "--version", DENY])
        // An installed tool is not part of a workspace's target directory.
        .env_remove("CARGO_TARGET_DIR")
        .current_dir("/");
    command::output(&mut cargo).context("cargo-deny cannot be built")?;
    Ok(())
}

/// Whether a kernel of Debian's lies in /boot, which `scripts/vm-run` boots.
fn has_stock_kernel() -> bool {
    fs::read_dir("/boot").is_ok_and(|boot| {
        boot.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .any(|name| name.starts_with("vmlinuz-") && name.ends_with("-amd64"))
    })
}
