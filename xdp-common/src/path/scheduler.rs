//! Scheduler: the backend of a new flow, from the service's ring or by comparing its members.
//!
//! The functions that the verifier walks by themselves ([`Platform::choose_member`] and its like) take and return plain
//! numbers: it walks each once, and not once for each path that leads to it.

use super::{Env, Outcome, compare, connections, count, family::Family, parse::Tuple, platform::Platform};
use crate::{
    hash,
    layout::{Chunk, ChunkIndex, MEMBERS_PER_CHUNK, Member, Overload, SLOTS_PER_CHUNK, Scheduler, Service},
    load::Measure,
    verdict::Verdict,
};

/// In an answer: the backend is not the scheduler's first choice, which has reached its upper threshold.
const SECOND: u64 = 1 << 32;
/// In an answer: no backend takes new connections.
const NONE: u64 = 1 << 33;
/// In an answer: all backends have reached their upper thresholds.
const OVERLOADED: u64 = 1 << 34;
/// In an answer: the members must be compared.
const COMPARE: u64 = 1 << 35;

/// The number of the backend that a new flow of this client gets.
#[inline(always)]
pub fn choose<P: Platform, F: Family>(
    env: &Env<P>,
    number: u32,
    service: &Service,
    tuple: &Tuple<F>,
) -> Result<u32, Outcome> {
    if let Some(member) = by_hash(env.platform, service, tuple) {
        return Ok(member.number());
    }
    let [high, low] = F::words_of(tuple.source);
    let client = u64::from(tuple.source_port) | u64::from(F::IS_V6) << 16;
    let place = u64::from(number << 1 | env.bank);
    let mut answer = env.platform.choose_member(place, client, high, low);
    if answer & COMPARE != 0 {
        answer = env.platform.compare_members(place, answer);
    }
    if answer & NONE != 0 {
        return Err(Outcome::Drop(Verdict::DroppedNoBackend));
    }
    if answer & OVERLOADED != 0 {
        return Err(Outcome::Drop(Verdict::DroppedOverloaded));
    }
    if answer & SECOND != 0 {
        count::verdict(env, Verdict::BackendOverloaded);
    }
    Ok(answer as u32)
}

/// What most services want, without a call: the backend that a hash of the client gives, if nothing else is to be asked.
#[inline(always)]
pub fn by_hash<P: Platform, F: Family>(platform: P, service: &Service, tuple: &Tuple<F>) -> Option<Member> {
    let port = match Scheduler::from_bits(service.scheduler) {
        Scheduler::SourcePort => tuple.source_port,
        Scheduler::Source => 0,
        _ => return None,
    };
    if service.slots == 0 {
        return None;
    }
    let source = Source {
        port,
        is_v6: F::IS_V6,
        address: F::words_of(tuple.source),
    };
    slot(platform, service, hashed(service, source)).filter(|member| !member.is_limited())
}

/// A client's address and port, of either family.
#[derive(Clone, Copy)]
struct Source {
    port: u16,
    is_v6: bool,
    address: [u64; 2],
}

/// The backend of a new flow: of the service in a place of the table of services; of the client with this port (below the
/// flag for IPv6) and address. An answer has the backend's number below flags.
#[inline(always)]
pub fn choose_member<P: Platform>(platform: P, place: u64, client: u64, high: u64, low: u64) -> u64 {
    let Some(service) = platform.services(place as u32) else {
        return NONE;
    };
    // SAFETY: a bank is not written while packets may read it.
    let service = unsafe { &*service };
    let source = Source {
        port: client as u16,
        is_v6: client >> 16 != 0,
        address: [high, low],
    };
    member(platform, place as u32 >> 1, service, source)
}

#[inline(always)]
fn member<P: Platform>(platform: P, number: u32, service: &Service, source: Source) -> u64 {
    if service.slots == 0 {
        return NONE;
    }
    let member = match Scheduler::from_bits(service.scheduler) {
        Scheduler::SourcePort => slot(platform, service, hashed(service, source)),
        Scheduler::Source => slot(platform, service, hashed(service, Source { port: 0, ..source })),
        // The seed comes from the service's address.
        Scheduler::Destination => slot(platform, service, hash::spread(hash::mix(service.seed), service.slots)),
        Scheduler::Turn => slot(platform, service, turn(platform, number, service.slots)),
        Scheduler::Two => two(platform, service),
        Scheduler::Compare => None,
    };
    // Where the ring does not tell, or tells of a backend that has enough, all members are compared.
    match member {
        Some(member) if !(member.is_limited() && connections::is_overloaded(platform, member.number())) => {
            u64::from(member.number())
        }
        Some(_) if service.overload == Overload::Next as u8 => COMPARE | SECOND,
        Some(_) => instead(service),
        None => COMPARE,
    }
}

