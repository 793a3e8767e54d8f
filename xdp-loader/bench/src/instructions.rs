//! How many instructions of the program a packet takes: a figure without noise, beside the time. What counts them is checked
//! with every packet: it has to do what the program in the kernel does.

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use lvx_bench_report::{Row, grouped};
use lvx_dataplane::{Clock, Sizes};

use crate::{
    case::{Case, LITTLE_ROOM, LOOPBACK, Packets},
    frame,
    harness::{Harness, action},
    interpreter::{Instruction, Interpreter, Object},
    wrapper::{pin, program},
};

/// What the rows belong to, and their unit.
pub const GROUP: &str = "instructions";
/// Flows of each case: they may differ by some instructions, as they choose among members or find a bucket's place taken.
const FLOWS: u32 = 64;

/// Counts the instructions of a packet in each case, and those of the programs as a whole.
pub fn count(cases: &[Case], cpu: usize) -> Result<Vec<Row>> {
    let Some(first) = cases.first() else {
        return Ok(Vec::new());
    };
    pin(cpu)?;
    let object = Object::parse()?;
    // One program for all: it takes long to load.
    let mut harness = Harness::new(Sizes::new(8, 64, LITTLE_ROOM, LITTLE_ROOM), &first.world()?)?;
    let mut rows = sizes(&object, harness.tables().ebpf())?;
    for case in cases {
        rows.push(one(case, &mut harness, &object, cpu).with_context(|| case.name.clone())?);
    }
    Ok(rows)
}

/// Counts the instructions of a packet in a case.
fn one(case: &Case, harness: &mut Harness, object: &Object, cpu: usize) -> Result<Row> {
    harness.reset(&case.world()?)?;
    case.open_flows(harness, cpu, FLOWS)?;
    let hertz = harness.tables().maps().control().read(0).hertz;
    let loaded = harness.tables().ebpf();
    let clock = Clock::start(program(loaded, "lvx_clock")?, Some(hertz))?;
    let mut interpreter = Interpreter::new(object, loaded, cpu as u32)?;
    let script = case.script(case.kind, case.direction, FLOWS);
    let mut counts = Vec::new();
    for flow in 0..FLOWS {
        let frame = frame::of_flow(&script, flow);
        let mut interpret = || interpreter.run("lvx", &frame, LOOPBACK, clock.now());
        // What comes second knows the flow in any case, and does with the packet what came first did.
        let (counted, kernels) = match case.packets {
            Packets::New => (interpret()?, harness.run_once(&frame)?),
            _ => {
                let kernels = harness.run_once(&frame)?;
                (interpret()?, kernels)
            }
        };
        ensure!(
            kernels.0 == case.action(),
            "the packet was not answered with action {}, but {}",
            case.action(),
            kernels.0
        );
        ensure!(
            (counted.action, &counted.frame) == (kernels.0, &kernels.1),
            "the interpreter does not do what the kernel does: {counted:02x?} instead of {kernels:02x?}, from {frame:02x?}"
        );
        ensure!(
            counted.action == action::PASS || counted.frame != frame,
            "the frame was not changed"
        );
        counts.push(counted.instructions as f64);
    }
    Ok(Row::new(GROUP, &case.name, &counts).unit(GROUP))
}

/// How long each program is, in words of eight bytes, and what the verifier walks of it.
fn sizes(object: &Object, loaded: &Ebpf) -> Result<Vec<Row>> {
    let size = |(name, instructions): (&str, &[Instruction])| {
        let walked = program(loaded, name)?.info()?.verified_instruction_count();
        Ok(Row {
            note: walked.map(|walked| format!("{} walked by the verifier", grouped(walked))),
            ..Row::new("length of the programs", name, &[instructions.len() as f64]).unit(GROUP)
        })
    };
    object.programs().map(size).collect()
}
