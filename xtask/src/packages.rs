//! Debian's packages: what is missing is installed by `apt-get`, without starting any service.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Once};

use anyhow::{Context, Result, bail};

use crate::command::{self, find, is_root};

/// A program and Debian's package that has it.
pub type Program = (&'static str, &'static str);

/// What the end-to-end tests and the lab run.
pub const TESTING: &[Program] = &[
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("ping", "iputils-ping"),
    ("openssl", "openssl"),
    ("tcpdump", "tcpdump"),
    ("unbound", "unbound"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// What the tests in a virtual machine run.
pub const VM: &[Program] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("cpio", "cpio"),
];

/// What benches measure with and compare with.
pub const BENCHES: &[Program] = &[
    ("wrk", "wrk"),
    ("haproxy", "haproxy"),
    ("nft", "nftables"),
    ("ipvsadm", "ipvsadm"),
    // Not a program, but as good a sign that the package is there.
    ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
];

/// What makes a PNG of a plot.
pub const PLOTTER: Program = ("rsvg-convert", "librsvg2-bin");

/// The kernel that the virtual machine boots.
pub const KERNEL: &str = "linux-image-amd64";

/// The packages of those `programs` that are not there.
pub fn missing(programs: &[Program]) -> Vec<&'static str> {
    let mut packages: Vec<_> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    packages.dedup();
    packages
}

/// Whether Debian's `package` could be installed here.
pub fn available(package: &str) -> bool {
    update();
    find("apt-cache").is_some()
        && command::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
            .is_ok_and(|shown| shown.contains("Package:"))
}

/// Brings the lists of packages up to date, once. Where that fails, the lists that are there may still do.
fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let updated = apt_get(&["update"]).and_then(|mut apt_get| command::output(&mut apt_get));
        if let Err(error) = updated {
            eprintln!("setup: the lists of packages stay as they are: {error:#}");
        }
    });
}

/// Installs `packages`. No service that comes with them is started, now or at the next boot.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", packages.join(" "));
    update();
    let policy = ServicePolicy::forbid()?;
    let mut install = apt_get(&["install", "-y", "--no-install-recommends"])?;
    command::output(install.args(packages))
        .with_context(|| format!("Debian's {} cannot be had", packages.join(", ")))?;
    drop(policy);
    if packages.contains(&"nginx") && Path::new("/run/systemd/system").exists() {
        command::output(privileged("systemctl")?.args(["disable", "--quiet", "nginx"]))?;
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<Command> {
    if find("apt-get").is_none() {
        bail!("there is no apt-get here: install with this system's package manager (see docs/install.md)");
    }
    let mut command = privileged("env")?;
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"])
        .args(arguments);
    Ok(command)
}

/// A command for `program` as root, by sudo if need be and possible.
fn privileged(program: &str) -> Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!("installing needs root, and there is no sudo: run `cargo xtask setup` as root");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// Forbids packages to start services while it lives, in Debian's own way: a `policy-rc.d` that answers 101
/// (invoke-rc.d(8)). One that is there already stays in force.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn forbid() -> Result<Self> {
        let ours = !Path::new(Self::PATH).exists();
        if ours {
            let file = std::env::temp_dir().join(format!("lvx-policy-{}", std::process::id()));
            fs::write(&file, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
            let installed = command::output(privileged("install")?.args(["-m", "755"]).arg(&file).arg(Self::PATH));
            fs::remove_file(&file)?;
            installed?;
        }
        Ok(Self { ours })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours {
            let removed = privileged("rm").and_then(|mut rm| command::output(rm.arg(Self::PATH)));
            if let Err(error) = removed {
                eprintln!("setup: {} stays behind: {error:#}", Self::PATH);
            }
        }
    }
}
