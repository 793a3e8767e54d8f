//! Compare: the best of a service's members, where it is their load that tells.
//!
//! A chunk of members is looked at by each call that [`Platform::repeat`] makes: the verifier walks one such call instead of
//! all.

use super::{Env, connections, platform::Platform};
use crate::{
    layout::{ChunkIndex, MEMBERS_PER_CHUNK, Member, SCANNED, Service},
    load::{Measure, Score},
};

/// Chunks that are looked at for one new connection, at most, if one of their members takes it.
const CHUNKS: u32 = SCANNED / MEMBERS_PER_CHUNK;

/// The members in a chunk of the scheduling tables.
#[inline(always)]
pub fn members<P: Platform>(platform: P, first: u64, offset: u32) -> Option<*const Member> {
    let first = ChunkIndex(first as u32);
    let chunk = platform.chunk(first.segment(), first.place() + offset)?;
    Some(chunk.cast())
}

/// The best member of a service for a new connection. Of more than [`SCANNED`] members, one window after the other is looked
/// at, and what follows it while nobody in it takes the connection. Where the heaviest is wanted, members are in that order.
#[inline(always)]
pub fn best<P: Platform>(platform: P, number: u32, service: &Service, measure: Measure) -> Option<Member> {
    let chunks = service.members_length.div_ceil(MEMBERS_PER_CHUNK);
    let begin = match platform.turns(number) {
        Some(turn) if chunks > CHUNKS && measure.heaviest == 0 => {
            // SAFETY: the word is a table's.
            unsafe { platform.add(turn, 1) }.wrapping_mul(u64::from(CHUNKS))
        }
        _ => 0,
    };
    let mut scan = Scan {
        first: u64::from(service.members.0),
        chunks: u64::from(chunks),
        begin: if chunks > 0 { begin % u64::from(chunks) } else { 0 },
        measure: measure.word(),
        best: 0,
        numerator: Score::NONE.numerator,
        denominator: Score::NONE.denominator,
        platform,
    };
    scan.bound();
    platform.repeat(chunks, look::<P>, &mut scan);
    let best = Member(scan.best);
    (best.number() != 0).then_some(best)
}

/// The member of a service that is at an address and takes new connections.
#[inline(always)]
pub fn at<P: Platform>(env: &Env<P>, service: &Service, address: [u64; 2]) -> Option<Member> {
    let chunks = service.members_length.div_ceil(MEMBERS_PER_CHUNK);
    let found = Member(env.platform.member_at(
        u64::from(service.members.0),
        u64::from(chunks),
        u64::from(env.bank),
        address[0],
        address[1],
    ));
    (found.number() != 0).then_some(found)
}

/// A comparison under way, on the stack: words only, because stores of less may go to any address there.
#[repr(C)]
struct Scan<P> {
    /// The first chunk of the members.
    first: u64,
    /// How many chunks of members there are.
    chunks: u64,
    /// The one to begin with.
    begin: u64,
    measure: u64,
    /// The best member of those looked at; 0 if there is none.
    best: u64,
    /// Its score.
    numerator: u64,
    denominator: u64,
    platform: P,
}

impl<P: Platform> Scan<P> {
    /// To the verifier each look shall begin with what any other left: it need not walk the rest for each.
    #[inline(always)]
    fn bound(&mut self) {
        let (platform, unknown) = (self.platform, self.first as usize);
        let bound = |word: u64| platform.bounded::<{ (1 << 48) - 1 }>(word as usize, unknown) as u64;
        (self.best, self.numerator, self.denominator) =
            (bound(self.best), bound(self.numerator), bound(self.denominator));
    }
}

/// Looks at one chunk, and goes on while this returns 0.
extern "C" fn look<P: Platform>(index: u64, scan: *mut Scan<P>) -> u64 {
    // SAFETY: the pointer is the one that `best` gave, and nobody else has it.
    let scan = unsafe { &mut *scan };
    let platform = scan.platform;
    if index >= u64::from(CHUNKS) && scan.best != 0 {
        return 1;
    }
    let mut chunk = scan.begin + index;
    if chunk >= scan.chunks {
        chunk -= scan.chunks;
    }
    let Some(members) = members(platform, scan.first, chunk as u32) else {
        return 1;
    };
    for place in 0..MEMBERS_PER_CHUNK as usize {
        // SAFETY: the chunk has so many members.
        let member = unsafe { *members.add(place) };
        // SAFETY: the word is on the caller's stack. Read each time, so that its parts are not kept on this one's.
        let measure = Measure::from_word(unsafe { platform.load(&raw const scan.measure) });
        let best = Score {
            numerator: scan.numerator,
            denominator: scan.denominator,
        };
        let this = connections::score(platform, measure, member);
        if this.is_better_than(best) {
            scan.best = member.0;
            scan.numerator = this.numerator;
            scan.denominator = this.denominator;
        }
        scan.bound();
    }
    0
}

/// A search under way for the member at an address.
#[repr(C)]
struct Search<P> {
    first: u64,
    bank: u64,
    address: [u64; 2],
    found: u64,
    platform: P,
}

/// Of the members in so many chunks the one at an address that takes new connections, as [`Member`]; 0 if there is none.
#[inline(always)]
pub fn member_at<P: Platform>(platform: P, first: u64, chunks: u64, bank: u64, high: u64, low: u64) -> u64 {
    let mut search = Search {
        first,
        bank,
        address: [high, low],
        found: 0,
        platform,
    };
    platform.repeat(chunks as u32, find::<P>, &mut search);
    search.found
}

/// Looks at one chunk, and goes on while this returns 0.
extern "C" fn find<P: Platform>(index: u64, search: *mut Search<P>) -> u64 {
    // SAFETY: the pointer is the one that `member_at` gave, and nobody else has it.
    let search = unsafe { &mut *search };
    let platform = search.platform;
    let Some(members) = members(platform, search.first, index as u32) else {
        return 1;
    };
    for place in 0..MEMBERS_PER_CHUNK as usize {
        // SAFETY: the chunk has so many members.
        let member = unsafe { *members.add(place) };
        if member.weight() != 0
            && let Some(backend) = platform.backends(member.number() << 1 | search.bank as u32)
            // SAFETY: a bank is not written while packets may read it.
            && unsafe { (*backend).address } == search.address
        {
            search.found = member.0;
            return 1;
        }
    }
    0
}
