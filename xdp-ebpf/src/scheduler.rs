//! Scheduler: the backend of a new flow, from the service's ring.

use xdp_common::{
    hash,
    layout::{Chunk, ChunkIndex, MEMBERS_PER_CHUNK, SLOTS_PER_CHUNK, Scheduler, Service},
};

use crate::{atomic, family::Family, maps, parse::Tuple};

/// The number of the backend that a new flow of this client gets, if any takes new connections.
#[inline(always)]
pub fn choose<F: Family>(number: u32, service: &Service, tuple: &Tuple<F>) -> Option<u32> {
    if service.slots == 0 {
        return None;
    }
    let slot = if service.scheduler == Scheduler::Hash as u8 {
        hash::spread(
            F::client_hash(tuple.source, tuple.source_port, service.seed),
            service.slots,
        )
    } else {
        let turn = maps::TURNS.get_ptr_mut(number)?;
        // SAFETY: map values are aligned to eight bytes and live as long as the program.
        let turn = unsafe { atomic::add(turn, 1) };
        (turn % u64::from(service.slots)) as u32
    };
    let ring = chunk(service.ring, slot / SLOTS_PER_CHUNK)?;
    // SAFETY: the index is masked to the chunk, which is aligned to eight bytes.
    let member = unsafe { *ring.cast::<u16>().add((slot % SLOTS_PER_CHUNK) as usize) };
    let members = chunk(service.members, u32::from(member) / MEMBERS_PER_CHUNK)?;
    // SAFETY: the index is masked to the chunk, which is aligned to eight bytes.
    Some(unsafe {
        *members
            .cast::<u32>()
            .add((u32::from(member) % MEMBERS_PER_CHUNK) as usize)
    })
}

/// The chunk so many after the first one of a table.
#[inline(always)]
fn chunk(first: ChunkIndex, further: u32) -> Option<*const Chunk> {
    maps::SCHEDULES
        .get_value(first.segment(), &(first.place() + further))
        .map(|words| core::ptr::from_ref(words).cast())
}
