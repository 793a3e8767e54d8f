//! Handover: what a program leaves, in a place of its CPU, for the one in which the packet's path goes on.

use super::{
    Env, Outcome,
    family::Family,
    flow::Place,
    outcome::action,
    parse::{self, Packet, Piece},
    platform::Platform,
};
use crate::{
    layout::{Handover, TailCall, Target},
    succession::Found,
    verdict::Verdict,
};

/// In [`Handover::first`]: there is an identification above.
const FIRST: u64 = 1;

/// Leaves this program for another.
#[inline(always)]
pub fn tail_call<P: Platform>(env: &Env<P>, to: TailCall) -> Outcome {
    match env.platform.tail_call(env.context, to) {
        Some(action) => Outcome::Action(action),
        None => Outcome::Drop(Verdict::DroppedNoProgram),
    }
}

/// What becomes of a packet that begins no flow and belongs to none that is known: it is passed under this verdict, unless a
/// predecessor may know it.
#[inline(always)]
pub fn unknown<P: Platform>(env: &Env<P>, verdict: Verdict) -> Outcome {
    if env.is_succeeding() {
        return tail_call(env, TailCall::Predecessor);
    }
    Outcome::Pass(verdict)
}

/// This CPU's.
#[inline(always)]
fn handover<P: Platform>(platform: P) -> Option<*mut Handover> {
    platform.handovers(platform.cpu())
}

/// Leaves for the program in which the flow of a packet begins (`reuse` as in [`super::flow::Entry`]), or goes on with a
/// backend that is not 0. A predecessor is asked first whether it knows the flow.
#[inline(always)]
pub fn new_flow<P: Platform, F: Family>(
    env: &Env<P>,
    packet: &Packet<F>,
    place: &Place<F>,
    service: u32,
    reuse: usize,
    backend: u32,
) -> Outcome {
    let asks = env.is_succeeding() && backend == 0;
    let Some(handover) = handover(env.platform) else {
        return Outcome::Drop(Verdict::DroppedNoProgram);
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
        (*handover).service = Target::number(service);
        (*handover).reuse = reuse as u32;
        (*handover).backend = backend;
        (*handover).mode = env.mode;
        (*handover).persistent = 0;
        (*handover).verdict = 0;
    }
    if asks {
        return ask::<P, F>(env);
    }
    tail_call(env, F::NEW_FLOW)
}

/// Has the predecessor look the packet's flow up, and go on in the program for new flows.
#[inline(always)]
fn ask<P: Platform, F: Family>(env: &Env<P>) -> Outcome {
    let Some(found) = env.platform.found(env.platform.cpu()) else {
        return Outcome::Drop(Verdict::DroppedNoProgram);
    };
    // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
    // One that says nothing of quiet means that it does not know.
    unsafe {
        (*found).successor = F::SUCCESSOR;
        (*found).quiet = 0;
    }
    tail_call(env, TailCall::Find)
}

/// What the program before has left.
#[inline(always)]
pub fn received<'a, P: Platform + 'a>(platform: P) -> Option<&'a Handover> {
    // SAFETY: the program before has left it for this one, and no other program runs on this CPU until this one ends.
    handover(platform).map(|handover| unsafe { &*handover.cast_const() })
}

/// The flow that the predecessor has found: with a backend of number 0 if it knows none.
#[inline(always)]
pub fn found<P: Platform>(env: &Env<P>) -> Found {
    match env.platform.found(env.platform.cpu()) {
        // SAFETY: the predecessor has left it for this program, as above.
        Some(found) => unsafe {
            Found {
                backend: (*found).backend,
                state: (*found).state,
                quiet: (*found).quiet,
                ..Found::default()
            }
        },
        None => Found::default(),
    }
}

/// The client persists with this backend, for who begins its flow.
#[inline(always)]
pub fn persist<P: Platform>(env: &Env<P>, backend: u32) {
    if let Some(handover) = handover(env.platform) {
        // SAFETY: the entry is this CPU's, as above.
        unsafe { (*handover).persistent = backend };
    }
}

/// Leaves for the program in which a packet of this handover is dropped under a verdict, or answered: the XDP action. This program
/// has no room for what is counted and told there.
#[inline(always)]
pub fn reject<P: Platform, F: Family>(env: &Env<P>, verdict: Verdict) -> u32 {
    if let Some(handover) = handover(env.platform) {
        // SAFETY: the entry is this CPU's, as above.
        unsafe { (*handover).verdict = verdict as u32 };
    }
    env.platform.tail_call(env.context, F::REJECT).unwrap_or(action::DROP)
}

/// The verdict that the program before has left.
#[inline(always)]
pub fn verdict(handover: &Handover) -> Verdict {
    let verdict = Verdict::ALL.get(handover.verdict as usize);
    verdict.copied().unwrap_or(Verdict::DroppedNoProgram)
}

/// The packet that the program before has parsed.
///
/// # Errors
///
/// If the packet is not the one that the handover tells of.
#[inline(always)]
pub fn packet<P: Platform, F: Family>(env: &Env<P>, handover: &Handover) -> Result<Packet<F>, Outcome> {
    let piece = match handover.first {
        0 => Piece::Whole,
        first => Piece::First(first >> 1),
    };
    parse::again(
        env,
        handover.ip as usize,
        handover.transport as usize,
        handover.protocol as u8,
        handover.bytes,
        piece,
    )
}
