//! The program under test in its wrapper, and the clock.
//!
//! The program's tests have a harness of their own (`xdp-loader/program/tests/program/balancer.rs`), which runs one frame
//! at a time and looks into the tables after it. The two share the call that opens the tables.

use std::{sync::Barrier, thread};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    maps::{MapData, PerCpuArray, ProgramArray},
};
use lvx_bench_report::{median, range};
use lvx_dataplane::{Node, Sizes, Tables, census::Census};
use lvx_model::{Desired, health::HealthView};
use lvx_netlink::{LinkTable, NextHops};
use xdp_common::{
    bench::{FRAME, Order, Script},
    layout::{BucketFlow, ClientKeys, Connections, Control},
};

use crate::wrapper::{self, Bytes, pin, program};

/// The actions of XDP (kernel `include/uapi/linux/bpf.h`).
pub mod action {
    /// To the kernel.
    pub const PASS: u32 = 2;
    /// Out of the interface that it came in by.
    pub const TX: u32 = 3;
    /// Out of another.
    pub const REDIRECT: u32 = 4;
}

/// The balancer, loaded and configured, attached to nothing.
pub struct Harness {
    wrapper: Ebpf,
    script: PerCpuArray<MapData, Bytes>,
    _targets: ProgramArray<MapData>,
    tables: Tables,
}

/// What the balancer is told.
pub struct World {
    /// Services and backends.
    pub desired: Desired,
    /// Where backends are.
    pub hops: NextHops,
    /// The interfaces.
    pub links: LinkTable,
}

/// Net costs, ns per packet.
#[derive(Clone, Debug)]
pub struct Cost {
    /// The median of the program's runs less that of the floor's.
    pub median: f64,
    /// The least of the program's runs less the median of the floor's.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The median of the program's runs.
    pub gross: f64,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs of each case.
    pub runs: usize,
    /// Packets of each run.
    pub packets: u32,
    /// The CPU that runs the program.
    pub cpu: usize,
}

/// Which of the wrapper's programs to run.
#[derive(Clone, Copy, Debug)]
enum Target {
    Floor,
    UnderTest,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::UnderTest => "measured",
        }
    }
}

impl Cost {
    /// From the runs of the floor and of the program.
    fn of(floor: &[f64], measured: &[f64]) -> Self {
        let (floor, gross) = (median(floor), median(measured));
        let (min, max) = range(measured);
        Self {
            median: gross - floor,
            min: min - floor,
            max: max - floor,
            gross,
        }
    }

    /// The median of several costs, and the least and greatest of all their runs.
    pub fn median_of(costs: &[Self]) -> Self {
        let all = |field: fn(&Self) -> f64| -> Vec<f64> { costs.iter().map(field).collect() };
        Self {
            median: median(&all(|cost| cost.median)),
            min: range(&all(|cost| cost.min)).0,
            max: range(&all(|cost| cost.max)).1,
            gross: median(&all(|cost| cost.gross)),
        }
    }
}

impl Harness {
    /// Loads the program, tells it what is desired, and wraps it.
    pub fn new(sizes: Sizes, world: &World) -> Result<Self> {
        let mut tables = Tables::open(lvx_program::LVX, None, sizes, Node::default())?;
        for link in world.links.iter() {
            tables.interface(link.index)?;
        }
        tables.apply(&world.desired, &world.hops, &HealthView::default(), &world.links)?;
        let mut wrapper = wrapper::load(&["floor", "measured", "nothing"])?;
        let targets = wrapper.take_map("TARGETS").context("there is no map TARGETS")?;
        let mut targets: ProgramArray<MapData> = targets.try_into()?;
        targets.set(0, program(&wrapper, "nothing")?.fd()?, 0)?;
        targets.set(1, program(tables.ebpf(), "lvx")?.fd()?, 0)?;
        let script = wrapper.take_map("SCRIPT").context("there is no map SCRIPT")?;
        Ok(Self {
            script: script.try_into()?,
            wrapper,
            _targets: targets,
            tables,
        })
    }

    /// The program under test: instructions that the kernel runs (bytes before and after compiling), and how many the
    /// verifier walked.
    pub fn program_sizes(&mut self) -> Result<[u32; 3]> {
        let info = program(self.tables.ebpf(), "lvx")?.info()?;
        Ok([
            info.size_translated().unwrap_or_default(),
            info.size_jitted(),
            info.verified_instruction_count().unwrap_or_default(),
        ])
    }

    /// The balancer's tables.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Configures the program anew and makes it forget all flows; their hashes are the same in every run then.
    pub fn reset(&mut self, world: &World) -> Result<()> {
        const KEYS: ClientKeys = ClientKeys::new([
            0x6c76_785f_6265_6e63,
            0x9e37_79b9_7f4a_7c15,
            0xd6e8_feb8_6659_fd93,
            0xc2b2_ae3d_27d4_eb4f,
            0xff51_afd7_ed55_8ccd,
            0xc4ce_b9fe_1a85_ec53,
        ]);
        let tables = &mut self.tables;
        tables.apply(&world.desired, &world.hops, &HealthView::default(), &world.links)?;
        self.empty()?;
        let control = self.tables.maps().control();
        control.write(
            0,
            &Control {
                keys: KEYS,
                ..control.read(0)
            },
        );
        // No flow knows the numbers of what is gone.
        let gone = self.tables.gone();
        self.tables.swept(gone, &Census::default())?;
        Ok(())
    }

