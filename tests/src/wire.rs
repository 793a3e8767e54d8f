//! What passes on a wire: every frame on an interface, by tcpdump.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Namespace,
    frame::{self, Verdict},
    process::{Running, wait_until},
};

/// Which frames of an interface are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that it receives.
    In,
    /// Those that it sends.
    Out,
    /// All.
    Both,
}

/// A capture in progress.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Running,
    frames: PathBuf,
    errors: PathBuf,
}

impl Capture {
    /// Starts to capture the frames of `interface` that `filter` (in tcpdump's language, empty for all) selects, into
    /// files below `directory` that begin with `name`. Returns when it captures.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        direction: Direction,
        filter: &str,
        directory: &Path,
        name: &str,
    ) -> Result<Self> {
        let frames = directory.join(format!("{name}.pcap"));
        let errors = directory.join(format!("{name}.tcpdump"));
        let mut command = namespace.command("tcpdump");
        command
            // The buffer, of 16 MiB, is divided into slots of the snapshot's length: room for 8000 frames in a burst.
            .args(["-i", interface, "-s", "2000", "-B", "16384", "-U", "-n"])
            .args(["--immediate-mode", "-Z", "root", "-w", "-"]);
        match direction {
            Direction::In => command.args(["-Q", "in"]),
            Direction::Out => command.args(["-Q", "out"]),
            Direction::Both => &mut command,
        };
        if !filter.is_empty() {
            command.arg(filter);
        }
        let mut tcpdump = Running::start(command.stdout(File::create(&frames)?).stderr(File::create(&errors)?))?;
        wait_until("tcpdump listens", Duration::from_secs(10), || {
            let said = fs::read_to_string(&errors)?;
            ensure!(tcpdump.ended()?.is_none(), "tcpdump: {}", said.trim());
            Ok(said.contains("listening on"))
        })?;
        Ok(Self {
            tcpdump,
            frames,
            errors,
        })
    }

    /// The frames so far, while it goes on. The last may be cut short, which is an error.
    pub fn so_far(&self) -> Result<Vec<Vec<u8>>> {
        frames(&fs::read(&self.frames)?)
    }

    /// Ends the capture and returns its frames, from the Ethernet header on, in order.
    pub fn stop(mut self) -> Result<Vec<Vec<u8>>> {
        // Asked to end, tcpdump would leave in the kernel what it has not read yet. It says on this signal what it has read, and
        // what there was (tcpdump(1)), of both directions: where only one is asked for, it has to find no more for a while.
        let (mut read, mut same) = (None, 0);
        while same < 15 {
            self.tcpdump.signal("USR1")?;
            thread::sleep(Duration::from_millis(20));
            let said = fs::read_to_string(&self.errors)?;
            let captured = count(&said, " captured");
            if captured.is_some() && captured == count(&said, " received by filter") {
                break;
            }
            same = if captured == read { same + 1 } else { 0 };
            read = captured;
        }
        self.tcpdump.signal("INT")?;
        self.tcpdump.wait(Duration::from_secs(10))?;
        let said = fs::read_to_string(&self.errors)?;
        ensure!(
            said.contains("\n0 packets dropped by kernel"),
            "tcpdump has lost frames: {}",
            said.trim()
        );
        frames(&fs::read(&self.frames)?)
    }
}

/// The number in the last of the lines in which tcpdump counts packets so: `9 packets captured, 9 packets received by filter`.
fn count(said: &str, what: &str) -> Option<u64> {
    let (before, _) = said.rsplit_once(what)?;
    before.split_whitespace().rev().nth(1)?.parse().ok()
}

/// The frames of a capture file in this machine's byte order
/// (<https://www.tcpdump.org/manpages/pcap-savefile.5.html>).
fn frames(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    let word = |at: usize| -> Result<u32> {
        let bytes = file.get(at..at + 4).context("the capture is cut short")?;
        Ok(u32::from_ne_bytes(bytes.try_into()?))
    };
    ensure!(word(0)? == MAGIC, "not a capture file");
    let mut at = 24;
    let mut frames = Vec::new();
    while at < file.len() {
        let (captured, length) = (word(at + 8)? as usize, word(at + 12)? as usize);
        ensure!(captured == length, "a frame is cut short");
        at += 16;
        let frame = file.get(at..at + length).context("the capture is cut short")?;
        frames.push(frame.to_vec());
        at += length;
    }
    Ok(frames)
}

/// How many checksums were right on a wire.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// TCP segments.
    pub tcp: usize,
    /// UDP datagrams.
    pub udp: usize,
    /// ICMP and ICMPv6 messages.
    pub icmp: usize,
    /// Everything else: ARP, other protocols, fragments.
    pub other: usize,
}

/// Checks every checksum of `frames`; the first wrong one is an error that shows its frame.
pub fn check(frames: &[Vec<u8>]) -> Result<Checked> {
    let mut checked = Checked::default();
    for (number, frame) in frames.iter().enumerate() {
        match frame::check(frame).with_context(|| format!("frame {number}: {frame:02x?}"))? {
            Verdict::Tcp => checked.tcp += 1,
            Verdict::Udp => checked.udp += 1,
            Verdict::Icmp => checked.icmp += 1,
            Verdict::Other => checked.other += 1,
        }
    }
    Ok(checked)
}
