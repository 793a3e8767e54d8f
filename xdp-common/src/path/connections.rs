//! Connections of backends whose schedulers or thresholds ask for them, counted as they begin and end.
//!
//! Other backends' are counted by the daemon's sweeps alone: two CPUs need not share a cache line for them. Where a count and
//! an entry of the flow table cannot change as one, they differ for a moment, and the next sweep sets the count right.

use super::{Env, platform::Platform};
use crate::{
    layout::{Backend, Connections, Member},
    load::{self, Measure, Score},
    tcp_state::State,
};

/// What a flow in a state adds to its backend's connections.
#[inline(always)]
const fn weighs(state: State) -> u64 {
    match state {
        State::Template => 0,
        state if state.is_busy() => Connections::ACTIVE,
        _ => Connections::INACTIVE,
    }
}

/// Adds to the connections of a backend, and notes whether it has enough now.
#[inline(always)]
fn add<P: Platform>(platform: P, bank: u32, number: u32, backend: &Backend, connections: u64) {
    let Some(counted) = platform.connections(number) else {
        return;
    };
    // SAFETY: the words are a table's. Two CPUs that find another answer at once find the same.
    unsafe {
        let word = &raw mut (*counted).word;
        if backend.flags & Backend::LIMITED == 0 {
            platform.count(word, connections);
            return;
        }
        let now = Connections {
            word: platform.add(word, connections).wrapping_add(connections),
            overloaded: platform.load(&raw const (*counted).overloaded),
        };
        if let Some(limit) = platform.limits(number << 1 | bank) {
            let overloaded = u64::from((*limit).overloads(now));
            platform.store(&raw mut (*counted).overloaded, overloaded);
        }
    }
}

/// A flow begins.
#[inline(always)]
pub fn begin<P: Platform>(env: &Env<P>, number: u32, backend: &Backend, state: State) {
    if backend.flags & Backend::COUNTED != 0 {
        add(env.platform, env.bank, number, backend, weighs(state));
    }
}

/// A flow ends.
#[inline(always)]
pub fn end<P: Platform>(env: &Env<P>, number: u32, backend: &Backend, state: State) {
    end_in(env.platform, env.bank, number, backend, state);
}

/// The same where there is no packet, in this bank.
#[inline(always)]
pub fn end_in<P: Platform>(platform: P, bank: u32, number: u32, backend: &Backend, state: State) {
    if backend.flags & Backend::COUNTED != 0 {
        add(platform, bank, number, backend, weighs(state).wrapping_neg());
    }
}

/// A flow comes into another state.
#[inline(always)]
pub fn change<P: Platform>(env: &Env<P>, number: u32, backend: &Backend, old: State, new: State) {
    if backend.flags & Backend::COUNTED != 0 {
        add(
            env.platform,
            env.bank,
            number,
            backend,
            weighs(new).wrapping_sub(weighs(old)),
        );
    }
}

/// How a member of a service would do for a new connection. Without thresholds it is not overloaded, whatever was noted while
/// it had some.
#[inline(always)]
pub fn score<P: Platform>(platform: P, measure: Measure, member: Member) -> Score {
    let counted = match platform.connections(member.number()) {
        // SAFETY: the words are a table's.
        Some(counted) => unsafe {
            Connections {
                word: platform.load(&raw const (*counted).word),
                overloaded: platform.load(&raw const (*counted).overloaded) & u64::from(member.is_limited()),
            }
        },
        None => Connections::default(),
    };
    load::score(measure, counted, member.weight())
}

/// Whether a backend has reached the upper threshold and not yet undercut the lower one.
#[inline(always)]
pub fn is_overloaded<P: Platform>(platform: P, number: u32) -> bool {
    match platform.connections(number) {
        // SAFETY: the word is a table's.
        Some(counted) => unsafe { platform.load(&raw const (*counted).overloaded) != 0 },
        None => false,
    }
}