    /// Runs the program under test on a frame that came in by the loopback: its action, and the frame as it left it.
    pub fn run_once(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len()];
        let result = program(self.tables.ebpf(), "lvx")?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        ensure!(
            result.data_size_out as usize == out.len(),
            "the program changed the frame's length"
        );
        Ok((result.return_value, out))
    }

    /// Gives each CPU its script: the same flows, or `apart` as many after those of the CPU before.
    fn set(&mut self, script: &Script, apart: u32) -> Result<()> {
        wrapper::set(&mut self.script, script, apart)
    }

    /// Runs a program so many times on this thread's CPU: ns per run, by the kernel's clock.
    fn run(&self, target: Target, packets: u32) -> Result<(f64, u32)> {
        let frame = [0_u8; FRAME];
        let result = program(&self.wrapper, target.name())?.test_run(TestRunOptions {
            data_in: Some(&frame),
            repeat: packets,
            ..TestRunOptions::default()
        })?;
        Ok((result.duration.as_nanos() as f64, result.return_value))
    }

    /// Sends each flow of the script once.
    pub fn send(&mut self, script: &Script, cpu: usize) -> Result<()> {
        pin(cpu)?;
        let script = Script {
            order: Order::InTurn as u32,
            ..*script
        };
        self.set(&script, 0)?;
        self.run(Target::UnderTest, script.flows)?;
        Ok(())
    }

    /// Sends some packets of the script one by one: the share that is answered otherwise than expected.
    pub fn unexpected_share(&mut self, script: &Script, expected: u32) -> Result<f64> {
        const SAMPLE: u32 = 512;
        self.set(script, 0)?;
        let mut unexpected = 0_u32;
        for _ in 0..SAMPLE {
            let (_, action) = self.run(Target::UnderTest, 1)?;
            unexpected += u32::from(action != expected);
        }
        Ok(f64::from(unexpected) / f64::from(SAMPLE))
    }

    /// What a packet of the script costs.
    pub fn cost(&mut self, script: &Script, effort: Effort) -> Result<Cost> {
        pin(effort.cpu)?;
        let (mut floor, mut measured) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            self.set(script, 0)?;
            floor.push(self.run(Target::Floor, effort.packets)?.0);
            self.set(script, 0)?;
            measured.push(self.run(Target::UnderTest, effort.packets)?.0);
        }
        Ok(Cost::of(&floor, &measured))
    }

    /// What a packet costs that opens a flow: the later half of the script's flows, in tables that were empty before the
    /// earlier half was sent. (A run starts with cold caches; what the first packets wait for is not the flows'.)
    pub fn cost_of_new(&mut self, script: &Script, effort: Effort) -> Result<Cost> {
        pin(effort.cpu)?;
        let (mut floor, mut measured) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            floor.push(self.later_half(Target::Floor, script)?);
            measured.push(self.later_half(Target::UnderTest, script)?);
        }
        Ok(Cost::of(&floor, &measured))
    }

    /// Sends the earlier half of the flows, then all of them in one go: ns per packet of what came later.
    fn later_half(&mut self, target: Target, script: &Script) -> Result<f64> {
        let (half, all) = (script.flows / 2, script.flows);
        let mut took = [0.0; 2];
        for (took, packets) in took.iter_mut().zip([half, all]) {
            self.empty()?;
            self.set(script, 0)?;
            *took = self.run(target, packets)?.0 * f64::from(packets);
        }
        Ok((took[1] - took[0]) / f64::from(all - half))
    }

    /// Forgets all flows, and whose they were.
    fn empty(&mut self) -> Result<()> {
        let maps = self.tables.maps();
        for flows in [&maps.flows_v4, &maps.flows_v6] {
            let flows = flows.whole()?;
            (0..flows.len()).for_each(|bucket| flows.write(bucket, &BucketFlow::default()));
        }
        let connections = maps.connections.whole()?;
        (0..connections.len()).for_each(|backend| connections.write(backend, &Connections::default()));
        Ok(())
    }

    /// How many times as many packets two CPUs take as one, each with flows of its own: of the program in its wrapper,
    /// and of the wrapper alone. For each run.
    pub fn two_cpus(&mut self, script: &Script, effort: Effort, new_flows: bool) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut script = *script;
        let packets = if new_flows { script.flows } else { effort.packets };
        let (mut program, mut wrapper) = (Vec::new(), Vec::new());
        for _ in 0..effort.runs {
            for (target, ratios) in [(Target::Floor, &mut wrapper), (Target::UnderTest, &mut program)] {
                self.set(&script, script.flows)?;
                let alone = self.side_by_side(target, packets, &[0])?;
                if new_flows {
                    script.first += 2 * script.flows;
                }
                self.set(&script, script.flows)?;
                let both = self.side_by_side(target, packets, &[0, 1])?;
                if new_flows {
                    script.first += 2 * script.flows;
                }
                ratios.push(both / alone);
            }
        }
        Ok((program, wrapper))
    }

    /// Packets per ns of a program on these CPUs at once.
    fn side_by_side(&self, target: Target, packets: u32, cpus: &[usize]) -> Result<f64> {
        let start = Barrier::new(cpus.len());
        thread::scope(|scope| {
            let threads: Vec<_> = cpus
                .iter()
                .map(|&cpu| {
                    let start = &start;
                    scope.spawn(move || -> Result<f64> {
                        pin(cpu)?;
                        start.wait();
                        Ok(1.0 / self.run(target, packets)?.0.max(1.0))
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread died")))
                .sum()
        })
    }
}
