//! Builds the XDP program (`xdp-ebpf`) for the BPF target and hands it to the crate as `$OUT_DIR/lvx-xdp`, and the
//! programs that measure it as `$OUT_DIR/lvx-bench`.
//!
//! The program needs `core` built for its target, so a toolchain with the library's source: a nightly of rustup's with
//! `rust-src`, or a distribution's compiler with its source package, linked into rustup as `lvx-ebpf`. `cargo xtask
//! setup` installs either.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The nightly that `cargo xtask setup` installs.
const NIGHTLY: &str = "nightly-2026-05-20";

/// The rustup name of a linked toolchain that has the source of `core` but is no nightly.
const LINKED: &str = "lvx-ebpf";

fn main() {
    if let Err(error) = build() {
        // One line of ours; cargo adds its own around it.
        println!("cargo::error={error}");
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()?;
    for input in ["xdp-ebpf", "xdp-common", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed=PATH");

    let toolchain = toolchain().ok_or(
        "no Rust toolchain here can build the XDP program (it takes one with the source of `core`): run `cargo xtask setup`",
    )?;
    if Command::new("bpf-linker").arg("--version").output().is_err() {
        return Err("bpf-linker, which links the XDP program, is not installed: run `cargo xtask setup`".into());
    }

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target = out.join("ebpf");
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    let endian = if env::var("CARGO_CFG_TARGET_ENDIAN")? == "big" {
        "bpfeb"
    } else {
        "bpfel"
    };
    let flags = [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        // Line numbers for the verifier's messages.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit arithmetic, jumps and atomics: every kernel since 5.12.
        "-Ctarget-cpu=v3".to_owned(),
    ];
    let mut cargo = Command::new("rustup");
    cargo
        .args(["run", toolchain, "cargo", "build", "--release", "--package", "xdp-ebpf"])
        .args(["--target", &format!("{endian}-unknown-none"), "-Zbuild-std=core"])
        .args(["--features", &layouts()])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Lets a compiler that is no nightly take `-Z` and the features that this target needs.
        .env("RUSTC_BOOTSTRAP", "1");
    for key in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "CARGO",
        "RUSTDOC",
    ] {
        cargo.env_remove(key);
    }
    let output = cargo.output()?;
    if !output.status.success() {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        return Err(
            format!("the XDP program did not build with toolchain {toolchain} (its messages are above)").into(),
        );
    }
    let built = target.join(format!("{endian}-unknown-none/release"));
    for object in ["lvx-xdp", "lvx-bench"] {
        fs::copy(built.join(object), out.join(object))?;
    }
    Ok(())
}

/// The features of this crate that change layouts: the program has the same.
fn layouts() -> String {
    let is_set = |feature: &str| {
        let variable = format!("CARGO_FEATURE_{}", feature.to_uppercase().replace('-', "_"));
        env::var_os(variable).is_some()
    };
    let features = ["other-configuration", "other-flows"];
    features
        .into_iter()
        .filter(|feature| is_set(feature))
        .collect::<Vec<_>>()
        .join(",")
}

/// The toolchain to build with.
fn toolchain() -> Option<&'static str> {
    [LINKED, NIGHTLY].into_iter().find(|name| {
        Command::new("rustup")
            .args(["run", name, "rustc", "--print", "sysroot"])
            .output()
            .ok()
            .filter(|output| output.status.success())
            .is_some_and(|output| {
                let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists()
            })
    })
}
