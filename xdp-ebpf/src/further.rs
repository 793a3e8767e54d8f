//! Further: the programs in which the way of a rarer packet goes on, and what a new flow's packet takes along.

use aya_ebpf::{helpers::bpf_get_smp_processor_id, programs::XdpContext};
use xdp_common::{
    layout::{Further, Handover},
    verdict::Verdict,
};

use crate::{
    Env,
    end::End,
    family::Family,
    flow::Place,
    maps,
    parse::{Packet, Piece},
};

/// In [`Handover::first`]: there is an identification above.
const FIRST: u64 = 1;

/// Leaves this program for another. Returns only if that is not there.
#[inline(always)]
pub fn go(env: &Env, further: Further) -> End {
    // SAFETY: nothing here waits to be dropped.
    unsafe { maps::FURTHER.tail_call(&XdpContext::new(env.context), further as u32) };
    End::Drop(Verdict::DroppedNoProgram)
}

/// This CPU's.
#[inline(always)]
fn handover() -> Option<*mut Handover> {
    // SAFETY: the helper has no preconditions.
    maps::HANDOVERS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() } as u32)
}

/// Leaves for the program in which the flow of a packet begins (`over` as in [`crate::flow::Entry`]), or goes on with a backend
/// that is not 0.
#[inline(always)]
pub fn begin<F: Family>(
    env: &Env,
    packet: &Packet<F>,
    place: &Place<F>,
    service: u32,
    over: usize,
    backend: u32,
) -> End {
    let Some(handover) = handover() else {
        return End::Drop(Verdict::DroppedNoProgram);
    };
    let first = match packet.piece {
        Piece::First(identification) => identification << 1 | FIRST,
        _ => 0,
    };
    // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
    unsafe {
        (*handover).client = place.client.0;
        (*handover).bytes = packet.bytes;
        (*handover).first = first;
        (*handover).ip = env.frame.offset(packet.ip) as u32;
        (*handover).transport = env.frame.offset(packet.ports) as u32;
        (*handover).protocol = u32::from(packet.tuple.protocol);
        (*handover).service = service;
        (*handover).over = over as u32;
        (*handover).backend = backend;
    }
    go(env, F::BEGIN)
}

/// What the program before has left.
#[inline(always)]
pub fn received() -> Option<&'static Handover> {
    // SAFETY: the program before has left it for this one, and no other program runs on this CPU until this one ends.
    handover().map(|handover| unsafe { &*handover.cast_const() })
}

/// Which part of a datagram the packet is.
#[inline(always)]
pub fn piece(handover: &Handover) -> Piece {
    match handover.first {
        0 => Piece::Whole,
        first => Piece::First(first >> 1),
    }
}
