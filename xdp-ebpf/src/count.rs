//! Counters: one cache line per backend and CPU on the way of every packet, one per interface and CPU for the rest.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use xdp_common::{
    layout::{BackendCounters, PORTS, VERDICTS},
    verdict::Verdict,
};

use crate::{Env, forget, maps, transmit};

/// The counters that this CPU has for a backend.
#[inline(always)]
fn backend(number: u32) -> Option<*mut BackendCounters> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    maps::BACKEND_COUNTERS.get_ptr_mut(cpu * maps::size::backends() + number)
}

/// Counts a packet from a client, and the flow that it begins.
#[inline(always)]
pub fn inbound(number: u32, bytes: u64, begins: bool) {
    if let Some(counters) = backend(number) {
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

/// Counts a packet to a client.
#[inline(always)]
pub fn outbound(number: u32, bytes: u64) {
    if let Some(counters) = backend(number) {
        // SAFETY: as in `inbound`.
        unsafe {
            (*counters).packets_out += 1;
            (*counters).bytes_out += bytes;
        }
    }
}

/// Counts why a packet was not forwarded, or an event.
#[inline(always)]
pub fn verdict(env: &Env, verdict: Verdict) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if let Some(counters) = maps::VERDICT_COUNTERS.get_ptr_mut(cpu * PORTS + transmit::ingress_port(env)) {
        // The compiler knows that a verdict's number is within the row; the verifier takes a mask's word only.
        let place = forget::below::<{ VERDICTS - 1 }>(verdict as usize, cpu as usize);
        // SAFETY: the place is masked to the row, which is this CPU's.
        unsafe { *counters.cast::<u64>().add(place) += 1 };
    }
}
