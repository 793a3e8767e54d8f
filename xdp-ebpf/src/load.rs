//! Load: the connections of backends whose schedulers or thresholds ask for them, counted as they begin and end.
//!
//! Other backends' are counted by the daemon's sweeps alone: two CPUs need not share a cache line for them. Where a count and
//! an entry of the flow table cannot change as one, they differ for a moment, and the next sweep sets the count right.

use xdp_common::{
    layout::{Backend, Load, Member},
    load::{self, Measure, Score},
    tcp_state::State,
};

use crate::{Env, atomic, maps};

/// What a flow in a state adds to its backend's connections.
#[inline(always)]
fn weighs(state: State) -> u64 {
    match state {
        State::Template => 0,
        state if state.is_busy() => Load::ACTIVE,
        _ => Load::INACTIVE,
    }
}

/// Adds to the connections of a backend, and notes whether it has enough now.
#[inline(always)]
fn add(env: &Env, number: u32, backend: &Backend, connections: u64) {
    let Some(load) = maps::LOADS.get_ptr_mut(number) else {
        return;
    };
    // SAFETY: the words are a map's. Two CPUs that find another answer at once find the same.
    unsafe {
        if backend.flags & Backend::LIMITED == 0 {
            atomic::count(&raw mut (*load).connections, connections);
            return;
        }
        let now = Load {
            connections: atomic::add(&raw mut (*load).connections, connections).wrapping_add(connections),
            overloaded: atomic::load(&raw const (*load).overloaded),
        };
        if let Some(limit) = maps::LIMITS.get(number << 1 | env.bank) {
            atomic::store(&raw mut (*load).overloaded, u64::from(limit.overloads(now)));
        }
    }
}

/// A flow begins.
#[inline(always)]
pub fn begin(env: &Env, number: u32, backend: &Backend, state: State) {
    if backend.flags & Backend::COUNTED != 0 {
        add(env, number, backend, weighs(state));
    }
}

/// A flow ends.
#[inline(always)]
pub fn end(env: &Env, number: u32, backend: &Backend, state: State) {
    if backend.flags & Backend::COUNTED != 0 {
        add(env, number, backend, weighs(state).wrapping_neg());
    }
}

/// A flow comes into another state.
#[inline(always)]
pub fn change(env: &Env, number: u32, backend: &Backend, old: State, new: State) {
    if backend.flags & Backend::COUNTED != 0 {
        add(env, number, backend, weighs(new).wrapping_sub(weighs(old)));
    }
}

/// How a member of a service would do for a new connection. Without thresholds it is not overloaded, whatever was noted while
/// it had some.
#[inline(always)]
pub fn score(measure: Measure, member: Member) -> Score {
    let load = match maps::LOADS.get(member.number()) {
        // SAFETY: the words are a map's.
        Some(load) => unsafe {
            Load {
                connections: atomic::load(&raw const load.connections),
                overloaded: atomic::load(&raw const load.overloaded) & u64::from(member.is_limited()),
            }
        },
        None => Load::default(),
    };
    load::score(measure, load, member.weight())
}

/// Whether a backend has reached the upper threshold and not yet undercut the lower one.
#[inline(always)]
pub fn is_overloaded(number: u32) -> bool {
    match maps::LOADS.get(number) {
        // SAFETY: the word is a map's.
        Some(load) => unsafe { atomic::load(&raw const load.overloaded) != 0 },
        None => false,
    }
}
