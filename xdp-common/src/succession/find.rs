//! Find: looks the flow of a packet up for a successor that does not know it yet, and changes nothing.

use super::{Found, successor};
use crate::{
    layout::Backend,
    path::{
        Env, Outcome,
        deliver::Ip,
        flow::{self, Place},
        outcome::{action, conclude},
        parse::{self, Header, Network},
        platform::Platform,
        service::{self, Role},
    },
    verdict::Verdict,
};

/// The program to which a successor leaves a client's packet whose flow it does not know.
#[inline(always)]
pub fn find<P: Platform>(platform: P, context: P::Context) -> u32 {
    let Some(env) = Env::of(platform, context) else {
        return action::PASS;
    };
    let outcome = match parse::network(&env) {
        Ok(Network::V4(header)) => leave(&env, &header, successor::V4),
        Ok(Network::V6(header)) => leave(&env, &header, successor::V6),
        Err(outcome) => outcome,
    };
    conclude(&env, Err(outcome))
}

/// Leaves what is found, and goes on in the successor.
#[inline(always)]
fn leave<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>, successor: u32) -> Outcome {
    let found = flow_of(env, header).unwrap_or_default();
    let Some(place) = env.platform.found(env.platform.cpu()) else {
        return Outcome::Drop(Verdict::DroppedNoProgram);
    };
    // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
    unsafe {
        (*place).backend = found.backend;
        (*place).state = found.state;
    }
    match env.platform.go_on(env.context, successor) {
        Some(action) => Outcome::Action(action),
        None => Outcome::Drop(Verdict::DroppedNoProgram),
    }
}

/// The flow of a client's packet, if there is one that goes on.
#[inline(always)]
fn flow_of<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>) -> Option<Found> {
    let packet = parse::transport(env, header).ok()?;
    let Role::Inbound(service) = service::role(env, &packet.tuple) else {
        return None;
    };
    let place = Place::<F>::of(env, packet.tuple.source, packet.tuple.source_port)?;
    let (found, backend) = place.inbound(env, service)?;
    let age = found.flow.seen().age(env.platform.jiffies(), env.control().tick);
    let is_over = backend.flags & Backend::UNUSABLE != 0 || flow::is_expired(env, backend, found.flow, age);
    (!is_over).then(|| Found {
        backend: place.backend(env, found.flow),
        state: found.flow.state() as u32,
        room: [0; 3],
    })
}
