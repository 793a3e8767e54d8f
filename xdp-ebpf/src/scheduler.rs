//! Scheduler: the backend of a new flow, from the service's ring or by comparing its members.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use xdp_common::{
    hash,
    layout::{Chunk, ChunkIndex, MEMBERS_PER_CHUNK, Member, Overload, SLOTS_PER_CHUNK, Scheduler, Service},
    load::Measure,
    verdict::Verdict,
};

use crate::{Env, atomic, compare, count, end::End, family::Family, load, maps, parse::Tuple};

/// The number of the backend that a new flow of this client gets.
#[inline(always)]
pub fn choose<F: Family>(env: &Env, number: u32, service: &Service, tuple: &Tuple<F>) -> Result<u32, End> {
    if service.slots == 0 {
        return Err(End::Drop(Verdict::DroppedNoBackend));
    }
    let scheduler = Scheduler::from_bits(service.scheduler);
    let member = match scheduler {
        Scheduler::Two => two(service),
        _ => place(number, service, scheduler, tuple).and_then(|place| slot(service, place)),
    };
    // Where the ring does not tell, or tells of a backend that has enough, all members are compared.
    let (measure, is_second) = match member {
        Some(member) if !(member.is_limited() && load::is_overloaded(member.number())) => return Ok(member.number()),
        Some(_) if service.overload == Overload::Next as u8 => (Measure::WEIGHTED_LEAST_CONNECTIONS, true),
        Some(_) => return instead(env, service),
        None => (service.measure, false),
    };
    let Some(best) = compare::best(number, service, measure) else {
        return instead(env, service);
    };
    if is_second {
        count::verdict(env, Verdict::BackendOverloaded);
    }
    Ok(best.number())
}

/// The backend of a datagram whose ports are not known: the one that a hash of the client's address alone gives.
#[inline(always)]
pub fn choose_by_address<F: Family>(service: &Service, source: F::Address) -> Option<u32> {
    if service.slots == 0 {
        return None;
    }
    slot(service, hashed::<F>(service, source, 0)).map(Member::number)
}

/// What becomes of a connection for which no backend is left below its threshold.
#[inline(always)]
fn instead(env: &Env, service: &Service) -> Result<u32, End> {
    if service.overload != Overload::Sorry as u8 || service.sorry == 0 {
        return Err(End::Drop(Verdict::DroppedOverloaded));
    }
    count::verdict(env, Verdict::BackendOverloaded);
    Ok(service.sorry)
}

/// The slot of the ring for a new flow, if the ring tells.
#[inline(always)]
fn place<F: Family>(number: u32, service: &Service, scheduler: Scheduler, tuple: &Tuple<F>) -> Option<u32> {
    let (address, port) = match scheduler {
        Scheduler::SourcePort => (tuple.source, tuple.source_port),
        Scheduler::Source => (tuple.source, 0),
        Scheduler::Destination => (tuple.destination, 0),
        Scheduler::Turn => return Some(turn(number, service.slots)),
        _ => return None,
    };
    Some(hashed::<F>(service, address, port))
}

/// The slot of the ring that a hash of the client gives.
#[inline(always)]
fn hashed<F: Family>(service: &Service, address: F::Address, port: u16) -> u32 {
    hash::spread(F::client_hash(address, port, service.seed), service.slots)
}

/// The next turn of a service, below `slots`.
#[inline(always)]
fn turn(number: u32, slots: u32) -> u32 {
    match maps::TURNS.get_ptr_mut(number) {
        // SAFETY: the word is a map's.
        Some(turn) => (unsafe { atomic::add(turn, 1) } % u64::from(slots)) as u32,
        None => 0,
    }
}

/// Of two random slots of the ring the one whose backend has less to do (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001).
#[inline(always)]
fn two(service: &Service) -> Option<Member> {
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let place = |bits: u32| ((u64::from(bits & 0xffff) * u64::from(service.slots)) >> 16) as u32;
    let (one, other) = (slot(service, place(random))?, slot(service, place(random >> 16))?);
    let score = |member: Member| load::score(service.measure, member);
    Some(if score(other).is_better_than(score(one)) {
        other
    } else {
        one
    })
}

/// The member that a slot of the ring stands for.
#[inline(always)]
fn slot(service: &Service, slot: u32) -> Option<Member> {
    let ring = chunk(service.ring, slot / SLOTS_PER_CHUNK)?;
    // SAFETY: the index is masked to the chunk, which is aligned to eight bytes.
    let member = unsafe { *ring.cast::<u16>().add((slot % SLOTS_PER_CHUNK) as usize) };
    let members = chunk(service.members, u32::from(member) / MEMBERS_PER_CHUNK)?;
    // SAFETY: the index is masked to the chunk, which is aligned to eight bytes.
    Some(unsafe {
        *members
            .cast::<Member>()
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
