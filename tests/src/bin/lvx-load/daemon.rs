//! `lvx run` in a namespace, and its control API as a program speaks it: without a process for each question.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lvx_tests::{
    Namespace,
    balancer::mount_bpffs,
    leftovers::BPFFS,
    process::{self, Running},
};
use serde_json::Value;
use tempfile::TempDir;

/// How long a daemon may take until it answers; emulated machines are slow.
const START: Duration = Duration::from_secs(120);

/// Where it serves metrics, in its namespace.
pub const METRICS: &str = "127.0.0.1:9181";

/// A daemon. Dropping it detaches.
pub struct Daemon<'a> {
    namespace: &'a Namespace,
    lvx: PathBuf,
    interfaces: Vec<String>,
    directory: TempDir,
    pins: PathBuf,
    running: Option<Running>,
}

impl<'a> Daemon<'a> {
    /// A daemon for these interfaces of a namespace, not yet started. The `id` begins with `lvx-PID-`, this process's.
    pub fn new(namespace: &'a Namespace, lvx: &Path, id: &str, interfaces: &[&str]) -> Result<Self> {
        mount_bpffs()?;
        Ok(Self {
            namespace,
            lvx: lvx
                .canonicalize()
                .with_context(|| format!("no lvx at {}", lvx.display()))?,
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            directory: tempfile::Builder::new().prefix(&format!("{id}-")).tempdir()?,
            pins: Path::new(BPFFS).join(id),
            running: None,
        })
    }

    /// Starts it, again too: how long it took until it answered.
    pub fn start(&mut self) -> Result<Duration> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.namespace.command(&self.lvx);
        command.arg("run").arg("--socket").arg(self.socket());
        command.arg("--state-dir").arg(self.path("state"));
        command.arg("--pin-dir").arg(&self.pins);
        command.args(["--metrics", METRICS]);
        for interface in &self.interfaces {
            command.arg("--interface").arg(interface);
        }
        command.stdout(log.try_clone()?).stderr(log);
        let begun = Instant::now();
        let mut running = Running::start(&mut command)?;
        while self.get("/v1/status").is_err() {
            ensure!(running.ended()?.is_none(), "lvx run has ended:\n{}", self.log());
            ensure!(begun.elapsed() < START, "lvx does not answer:\n{}", self.log());
            thread::sleep(Duration::from_millis(1));
        }
        let took = begun.elapsed();
        self.running = Some(running);
        Ok(took)
    }

    /// Ends it with SIGTERM: the packets go on.
    pub fn stop(&mut self) -> Result<()> {
        let mut running = self.running.take().context("no daemon runs")?;
        running.signal("TERM")?;
        running.wait(Duration::from_secs(30))?;
        Ok(())
    }

    /// Takes everything down but the desired state.
    pub fn detach(&mut self) -> Result<()> {
        self.running = None;
        let mut command = self.command(&["detach"]);
        command.arg("--pin-dir").arg(&self.pins);
        command.arg("--state-dir").arg(self.path("state"));
        process::finish(&mut command)?;
        Ok(())
    }

    /// An `lvx` command to it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(&self.lvx);
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// Runs an `lvx` command: how long it took.
    pub fn lvx(&self, arguments: &[&str]) -> Result<Duration> {
        let mut command = self.command(arguments);
        let begun = Instant::now();
        process::finish(&mut command).with_context(|| format!("the daemon's log:\n{}", self.log()))?;
        Ok(begun.elapsed())
    }

    /// Asks its API.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request("GET", path, None)
    }

    /// A request to its API.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(self.socket())?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: lvx\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the daemon hung up")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("{method} {path}: {status} {body}");
        }
        serde_json::from_str(body).with_context(|| format!("{method} {path}: not JSON: {body}"))
    }

    /// Waits until all backends of all services get connections.
    pub fn wait_until_up(&self) -> Result<()> {
        process::wait_until("all backends are up", START, || {
            let status = self.get("/v1/status")?;
            let services = status["services"].as_array().context("no services in the status")?;
            let mut backends = services
                .iter()
                .flat_map(|service| service["backends"].as_array().into_iter().flatten());
            Ok(backends.all(|backend| backend["state"] == "up"))
        })
        .with_context(|| format!("the daemon's log:\n{}", self.log()))
    }

    /// Its memory, MB: all that is resident, and what of it is its own (anonymous).
    pub fn memory(&self) -> Result<(f64, f64)> {
        let pid = self.running.as_ref().context("no daemon runs")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(kilobytes.with_context(|| format!("no {name}"))?.parse::<f64>()? * 1024.0 / 1e6)
        };
        Ok((field("VmRSS")?, field("RssAnon")?))
    }

    /// A file of this daemon's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn socket(&self) -> PathBuf {
        self.path("lvx.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.path("log")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.pins.exists()
            && let Err(error) = self.detach()
        {
            eprintln!("lvx-load: {error:#}");
        }
    }
}
