//! Sends frames out of an interface as a driver would receive them: live frames of `BPF_PROG_TEST_RUN`, redirected.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::{
    TestRun as _, TestRunOptions,
    maps::{MapData, PerCpuArray, xdp::DevMap},
    programs::TestRunAttrs,
};
use serde_json::json;
use xdp_common::bench::{FRAME, Order, Script};

use crate::{
    frame::{self, Direction, Kind, Mac},
    wrapper::{self, Bytes, pin, program},
};

/// Frames at a time, as many as a driver takes from its ring at once (NAPI's weight).
const BATCH: u32 = 64;

/// What to send.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The interface that frames go out of
    #[arg(long)]
    interface: String,
    /// Their destination
    #[arg(long)]
    mac: Mac,
    /// The address of the first client
    #[arg(long, default_value = "172.16.0.1")]
    client: IpAddr,
    /// Where they go to
    #[arg(long)]
    service: SocketAddr,
    /// How many flows there are
    #[arg(long, default_value_t = 1)]
    flows: u32,
    /// How many frames to send
    #[arg(long)]
    packets: u32,
    /// Send the flows in turn, not at random
    #[arg(long)]
    in_turn: bool,
    /// The CPU to send on; the last one by default
    #[arg(long)]
    cpu: Option<usize>,
}

/// How long after the last frame everything has been received.
const SETTLED: Duration = Duration::from_millis(20);

/// A CPU's thread for receiving what cannot be received at once. The kernel's measure of a test run is without it.
struct Softirqs {
    schedstat: PathBuf,
}

impl Softirqs {
    /// That of a CPU.
    fn of(cpu: usize) -> Result<Self> {
        let name = format!("ksoftirqd/{cpu}");
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            if fs::read_to_string(process.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
                return Ok(Self {
                    schedstat: process.join("schedstat"),
                });
            }
        }
        bail!("there is no {name}")
    }

    /// How long it has run.
    fn time(&self) -> Result<Duration> {
        let schedstat = fs::read_to_string(&self.schedstat)?;
        let run = schedstat.split(' ').next().unwrap_or_default();
        Ok(Duration::from_nanos(run.parse().context("a schedstat without a time")?))
    }
}

/// Sends; prints what a frame took, ns: until it had been received and dealt with, on this CPU.
pub fn send(arguments: &Arguments) -> Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let cpu = arguments.cpu.unwrap_or(cpus - 1);
    pin(cpu)?;
    let mut object = wrapper::load(&["generate"])?;
    let scripts = object.take_map("SCRIPT").context("there is no map SCRIPT")?;
    let mut scripts: PerCpuArray<MapData, Bytes> = scripts.try_into()?;
    let service = (arguments.service.ip(), arguments.service.port());
    let order = if arguments.in_turn {
        Order::InTurn
    } else {
        Order::AtRandom
    };
    let script = Script {
        order: order as u32,
        flows: arguments.flows,
        ..frame::script_to(arguments.mac, Kind::Udp, Direction::In, arguments.client, service)
    };
    wrapper::set(&mut scripts, &script, 0)?;
    let out = object.map_mut("OUT").context("there is no map OUT")?;
    DevMap::<&mut MapData>::try_from(out)?.set(0, index(&arguments.interface)?, None, 0)?;
    let frame = [0_u8; FRAME];
    let behind = Softirqs::of(cpu)?;
    let before = behind.time()?;
    let begun = Instant::now();
    let result = program(&object, "generate")?.test_run(TestRunOptions {
        data_in: Some(&frame[..script.length as usize]),
        repeat: arguments.packets,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    })?;
    let wall = begun.elapsed();
    // What is still in the rings is received now.
    thread::sleep(SETTLED);
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(arguments.packets);
    let sent = json!({
        "packets": arguments.packets,
        "ns": result.duration.as_nanos() as f64 + each(behind.time()?.saturating_sub(before)),
        "sender_ns": result.duration.as_nanos() as f64,
        "wall_ns": each(wall),
    });
    println!("{sent}");
    Ok(())
}

/// The index of an interface.
pub fn index(name: &str) -> Result<u32> {
    // Not from /sys, which may be that of another network namespace.
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    rustix::net::netdevice::name_to_index(&socket, name).with_context(|| format!("there is no interface {name}"))
}
