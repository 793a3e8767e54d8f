//! What the client does: requests by curl, downloads by curl, streams by iperf3.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Namespace,
    process::{Running, wait_until},
};

/// How often each backend answered, by its name.
pub type Answers = BTreeMap<String, usize>;

/// Sends `count` requests to `host` (`10.0.0.100`, `[fd00::100]`, with `:port` if it is not 80) by curl, one after the
/// other, each over a connection of its own. It is an error if any fails.
pub fn requests(client: &Namespace, host: &str, count: usize) -> Result<Answers> {
    let url = format!("http://{host}/?[1-{count}]");
    // One curl for all of them; nginx closes each connection when asked to.
    let bodies = client.run(
        "curl",
        [
            "--silent",
            "--show-error",
            "--fail",
            "--fail-early",
            "--connect-timeout",
            "5",
            "--max-time",
            "10",
            "--header",
            "Connection: close",
            &url,
        ],
    )?;
    let mut answers = Answers::new();
    for name in bodies.lines() {
        *answers.entry(name.to_owned()).or_default() += 1;
    }
    let answered: usize = answers.values().sum();
    ensure!(
        answered == count,
        "{answered} of {count} requests to {host} were answered"
    );
    Ok(answers)
}

/// A download in progress.
#[derive(Debug)]
pub struct Download {
    curl: Running,
    body: PathBuf,
    header: PathBuf,
    errors: PathBuf,
}

impl Download {
    /// Starts to download `url` into files below `directory` that begin with `name`.
    pub fn start(client: &Namespace, url: &str, directory: &Path, name: &str) -> Result<Self> {
        let [body, header, errors] =
            ["body", "header", "errors"].map(|suffix| directory.join(format!("{name}.{suffix}")));
        let curl = Running::start(
            client
                .command("curl")
                .args(["--silent", "--show-error", "--fail", "--no-buffer"])
                .args(["--connect-timeout", "5", "--max-time", "60"])
                .arg("--output")
                .arg(&body)
                .arg("--dump-header")
                .arg(&header)
                .arg(url)
                .stdout(Stdio::null())
                .stderr(fs::File::create(&errors)?),
        )?;
        Ok(Self {
            curl,
            body,
            header,
            errors,
        })
    }

    /// Waits for the first bytes and returns the name of the backend that sends them.
    pub fn backend(&self) -> Result<String> {
        let mut name = None;
        wait_until("a download begins", Duration::from_secs(10), || {
            let header = fs::read_to_string(&self.header).unwrap_or_default();
            name = header
                .lines()
                .find_map(|line| line.strip_prefix("X-Backend: "))
                .map(|name| name.trim().to_owned());
            Ok(name.is_some())
        })?;
        name.context("the answer has no header X-Backend")
    }

    /// Waits for the end and returns what arrived.
    pub fn finish(mut self, limit: Duration) -> Result<Vec<u8>> {
        let status = self.curl.wait(limit)?;
        if !status.success() {
            bail!(
                "download failed ({status}): {}",
                fs::read_to_string(&self.errors)?.trim()
            );
        }
        Ok(fs::read(&self.body)?)
    }
}

/// Downloads `url` and returns the bytes.
pub fn download(client: &Namespace, url: &str, directory: &Path, name: &str) -> Result<Vec<u8>> {
    Download::start(client, url, directory, name)?.finish(Duration::from_secs(60))
}

/// An iperf3 server on port 5201 of `address`, an address that the backend has (its own, or a VIP on its loopback).
pub fn iperf_server(backend: &Namespace, address: &str) -> Result<Running> {
    let server = Running::start(
        backend
            .command("iperf3")
            .args(["--server", "--bind", address])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    wait_until("iperf3 listens", Duration::from_secs(10), || {
        let listening = backend.run("ss", ["--no-header", "--listening", "--tcp", "sport", "=", ":5201"])?;
        Ok(!listening.trim().is_empty())
    })?;
    Ok(server)
}

/// A UDP stream in progress.
#[derive(Debug)]
pub struct Stream {
    iperf: Running,
    report: PathBuf,
}

/// What became of a UDP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamResult {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the server did not get.
    pub lost: u64,
}

impl Stream {
    /// Starts to send UDP to port 5201 of `address` for `seconds`, 520 datagrams a second: few enough that the
    /// server's socket (room for some 90) outlasts its being kept waiting on a busy machine, so that a loss is a loss.
    pub fn start(client: &Namespace, address: &str, seconds: u32, directory: &Path) -> Result<Self> {
        let report = directory.join("iperf3.json");
        let iperf = Running::start(
            client
                .command("iperf3")
                .args(["--client", address, "--udp", "--bitrate", "5M"])
                .args(["--length", "1200", "--json", "--time", &seconds.to_string()])
                .stdout(fs::File::create(&report)?)
                .stderr(Stdio::null()),
        )?;
        Ok(Self { iperf, report })
    }

    /// Waits for the end.
    pub fn finish(mut self, limit: Duration) -> Result<StreamResult> {
        let status = self.iperf.wait(limit)?;
        let report = fs::read_to_string(&self.report)?;
        let report: Value = serde_json::from_str(&report).context("iperf3 has no report")?;
        ensure!(
            status.success(),
            "iperf3 failed: {}",
            report["error"].as_str().unwrap_or("no reason given")
        );
        let sum = &report["end"]["sum"];
        let field = |name: &str| {
            sum[name]
                .as_u64()
                .with_context(|| format!("iperf3's report has no end.sum.{name}: {sum}"))
        };
        Ok(StreamResult {
            sent: field("packets")?,
            lost: field("lost_packets")?,
        })
    }
}
