//! The path of a frame: from a source through a balancer into a sink, each a network namespace of its own, all on the
//! CPU that sends.
//!
//! ```text
//! source s0 --> eth0 balancer eth1 --> d0 sink
//! ```

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lvx_tests::{
    Namespace,
    process::{Running, wait_until},
};
use serde_json::Value;

use crate::{
    frames::{Frames, Generator, PORT},
    pktgen,
};

/// The balancer's addresses towards the source and towards the sink.
const BALANCER: [&str; 2] = ["10.0.0.2", "10.0.1.1"];
/// The network that all clients are in.
const CLIENTS: &str = "172.16.0.0/12";
/// The sink's address.
pub const SINK: &str = "10.0.1.2";
/// How often frames are sent until they are received one by one, and how long the kernel rests in between.
const ATTEMPTS: u32 = 20;
const REST: Duration = Duration::from_millis(100);
/// How long a measuring program may take to be attached.
const ATTACH: Duration = Duration::from_secs(60);

/// Three namespaces in a row.
pub struct Passage {
    // Before the namespaces: fields are dropped in this order.
    held: Vec<Held>,
    source: Namespace,
    /// The one in the middle.
    pub balancer: Namespace,
    sink: Namespace,
    lvx_bench: PathBuf,
    directory: PathBuf,
    macs: Macs,
}

/// The Ethernet addresses of the interfaces.
struct Macs {
    eth0: String,
    eth1: String,
    d0: String,
}

/// What became of frames.
pub struct Sent {
    /// What a frame cost, ns.
    pub cost: f64,
    /// Frames that did not arrive.
    pub lost: u64,
}

impl Passage {
    /// Makes the namespaces, whose names begin with `id`, and puts a program that drops everything into the sink.
    pub fn new(id: &str, lvx_bench: &Path, directory: &Path) -> Result<Self> {
        let [source, balancer, sink] = ["src", "lb", "dst"].map(|end| Namespace::create(&format!("{id}-{end}")));
        let (source, balancer, sink) = (source?, balancer?, sink?);
        for namespace in [&source, &balancer, &sink] {
            namespace.sysctl(&[
                // No frame but ours.
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
            ])?;
        }
        balancer.sysctl(&[("ipv4/ip_forward", "1")])?;
        balancer.ip(&format!(
            "link add eth0 type veth peer name s0 netns {}\n\
             link add eth1 type veth peer name d0 netns {}\n\
             addr add {}/24 dev eth0\n\
             addr add {}/24 dev eth1\n\
             link set eth0 up\n\
             link set eth1 up\n",
            source.name(),
            sink.name(),
            BALANCER[0],
            BALANCER[1],
        ))?;
        source.ip("link set s0 up\n")?;
        sink.ip(&format!("addr add {SINK}/24 dev d0\nlink set d0 up\n"))?;
        // What is redirected into a virtual interface needs NAPI at the other end, which receive merging brings.
        balancer.offload("eth0", &["gro", "on"])?;
        let macs = Macs {
            eth0: address(&balancer, "eth0")?,
            eth1: address(&balancer, "eth1")?,
            d0: address(&sink, "d0")?,
        };
        balancer.ip(&format!(
            "neigh add {SINK} lladdr {} dev eth1 nud permanent\n\
             neigh add 10.0.0.1 lladdr {} dev eth0 nud permanent\n\
             route add {} via 10.0.0.1\n",
            macs.d0,
            address(&source, "s0")?,
            CLIENTS,
        ))?;
        let mut passage = Self {
            held: Vec::new(),
            source,
            balancer,
            sink,
            lvx_bench: lvx_bench
                .canonicalize()
                .with_context(|| format!("no lvx-bench at {}", lvx_bench.display()))?,
            directory: directory.to_owned(),
            macs,
        };
        let held = passage.hold(&passage.sink, &["sink", "--interface", "d0"])?;
        passage.held.push(held);
        Ok(passage)
    }

    /// Lets the balancer drop what arrives.
    pub fn drop_on_arrival(&mut self) -> Result<()> {
        let held = self.hold(&self.balancer, &["sink", "--interface", "eth0"])?;
        self.held.push(held);
        Ok(())
    }

