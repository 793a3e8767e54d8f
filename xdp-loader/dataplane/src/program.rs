//! Loading: the object file becomes maps, and programs that the kernel has verified.

use std::{collections::BTreeMap, path::PathBuf, thread};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::ProgramArray,
    programs::{ProgramError, ProgramFd, Xdp},
};
use xdp_common::{
    layout::{Sizes, TailCall},
    maps::MAPS,
};

use crate::{
    Error,
    error::{chain, permission},
};

/// What the program that starts the sweeper answers when it has (`enum xdp_action` of the kernel's `bpf.h`).
const XDP_PASS: u32 = 2;

/// Loads the program's maps, shared ones from their pins.
pub(crate) fn create_maps(
    object: &[u8],
    shared: &BTreeMap<&'static str, PathBuf>,
    sizes: Sizes,
    cpus: u32,
) -> Result<Ebpf, Error> {
    let globals = [
        ("FLOWS_V4_MASK", sizes.buckets_v4() - 1),
        ("FLOWS_V6_MASK", sizes.buckets_v6() - 1),
        ("ENDPOINTS_MASK", sizes.endpoint_buckets() - 1),
        ("BACKENDS_SIZE", sizes.backends + 1),
    ];
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        if let Some(entries) = map.entries {
            loader.map_max_entries(map.name, entries(&sizes, cpus));
        }
    }
    for (name, value) in &globals {
        loader.override_global(name, value, true);
    }
    for (name, path) in shared {
        loader.map_pin_path(name, path);
    }
    loader.load(object).map_err(|error| match permission(&error) {
        true => Error::NotPermitted("create BPF maps"),
        false => Error::Load(chain(&error)),
    })
}

/// The program in an object.
pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, Error> {
    let program = ebpf.program_mut(name).ok_or(Error::NoMap(name))?;
    Ok(program.try_into()?)
}

/// Loads the XDP programs into the kernel, and enters those into the tail calls that others go on in.
///
/// # Errors
///
/// The verifier's word, or want of privileges.
pub fn load(ebpf: &mut Ebpf) -> Result<(), Error> {
    // The verifier takes a good part of a second for all of them, and walks several at once.
    thread::scope(|scope| {
        let loads: Vec<_> = ebpf
            .programs_mut()
            .filter_map(|(_, program)| <&mut Xdp>::try_from(program).ok())
            .map(|program| scope.spawn(|| load_one(program)))
            .collect();
        loads
            .into_iter()
            .try_for_each(|load| load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let own = TailCall::OWN.map(|(place, name)| (place as u32, name));
    let programs = own
        .into_iter()
        .chain(TailCall::KEPT)
        .map(|(place, name)| Ok((place, descriptor(ebpf, name)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let places = ebpf.map_mut("TAIL_CALLS").ok_or(Error::NoMap("TAIL_CALLS"))?;
    let mut places = ProgramArray::try_from(places)?;
    for (place, program) in &programs {
        places.set(*place, program, 0)?;
    }
    Ok(())
}

/// Has the kernel forget idle flows from now on, for as long as the maps are pinned or held: last-seen times wrap, and no daemon
/// may run to do it.
///
/// # Errors
///
/// If the kernel does not run the program, or gives no timer.
pub fn start_sweeper(ebpf: &mut Ebpf) -> Result<(), Error> {
    let run = program(ebpf, "lvx_sweep")?.test_run(TestRunOptions {
        data_in: Some(&[0; 64]),
        ..TestRunOptions::default()
    })?;
    match run.return_value {
        XDP_PASS => Ok(()),
        _ => Err(Error::NoTimer),
    }
}

/// A descriptor of a program that is loaded.
pub(crate) fn descriptor(ebpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, Error> {
    let program = program(ebpf, name)?.fd()?;
    program.try_clone().map_err(|error| Error::Load(error.to_string()))
}

/// Loads a program into the kernel.
fn load_one(program: &mut Xdp) -> Result<(), Error> {
    program.load().map_err(|error| refusal(&error))
}

/// Why the kernel did not load a program.
pub(crate) fn refusal(error: &ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => match objection(&verifier_log.to_string()) {
            // The verifier refuses with "permission denied" too, but then it says why.
            Some(why) => Error::Load(format!("{io_error}: {why}")),
            None if permission(error) => Error::NotPermitted("load BPF programs"),
            None => Error::Load(chain(error)),
        },
        _ => Error::Load(chain(error)),
    }
}

/// What the verifier objects to: the last line of its log but for the statistics.
fn objection(log: &str) -> Option<&str> {
    let statistics = |line: &&str| {
        ["processed ", "verification time ", "stack depth "]
            .iter()
            .any(|it| line.starts_with(it))
    };
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_objects_in_the_last_line_before_its_statistics() {
        let log = "0: (79) r1 = *(u64 *)(r1 +0)\nR2 invalid mem access 'scalar'\nverification time 17 usec\n\
                   stack depth 0\nprocessed 9 insns (limit 1000000) max_states_per_insn 0\n";
        assert_eq!(objection(log), Some("R2 invalid mem access 'scalar'"));
        assert_eq!(objection(""), None);
        assert_eq!(objection("processed 0 insns (limit 1000000)\n"), None);
    }
}