/// The best of all members of the service in a place of the table of services, after [`choose_member`] gave this answer.
#[inline(always)]
pub fn compare_members<P: Platform>(platform: P, place: u64, answer: u64) -> u64 {
    let Some(service) = platform.services(place as u32) else {
        return NONE;
    };
    // SAFETY: as in `choose_member`.
    let service = unsafe { &*service };
    let rank = answer & SECOND;
    let measure = match rank {
        0 => service.measure,
        _ => Measure::WEIGHTED_LEAST_CONNECTIONS,
    };
    match compare::best(platform, place as u32 >> 1, service, measure) {
        Some(best) => rank | u64::from(best.number()),
        None => instead(service),
    }
}

/// What becomes of a connection for which no backend is left below its threshold.
#[inline(always)]
fn instead(service: &Service) -> u64 {
    if service.overload == Overload::Sorry as u8 && service.sorry != 0 {
        SECOND | u64::from(service.sorry)
    } else {
        OVERLOADED
    }
}

/// The backend of a datagram whose ports are not known: the one that a hash of the client's address alone gives.
#[inline(always)]
pub fn choose_by_address<P: Platform, F: Family>(env: &Env<P>, number: u32, source: F::Address) -> Option<u32> {
    let service = env.service(number)?;
    if service.slots == 0 {
        return None;
    }
    let source = Source {
        port: 0,
        is_v6: F::IS_V6,
        address: F::words_of(source),
    };
    slot(env.platform, service, hashed(service, source)).map(Member::number)
}

/// The slot of the ring that a hash of the client gives.
#[inline(always)]
fn hashed(service: &Service, source: Source) -> u32 {
    let hash = match source.is_v6 {
        true => hash::client_v6(source.address, source.port, service.seed),
        false => hash::client_v4(source.address[0] as u32, source.port, service.seed),
    };
    hash::spread(hash, service.slots)
}

/// The next turn of a service, below `slots`.
#[inline(always)]
fn turn<P: Platform>(platform: P, number: u32, slots: u32) -> u32 {
    match platform.turns(number) {
        // SAFETY: the word is a table's.
        Some(turn) => (unsafe { platform.add(turn, 1) } % u64::from(slots)) as u32,
        None => 0,
    }
}

/// Of two random slots of the ring the one whose backend has less to do (Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001).
#[inline(always)]
fn two<P: Platform>(platform: P, service: &Service) -> Option<Member> {
    let random = platform.random();
    let place = |bits: u32| ((u64::from(bits & 0xffff) * u64::from(service.slots)) >> 16) as u32;
    let one = slot(platform, service, place(random))?;
    let other = slot(platform, service, place(random >> 16))?;
    let score = |member: Member| connections::score(platform, service.measure, member);
    Some(if score(other).is_better_than(score(one)) {
        other
    } else {
        one
    })
}

/// The member that a slot of the ring stands for.
#[inline(always)]
fn slot<P: Platform>(platform: P, service: &Service, slot: u32) -> Option<Member> {
    let ring = chunk(platform, service.ring, slot / SLOTS_PER_CHUNK)?;
    // SAFETY: the index is masked to the chunk, which is aligned to eight bytes.
    let member = unsafe { *ring.cast::<u16>().add((slot % SLOTS_PER_CHUNK) as usize) };
    let members = chunk(platform, service.members, u32::from(member) / MEMBERS_PER_CHUNK)?;
    // SAFETY: the index is masked to the chunk, which is aligned to eight bytes.
    Some(unsafe {
        *members
            .cast::<Member>()
            .add((u32::from(member) % MEMBERS_PER_CHUNK) as usize)
    })
}

/// The chunk so many after the first one of a table.
#[inline(always)]
fn chunk<P: Platform>(platform: P, first: ChunkIndex, offset: u32) -> Option<*const Chunk> {
    platform.chunk(first.segment(), first.place() + offset)
}
