//! The balancer in its namespace: `lvx run` and the `lvx` commands, as a user would type them.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Lab, Namespace,
    leftovers::BPFFS,
    process::{self, Running, wait_until},
};

/// How long a daemon may take until it answers.
const START: Duration = Duration::from_secs(15);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(20);

/// The `lvx` to test: `LVX_BIN`, which `cargo xtask` sets, or else the release build of this workspace.
pub fn program() -> Result<PathBuf> {
    let path = env::var_os("LVX_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lvx"),
        PathBuf::from,
    );
    path.canonicalize()
        .with_context(|| format!("no lvx at {}: build it with `cargo xtask build`", path.display()))
}

/// A build of `lvx` that differs in its layouts: `other-configuration` or `other-flows`. `cargo xtask test` builds them and
/// names them in `LVX_BIN_OTHER_CONFIGURATION` and `LVX_BIN_OTHER_FLOWS`.
pub fn variant(feature: &str) -> Result<PathBuf> {
    let variable = format!("LVX_BIN_{}", feature.to_uppercase().replace('-', "_"));
    let path = env::var_os(variable).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/variants/lvx-{feature}")),
        PathBuf::from,
    );
    path.canonicalize()
        .with_context(|| format!("no lvx at {}: `cargo xtask test` builds it", path.display()))
}

/// How to start `lvx run`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The interfaces to attach to; empty for all of the lab's balancer.
    pub interfaces: Vec<String>,
    /// `--xdp-mode`, if not the default.
    pub mode: Option<String>,
    /// Further arguments.
    pub further: Vec<String>,
}

/// A daemon, and the commands that speak with it. Dropping it detaches and removes the pins.
#[derive(Debug)]
pub struct Balancer<'lab> {
    namespace: &'lab Namespace,
    program: PathBuf,
    directory: PathBuf,
    pins: PathBuf,
    interfaces: Vec<String>,
    options: Options,
    environment: Vec<(String, OsString)>,
    daemon: Option<Running>,
}

impl<'lab> Balancer<'lab> {
    /// Starts the daemon on all interfaces of the lab's balancer and waits until it answers.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        Self::start_with(lab, Options::default())
    }

    /// Starts the daemon as `options` say and waits until it answers.
    pub fn start_with(lab: &'lab Lab, options: Options) -> Result<Self> {
        let mut balancer = Self::prepare(lab, options)?;
        balancer.run()?;
        Ok(balancer)
    }

    /// Everything but the start: for commands without a daemon, and for daemons that are to refuse to start.
    pub fn prepare(lab: &'lab Lab, options: Options) -> Result<Self> {
        mount_bpffs()?;
        // Each with a state of its own.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = lab.directory().join(format!("lvx{number}"));
        fs::create_dir(&directory)?;
        let interfaces = if options.interfaces.is_empty() {
            lab.arms.interfaces().iter().map(|&i| i.into()).collect()
        } else {
            options.interfaces.clone()
        };
        Ok(Self {
            namespace: &lab.balancer,
            program: program()?,
            directory,
            pins: Path::new(BPFFS).join(&lab.id),
            interfaces,
            options,
            environment: Vec::new(),
            daemon: None,
        })
    }

    /// The next daemon is another build of `lvx`.
    pub fn upgrade(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The next daemon is started with this `--xdp-mode`.
    pub fn set_mode(&mut self, mode: &str) {
        self.options.mode = Some(mode.to_owned());
    }

    /// The next daemon is started with these further arguments.
    pub fn reconfigure(&mut self, further: Vec<String>) {
        self.options.further = further;
    }

    /// The next daemons have this in their environment.
    pub fn set_environment(&mut self, name: &str, value: &OsStr) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the daemon, again too, and waits until it answers.
    pub fn run(&mut self) -> Result<()> {
        self.run_as(&mut self.run_command())
    }

    /// Starts the daemon by this command, which becomes [`Self::run_command`], and waits until it answers.
    pub fn run_as(&mut self, command: &mut Command) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        command.stdout(log.try_clone()?).stderr(log);
        let mut daemon = Running::start(command)?;
        wait_until("lvx answers", START, || {
            ensure!(daemon.ended()?.is_none(), "lvx run has ended:\n{}", self.log());
            Ok(self.output(["status"])?.status.success())
        })
        .with_context(|| format!("its log:\n{}", self.log()))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// `lvx run` with this balancer's paths and interfaces, not yet started.
    pub fn run_command(&self) -> Command {
        let mut command = self.namespace.command(&self.program);
        command
            .arg("run")
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(self.state_directory())
            .arg("--pin-dir")
            .arg(&self.pins);
        for interface in &self.interfaces {
            command.arg("--interface").arg(interface);
        }
        if let Some(mode) = &self.options.mode {
            command.args(["--xdp-mode", mode]);
        }
        command.args(&self.options.further);
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a daemon that is to refuse to, and returns what it said.
    pub fn run_in_vain(&self, command: &mut Command) -> Result<Output> {
        process::output_within(command, COMMAND)
    }

    /// An `lvx` command for this daemon, not yet started.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.namespace.command(&self.program);
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .env("NO_COLOR", "1");
        command
    }

    /// Runs an `lvx` command, whatever its exit status.
    pub fn output<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        process::output_within(&mut self.command(arguments), COMMAND)
    }

    /// Runs an `lvx` command that must succeed and returns what it prints.
    pub fn lvx<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        process::finish(&mut self.command(arguments)).with_context(|| format!("the daemon's log:\n{}", self.log()))
    }

    /// Runs an `lvx` command with `-o json` and returns what it prints.
    pub fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let printed = self.lvx(arguments.into_iter().chain(["-o", "json"]))?;
        serde_json::from_str(&printed).with_context(|| format!("not JSON: {printed}"))
    }

    /// Adds a service with the given backends.
    pub fn serve<'a>(
        &self,
        service: &str,
        forward: &str,
        scheduler: &str,
        backends: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        self.lvx([
            "service",
            "add",
            service,
            "--forward",
            forward,
            "--scheduler",
            scheduler,
        ])?;
        for backend in backends {
            self.lvx(["backend", "add", service, backend])?;
        }
        Ok(())
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    /// Ends the daemon with SIGTERM and waits until it has ended well.
    pub fn terminate(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.signal("TERM")?;
        let status = daemon.wait(Duration::from_secs(10))?;
        ensure!(status.success(), "lvx run ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Waits until the daemon has ended by itself.
    pub fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.daemon.take().context("no daemon runs")?.wait(limit)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Running::id)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("lvx.sock")
    }

    /// Where the daemon keeps the desired state.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Where the daemon pins programs, links and maps.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The `lvx` program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the daemons of this balancer have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// `lvx detach`, which needs the pins when no daemon runs.
    pub fn detach(&self) -> Result<String> {
        let mut command = self.command(["detach"]);
        command.arg("--pin-dir").arg(&self.pins);
        command.arg("--state-dir").arg(self.state_directory());
        process::finish(&mut command)
    }
}

impl Drop for Balancer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of lvx:\n{}", self.log());
        }
        if self.pins.exists()
            && let Err(error) = self.detach()
            && !std::thread::panicking()
        {
            eprintln!("lab: {error:#}");
        }
        self.daemon = None;
        if self.pins.exists()
            && let Err(error) = fs::remove_dir_all(&self.pins)
        {
            eprintln!("lab: cannot remove {}: {error}", self.pins.display());
        }
    }
}

/// Mounts the BPF file system if it is not.
pub fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounted = mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS));
    if !mounted {
        process::finish(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
    }
    Ok(())
}