    /// Lets the balancer write two MACs and redirect.
    pub fn two_macs(&mut self) -> Result<()> {
        let arguments = [
            "two-macs",
            "--interface",
            "eth0",
            "--out",
            "eth1",
            "--source",
            &self.macs.eth1,
            "--destination",
            &self.macs.d0,
        ];
        let held = self.hold(&self.balancer, &arguments)?;
        self.held.push(held);
        Ok(())
    }

    /// Attaches one of the measuring programs.
    fn hold(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Held> {
        let said = tempfile::NamedTempFile::new_in(&self.directory)?;
        let mut command = namespace.command(&self.lvx_bench);
        command.arg("hold").args(arguments);
        // It ends with its standard input.
        command.stdin(Stdio::piped()).stdout(said.reopen()?);
        let mut running = Running::start(&mut command)?;
        wait_until("the measuring program is attached", ATTACH, || {
            ensure!(running.ended()?.is_none(), "lvx-bench hold {} has ended", arguments[0]);
            Ok(std::fs::read_to_string(said.path())?.contains("attached"))
        })?;
        Ok(Held { _running: running })
    }

    /// Sends frames, and counts what arrives: at the sink, or where it is dropped on arrival.
    pub fn send(&self, frames: Frames<'_>) -> Result<Sent> {
        let arrived = || match frames.to_balancer {
            true => dropped(&self.balancer, "eth0"),
            false => dropped(&self.sink, "d0"),
        };
        let mut lost = 0;
        for _ in 0..ATTEMPTS {
            let before = arrived()?;
            let cost = match frames.generator {
                Generator::Live => Some(self.send_live(frames)?),
                Generator::Pktgen => pktgen::send(&self.source, "s0", &self.macs.eth0, frames)?,
            };
            lost += u64::from(frames.packets).saturating_sub(arrived()? - before);
            if let Some(cost) = cost {
                return Ok(Sent { cost, lost });
            }
            thread::sleep(REST);
        }
        bail!("pktgen's frames were received in batches {ATTEMPTS} times");
    }

    /// Sends frames as a driver receives them: what each took, ns.
    fn send_live(&self, frames: Frames<'_>) -> Result<f64> {
        let (flows, packets) = (frames.flows.to_string(), frames.packets.to_string());
        let service = format!("{}:{PORT}", frames.to);
        let mut arguments = vec!["send", "--interface", "s0", "--mac", &self.macs.eth0];
        arguments.extend(["--client", frames.from, "--service", &service]);
        arguments.extend(["--flows", &flows, "--packets", &packets]);
        if frames.in_turn {
            arguments.push("--in-turn");
        }
        let program = self.lvx_bench.to_str().context("a path that is no text")?;
        let said: Value = serde_json::from_str(&self.source.run(program, arguments)?)?;
        said["ns"].as_f64().context("lvx-bench does not say what a frame took")
    }
}

/// A measuring program that is attached until this is dropped.
struct Held {
    _running: Running,
}

/// An interface's Ethernet address.
fn address(namespace: &Namespace, interface: &str) -> Result<String> {
    let said = namespace.run("ip", ["-j", "link", "show", "dev", interface])?;
    let links: Value = serde_json::from_str(&said)?;
    let address = links[0]["address"].as_str();
    Ok(address.context("an interface without an address")?.to_owned())
}

/// How many frames the XDP program on a virtual interface has dropped.
fn dropped(namespace: &Namespace, interface: &str) -> Result<u64> {
    // One line for each queue: "     rx_queue_0_xdp_drops: 12".
    let said = namespace.run("ethtool", ["-S", interface])?;
    let counts: Vec<u64> = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("rx_queue_")?.split_once("_xdp_drops: "))
        .map(|(_, count)| Ok(count.parse()?))
        .collect::<Result<_>>()?;
    ensure!(
        !counts.is_empty(),
        "ethtool -S {interface} counts no frames that XDP has dropped"
    );
    Ok(counts.iter().sum())
}
