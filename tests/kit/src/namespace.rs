//! A network namespace with a name, made and deleted as `ip netns` does: for `ip` scripts, kernel settings, programs,
//! threads and futures inside.
//!
//! Programs enter it with `nsenter --net`, not with `ip netns exec`: the latter mounts a new `/sys`, which hides the
//! BPF file system below it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Once,
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    process::geteuid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    leftovers,
    netns::{DIRECTORY, delete},
    process::{self, Running},
};

/// Settings for [`Namespace::sysctl`] of a host whose IPv6 addresses are static and usable at once. They hold for the
/// interfaces that it gets afterwards.
pub const STATIC_ADDRESSES: [(&str, &str); 3] = [
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// A network namespace; dropping it kills what runs inside and deletes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace for `role`, under a name that no other has, with its loopback up.
    pub fn unique(role: &str) -> Result<Self> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // The tests need not fail for what others left behind.
            if let Err(error) = leftovers::remove() {
                eprintln!("cannot remove what a test that was killed left behind: {error:#}");
            }
        });
        Self::create(&format!("{}-{role}", leftovers::prefix()))
    }

    /// Makes the namespace `name` with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "network namespaces need root: run the tests with `sudo -E cargo test`"
        );
        process::finish(Command::new("ip").args(["netns", "add", name]))
            .with_context(|| format!("cannot make the network namespace {name}"))?;
        let namespace = Self { name: name.to_owned() };
        namespace.run("ip", ["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name under which `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// A command that will run `program` inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs `program` inside to its end and returns its standard output; a failure carries its standard error.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        process::finish(self.command(program).args(arguments))
            .with_context(|| format!("in the namespace {}", self.name))
    }

    /// Starts `program` inside; it is killed when the returned value is dropped.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        Running::start(self.command(program).args(arguments))
    }

    /// Runs the lines of `script` as `ip` commands inside, stopping at the first that fails.
    pub fn ip(&self, script: &str) -> Result<()> {
        self.batch(&["-batch", "-"], script)
    }

    /// Like [`Namespace::ip`], with `ip -6`, which rules and default routes need to be told.
    pub fn ip6(&self, script: &str) -> Result<()> {
        self.batch(&["-6", "-batch", "-"], script)
    }

    fn batch(&self, arguments: &[&str], script: &str) -> Result<()> {
        process::feed(self.command("ip").args(arguments), script.as_bytes())
            .with_context(|| format!("in the namespace {}", self.name))?;
        Ok(())
    }

    /// Calls `work` on a thread that is inside; sockets that it opens stay in the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("cannot open the namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || -> Result<T> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .with_context(|| format!("cannot enter the namespace {}", self.name))
    }

    /// Runs a future to its end inside, on a thread and in a runtime of its own.
    ///
    /// # Panics
    ///
    /// If the thread cannot enter the namespace.
    #[cfg(feature = "tokio")]
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, body: impl FnOnce() -> F + Send) -> T {
        self.inside(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(body())
        })
        .unwrap()
    }

    /// Writes kernel settings inside, each a path below `/proc/sys/net` and its value. A setting that this kernel does
    /// not have is an error.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.inside(|| {
            for (path, value) in settings {
                let file = Path::new("/proc/sys/net").join(path);
                fs::write(&file, value).with_context(|| format!("cannot set {} to {value}", file.display()))?;
            }
            Ok(())
        })?
    }

    /// Sets offloads of an interface inside, as `ethtool -K` takes them: `["tx", "off"]`.
    pub fn offload(&self, interface: &str, settings: &[&str]) -> Result<()> {
        self.run("ethtool", [&["-K", interface], settings].concat())?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("{error:#}");
        }
    }
}
