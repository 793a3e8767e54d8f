//! `lvx run`, and what the kernel says that it takes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, id},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{run, site::Site};

/// Where the dataplane is pinned.
const BPFFS: &str = "/sys/fs/bpf";
/// How long the daemon may take until it answers, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// CPU time, in percent of one core.
    pub(super) cpu_percent: f64,
    /// Resident memory, in MB.
    pub(super) resident_mb: f64,
}

/// A daemon, detached when dropped.
pub(super) struct Daemon<'site> {
    site: &'site Site,
    lvx: PathBuf,
    directory: PathBuf,
    pins: PathBuf,
    child: Child,
}

impl<'site> Daemon<'site> {
    /// Starts it in the balancer's namespace and waits until it answers.
    pub(super) fn start(site: &'site Site, lvx: &Path) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
            run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
        }
        let name = format!("lvx-bench-{}", id());
        let (path, pins) = (std::env::temp_dir().join(&name), Path::new(BPFFS).join(&name));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let log = fs::File::create(path.join("log"))?;
        let child = site
            .command(lvx)
            .args(["run", "--interface", "eth0"])
            .arg("--state-dir")
            .arg(path.join("state"))
            .arg("--socket")
            .arg(path.join("lvx.sock"))
            .arg("--pin-dir")
            .arg(&pins)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", lvx.display()))?;
        let daemon = Self {
            site,
            lvx: lvx.to_owned(),
            directory: path,
            pins,
            child,
        };
        let begin = Instant::now();
        while let Err(error) = daemon.lvx(&["status"]) {
            if begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(daemon.directory.join("log")).unwrap_or_default();
                bail!("lvx does not answer: {error:#}\n{log}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    /// Runs a command that speaks with it: what it prints.
    fn lvx(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.site.command(&self.lvx);
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.directory.join("lvx.sock"));
        run(&mut command)
    }

    /// Makes this the configuration.
    pub(super) fn apply(&self, services: &str) -> Result<()> {
        let path = self.directory.join("services.toml");
        fs::write(&path, services)?;
        self.lvx(&["apply", path.to_str().context("a path in UTF-8")?])?;
        Ok(())
    }

    /// The backends that are up.
    pub(super) fn backends_up(&self) -> Result<u64> {
        let status: Value = serde_json::from_str(&self.lvx(&["status", "-o", "json"])?)?;
        let services = status["services"].as_array().context("no services")?;
        let backends = services
            .iter()
            .flat_map(|service| service["backends"].as_array().into_iter().flatten());
        Ok(backends.filter(|backend| backend["state"] == "up").count() as u64)
    }

    /// CPU time so far, the user's and the system's.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The program's name, in brackets, may have spaces. After it: state, and utime and stime as 12th and 13th.
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(
            ticks * 1_000 / rustix::param::clock_ticks_per_second(),
        ))
    }

    /// Resident memory now, in MB.
    pub(super) fn resident_mb(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line
            .and_then(|line| line.split_whitespace().nth(1))
            .context("no VmRSS")?;
        Ok(kib.parse::<f64>()? * 1_024.0 / 1e6)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // `lvx detach` stops the daemon first.
        let mut detach = self.site.command(&self.lvx);
        detach
            .arg("detach")
            .arg("--socket")
            .arg(self.directory.join("lvx.sock"))
            .arg("--pin-dir")
            .arg(&self.pins)
            .arg("--state-dir")
            .arg(self.directory.join("state"));
        if let Err(error) = run(&mut detach) {
            eprintln!("lvx-bench: {error:#}");
        }
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begin.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(20));
        }
        // What is in the way is told when it is in the way of the next.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
