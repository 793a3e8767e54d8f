//! Counters: one cache line per backend and CPU on the path of every packet, one row per interface and CPU for the rest.

use super::{Env, ingress, platform::Platform};
use crate::{
    layout::{BackendCounters, MAX_INTERFACES, VERDICTS},
    verdict::Verdict,
};

/// The counters that this CPU has for a backend.
#[inline(always)]
fn backend<P: Platform>(env: &Env<P>, number: u32) -> Option<*mut BackendCounters> {
    let platform = env.platform;
    platform.backend_counters(platform.cpu() * platform.backends_size() + number)
}

/// Counts a packet from a client, and the flow that it begins.
#[inline(always)]
pub fn inbound<P: Platform>(env: &Env<P>, number: u32, bytes: u64, begins: bool) {
    if let Some(counters) = backend(env, number) {
        // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
        unsafe {
            (*counters).packets_in += 1;
            (*counters).bytes_in += bytes;
            if begins {
                (*counters).connections += 1;
            }
        }
    }
}

/// Counts a connection that begins in a flow that is there already.
#[inline(always)]
pub fn connection<P: Platform>(env: &Env<P>, number: u32) {
    if let Some(counters) = backend(env, number) {
        // SAFETY: as in `inbound`.
        unsafe { (*counters).connections += 1 }
    }
}

/// Counts a packet to a client.
#[inline(always)]
pub fn outbound<P: Platform>(env: &Env<P>, number: u32, bytes: u64) {
    if let Some(counters) = backend(env, number) {
        // SAFETY: as in `inbound`.
        unsafe {
            (*counters).packets_out += 1;
            (*counters).bytes_out += bytes;
        }
    }
}

/// Counts why a packet was not forwarded, or an event.
#[inline(always)]
pub fn verdict<P: Platform>(env: &Env<P>, verdict: Verdict) {
    let cpu = env.platform.cpu();
    let row = cpu * MAX_INTERFACES + ingress::interface(env);
    if let Some(counters) = env.platform.verdict_counters(row) {
        // The compiler knows that a verdict's number is within the row; the verifier takes a mask's word only.
        let place = env.platform.bounded::<{ VERDICTS - 1 }>(verdict as usize, cpu as usize);
        // SAFETY: the place is masked to the row, which is this CPU's.
        unsafe { *counters.cast::<u64>().add(place) += 1 };
    }
}

/// Counts packets that were forwarded, and that the kernel could not transmit by the interface of this slot.
#[inline(always)]
pub fn lost<P: Platform>(platform: P, slot: u32, verdict: Verdict, packets: u64) {
    let cpu = platform.cpu();
    if let Some(counters) = platform.verdict_counters(cpu * MAX_INTERFACES + slot) {
        let place = platform.bounded::<{ VERDICTS - 1 }>(verdict as usize, cpu as usize);
        // SAFETY: as in `verdict`.
        unsafe { *counters.cast::<u64>().add(place) += packets };
    }
}
