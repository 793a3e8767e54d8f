//! Losses: what the kernel fails to transmit after the program has forwarded it. Programs of tracepoints count it among the
//! verdicts ([`Verdict::LOST`]), for as long as this process lives: nothing of them is pinned.
//!
//! [`Verdict::LOST`]: xdp_common::verdict::Verdict::LOST

use std::{fs, os::unix::fs::MetadataExt as _};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapInfo},
    programs::RawTracePoint,
};
use tracing::debug;
use xdp_common::layout::LossFilter;

use crate::{Error, btf, error::chain, predecessor::Predecessor, program::refusal};

/// The type information of the running kernel.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The network namespace of this thread, whose inode is its name.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// A program and its tracepoint.
struct Watch {
    program: &'static str,
    tracepoint: &'static str,
    /// Whether it tells whose packets they are by what it reads in the kernel's structures.
    reads: bool,
}

const WATCHES: [Watch; 3] = [
    Watch {
        program: "lvx_redirect_err",
        tracepoint: "xdp_redirect_err",
        reads: false,
    },
    Watch {
        program: "lvx_devmap_xmit",
        tracepoint: "xdp_devmap_xmit",
        reads: true,
    },
    Watch {
        program: "lvx_exception",
        tracepoint: "xdp_exception",
        reads: true,
    },
];

/// Has the losses of this dataplane's packets counted from now on, and those of packets that its predecessor forwards. `Err` says
/// what is not counted, and why: the kernel has no such tracepoints or does not let them be used.
pub(crate) fn count(ebpf: &mut Ebpf, egress: &Map, predecessor: Option<&Predecessor>) -> Result<(), String> {
    let offsets = set_filter(ebpf, egress, predecessor).map_err(|error| error.to_string())?;
    let failures: Vec<String> = WATCHES
        .iter()
        .filter_map(|watch| {
            let attached = match &offsets {
                Err(reason) if watch.reads => Err(reason.clone()),
                _ => attach(ebpf, watch),
            };
            Some(format!("{}: {}", watch.tracepoint, attached.err()?))
        })
        .collect();
    match failures.as_slice() {
        [] => Ok(()),
        _ => Err(failures.join("; ")),
    }
}

/// Tells the programs whose losses to count. `Err` in the answer is why they cannot read the kernel's structures.
fn set_filter(ebpf: &mut Ebpf, egress: &Map, predecessor: Option<&Predecessor>) -> Result<Result<(), String>, Error> {
    // The kernel gives a number of a map again only when all others have been used.
    let former = predecessor.and_then(|predecessor| MapInfo::from_pin(predecessor.map("EGRESS")?).ok());
    let mut filter = LossFilter {
        devmaps: [number(egress)?, former.map_or(0, |map| map.id())],
        ..LossFilter::default()
    };
    let read = structures(&mut filter);
    let entry = ebpf.map_mut("LOSS_FILTER").ok_or(Error::NoMap("LOSS_FILTER"))?;
    Array::<&mut MapData, [u32; 6]>::try_from(entry)?.set(0, filter.words(), 0)?;
    Ok(read)
}

/// The kernel's number of a devmap.
fn number(map: &Map) -> Result<u32, Error> {
    match map {
        Map::DevMap(map) => Ok(map.info()?.id()),
        _ => Err(Error::NoMap("EGRESS")),
    }
}

/// Where the kernel's structures have what tells a network namespace and an interface.
fn structures(filter: &mut LossFilter) -> Result<(), String> {
    let btf =
        fs::read(BTF).map_err(|error| format!("the kernel's type information ({BTF}) cannot be read: {error}"))?;
    let fields = [
        ("net_device", "ifindex"),
        ("net_device", "nd_net"),
        ("net", "ns"),
        ("ns_common", "inum"),
    ];
    let [ifindex_at, net_at, namespace_at, inode_at] = btf::offsets(&btf, fields).ok_or_else(|| {
        format!("the kernel's type information ({BTF}) does not say where an interface's index stands")
    })?;
    let namespace = fs::metadata(NAMESPACE).map_err(|error| format!("{NAMESPACE}: {error}"))?;
    filter.namespace = namespace.ino() as u32;
    (filter.ifindex_at, filter.net_at) = (ifindex_at, net_at);
    filter.inode_at = namespace_at + inode_at;
    Ok(())
}

fn attach(ebpf: &mut Ebpf, watch: &Watch) -> Result<(), String> {
    let program = ebpf
        .program_mut(watch.program)
        .ok_or("the build has no program for it")?;
    let program: &mut RawTracePoint = program.try_into().map_err(|error| chain(&error))?;
    program.load().map_err(|error| refusal(&error).to_string())?;
    program.attach(watch.tracepoint).map_err(|error| chain(&error))?;
    debug!(tracepoint = watch.tracepoint, "losses are counted");
    Ok(())
}
