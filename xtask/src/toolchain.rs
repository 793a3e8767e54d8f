//! What compiles the XDP program: a Rust compiler with the source of `core`, and bpf-linker built on the same LLVM.
//!
//! Two roads lead there. A nightly of rustup's, always the same one ([`NIGHTLY`]), with the component `rust-src` is the ordinary one. Where it cannot be had,
//! Debian's `rustc-web` does, with `rust-web-src`: rustup then knows it by the name [`DEBIAN`], and the build script of
//! `lvx-program` lets it use unstable features.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{self, cargo_bin, find},
    packages,
};

/// The nightly that the program is compiled by and measured with. `xdp-loader/program/build.rs` looks for it.
const NIGHTLY: &str = "nightly-2026-05-20";

/// The name under which rustup knows Debian's compiler. `xdp-loader/program/build.rs` looks for it.
pub const DEBIAN: &str = "lvx-ebpf";

/// Debian's compiler, its cargo and the source of its library.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The release of bpf-linker that is known to work, and the LLVM releases that it can be built on.
const LINKER: &str = "0.13.0";
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// How long rustup may take, on a slow line too.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// A toolchain that rustup knows.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// Its name for `rustup run`.
    pub name: String,
    root: PathBuf,
}

impl Toolchain {
    /// Whether it is the pinned nightly.
    fn is_pinned(&self) -> bool {
        self.name
            .strip_prefix(NIGHTLY)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Whether the source of `core` lies where `-Z build-std` looks for it.
    fn has_source(&self) -> bool {
        self.root.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
    }

    /// The release of LLVM that its compiler writes bitcode for.
    fn llvm(&self) -> Result<u32> {
        let version = command::output(Command::new(self.root.join("bin/rustc")).arg("-vV"))?;
        version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next())
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("rustc of {} does not say its LLVM version", self.name))
    }
}

/// The toolchain that can compile the XDP program, if one is there.
pub fn installed() -> Result<Option<Toolchain>> {
    let mut usable: Vec<_> = toolchains()?.into_iter().filter(Toolchain::has_source).collect();
    // The build script prefers Debian's where it is.
    usable.sort_by_key(|toolchain| toolchain.name != DEBIAN);
    Ok(usable
        .into_iter()
        .find(|toolchain| toolchain.name == DEBIAN || toolchain.is_pinned()))
}

/// Whether a bpf-linker is there.
pub fn has_linker() -> bool {
    find("bpf-linker").is_some()
}

/// Gets a toolchain and a linker for the XDP program.
pub fn install() -> Result<()> {
    let toolchain = match installed()? {
        Some(toolchain) => toolchain,
        None => match from_rustup() {
            Ok(toolchain) => toolchain,
            Err(refused) => {
                println!("setup: no {NIGHTLY} with rust-src from rustup; taking Debian's compiler");
                from_debian()
                    .with_context(|| format!("no compiler for the XDP program; rustup's: {refused:#}; Debian's"))?
            }
        },
    };
    if !has_linker() {
        install_linker(&toolchain)?;
    }
    Ok(())
}

fn toolchains() -> Result<Vec<Toolchain>> {
    ensure!(
        find("rustup").is_some(),
        "there is no rustup here, which chooses the compiler of the XDP program: install it from https://rustup.rs \
         (or `apt-get install rustup`) with the stable toolchain, then run `cargo xtask setup` again"
    );
    let listed = command::output(Command::new("rustup").args(["toolchain", "list", "-v"]))?;
    // NAME [(active, default)] PATH
    Ok(listed
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(char::is_whitespace)?;
            let root = rest.get(rest.find('/')?..)?;
            Some(Toolchain {
                name: name.to_owned(),
                root: root.into(),
            })
        })
        .collect())
}

fn from_rustup() -> Result<Toolchain> {
    let mut rustup = Command::new("rustup");
    rustup
        .args(["toolchain", "install", NIGHTLY, "--profile", "minimal"])
        .args(["--component", "rust-src", "--no-self-update"]);
    println!("setup: {}", command::line(&rustup));
    command::quietly(rustup, RUSTUP_LIMIT)?;
    let toolchain = installed()?.context("rustup has installed it, and it is not there")?;
    let llvm = toolchain.llvm()?;
    ensure!(
        has_linker() || LINKER_LLVM.contains(&llvm) && llvm_prefix(llvm).is_some(),
        "it needs LLVM {llvm} for bpf-linker, which this system does not have"
    );
    Ok(toolchain)
}

fn from_debian() -> Result<Toolchain> {
    packages::install(&DEBIAN_PACKAGES)?;
    command::output(Command::new("rustup").args(["toolchain", "link", DEBIAN, "/usr"]))?;
    let toolchain = toolchains()?
        .into_iter()
        .find(|toolchain| toolchain.name == DEBIAN)
        .context("rustup does not know it")?;
    ensure!(
        toolchain.has_source(),
        "{} is there, but not the source of its library below {}",
        DEBIAN_PACKAGES[0],
        toolchain.root.display()
    );
    Ok(toolchain)
}

/// Builds bpf-linker on the LLVM that `toolchain` uses.
fn install_linker(toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.llvm()?;
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "{} uses LLVM {llvm}, and bpf-linker {LINKER} can be built on LLVM {} to {} only",
            toolchain.name,
            LINKER_LLVM.start(),
            LINKER_LLVM.end()
        );
    }
    let prefix =
        llvm_prefix(llvm).with_context(|| format!("bpf-linker needs LLVM {llvm}'s libraries (llvm-{llvm}-dev)"))?;
    println!("setup: building bpf-linker {LINKER} on LLVM {llvm} (about a minute)");
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "--quiet", "--locked", "bpf-linker"])
        .args(["--version", LINKER, "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}")])
        // Both: its build script asks for the one, the crate llvm-sys for the other.
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        // An installed tool is not part of a workspace's target directory.
        .env_remove("CARGO_TARGET_DIR")
        .current_dir("/");
    command::output(&mut cargo).context("bpf-linker cannot be built")?;
    ensure!(
        cargo_bin().join("bpf-linker").exists(),
        "bpf-linker was built and is not in {}",
        cargo_bin().display()
    );
    Ok(())
}

/// Where LLVM `release` with its headers is, after installing Debian's package of it if need be and possible.
fn llvm_prefix(release: u32) -> Option<PathBuf> {
    let prefix = Path::new("/usr/lib").join(format!("llvm-{release}"));
    let there = || prefix.join("include/llvm-c/Core.h").exists() && find("g++").is_some();
    if !there() {
        let package = format!("llvm-{release}-dev");
        if !packages::available(&package) {
            return None;
        }
        packages::install(&[&package, "g++"]).ok()?;
    }
    there().then_some(prefix)
}
