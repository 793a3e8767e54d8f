//! Compare: the best of a service's members, where it is their load that tells.
//!
//! A chunk of members is looked at by each call that `bpf_loop` makes: the verifier walks one such call instead of all.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use xdp_common::{
    layout::{ChunkIndex, MEMBERS_PER_CHUNK, Member, SCANNED, Service},
    load::{Measure, Score},
};

use crate::{Env, atomic, forget, load, maps};

/// Chunks that are looked at for one new connection, at most, if one of their members takes it.
const CHUNKS: u32 = SCANNED / MEMBERS_PER_CHUNK;

/// The best member of a service for a new connection. Of more than [`SCANNED`] members, one window after the other is looked
/// at, and what follows it while nobody in it takes the connection. Where the heaviest is wanted, members are in that order.
#[inline(always)]
pub fn best(number: u32, service: &Service, measure: Measure) -> Option<Member> {
    let chunks = service.members_length.div_ceil(MEMBERS_PER_CHUNK);
    let begin = match maps::TURNS.get_ptr_mut(number) {
        // SAFETY: the word is a map's.
        Some(turn) if chunks > CHUNKS && measure.heaviest == 0 => {
            unsafe { atomic::add(turn, 1) }.wrapping_mul(u64::from(CHUNKS))
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
    };
    scan.forget();
    // SAFETY: the callback takes the pointer for what it is, and the kernel calls it no longer than this call lasts.
    unsafe {
        bpf_loop(chunks, look as *mut c_void, (&raw mut scan).cast(), 0);
    }
    let best = Member(scan.best);
    (best.number() != 0).then_some(best)
}

/// The member of a service that is at an address and takes new connections.
#[inline(always)]
pub fn at(env: &Env, service: &Service, address: [u64; 2]) -> Option<Member> {
    let chunks = service.members_length.div_ceil(MEMBERS_PER_CHUNK);
    let found = Member(lvx_member_at(
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
struct Scan {
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
}

impl Scan {
    /// To the verifier each look shall begin with what any other left: it need not walk the rest for each.
    #[inline(always)]
    fn forget(&mut self) {
        let forget = |word: u64| forget::below::<{ (1 << 48) - 1 }>(word as usize, self.first as usize) as u64;
        (self.best, self.numerator, self.denominator) =
            (forget(self.best), forget(self.numerator), forget(self.denominator));
    }
}

/// Looks at one chunk. The kernel goes on while this returns 0.
extern "C" fn look(index: u64, scan: *mut Scan) -> u64 {
    // SAFETY: the pointer is the one that `best` gave, and nobody else has it.
    let scan = unsafe { &mut *scan };
    if index >= u64::from(CHUNKS) && scan.best != 0 {
        return 1;
    }
    let mut chunk = scan.begin + index;
    if chunk >= scan.chunks {
        chunk -= scan.chunks;
    }
    let first = ChunkIndex(scan.first as u32);
    let Some(members) = maps::SCHEDULES.get_value(first.segment(), &(first.place() + chunk as u32)) else {
        return 1;
    };
    for word in members {
        let member = Member(*word);
        // SAFETY: the word is on the caller's stack. Read each time, so that its parts are not kept on this one's.
        let measure = Measure::from_word(unsafe { atomic::load(&raw const scan.measure) });
        let best = Score {
            numerator: scan.numerator,
            denominator: scan.denominator,
        };
        let this = load::score(measure, member);
        if this.is_better_than(best) {
            scan.best = member.0;
            scan.numerator = this.numerator;
            scan.denominator = this.denominator;
        }
        scan.forget();
    }
    0
}

/// A search under way for the member at an address.
#[repr(C)]
struct Search {
    first: u64,
    bank: u64,
    address: [u64; 2],
    found: u64,
}

/// Of the members in so many chunks the one at an address that takes new connections, as [`Member`]; 0 if there is none.
/// Global to the verifier, as [`crate::scheduler::lvx_choose`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lvx_member_at(first: u64, chunks: u64, bank: u64, high: u64, low: u64) -> u64 {
    let mut search = Search {
        first,
        bank,
        address: [high, low],
        found: 0,
    };
    // SAFETY: as in `best`.
    unsafe {
        bpf_loop(chunks as u32, find as *mut c_void, (&raw mut search).cast(), 0);
    }
    search.found
}

/// Looks at one chunk. The kernel goes on while this returns 0.
extern "C" fn find(index: u64, search: *mut Search) -> u64 {
    // SAFETY: as in `look`.
    let search = unsafe { &mut *search };
    let first = ChunkIndex(search.first as u32);
    let Some(members) = maps::SCHEDULES.get_value(first.segment(), &(first.place() + index as u32)) else {
        return 1;
    };
    for word in members {
        let member = Member(*word);
        if member.weight() != 0
            && let Some(backend) = maps::BACKENDS.get(member.number() << 1 | search.bank as u32)
            && backend.address == search.address
        {
            search.found = member.0;
            return 1;
        }
    }
    0
}
