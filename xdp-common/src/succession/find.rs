//! Find: looks the flow of a packet up for a successor that does not know it yet, and changes nothing.

use crate::{
    layout::Service,
    path::{
        Env, Outcome,
        deliver::Ip,
        flow::{self, Place},
        outcome::{action, conclude},
        parse::{self, Header, Network},
        persistence,
        platform::Platform,
        service::{self, Role},
    },
    tcp_state::State,
    verdict::Verdict,
};

/// The program to which a successor leaves a client's packet whose flow it does not know. It leaves what it finds, and goes on in
/// the successor, whatever the packet is to this dataplane.
#[inline(always)]
pub fn find<P: Platform>(platform: P, context: P::Context) -> u32 {
    let Some(env) = Env::of(platform, context) else {
        return action::PASS;
    };
    let found = match parse::network(&env) {
        Ok(Network::V4(header)) => flow_of(&env, &header),
        Ok(Network::V6(header)) => flow_of(&env, &header),
        Err(_) => None,
    };
    conclude(&env, Err(leave(&env, found)))
}

/// Leaves what is found, and goes on.
#[inline(always)]
fn leave<P: Platform>(env: &Env<P>, found: Option<(u32, State, bool)>) -> Outcome {
    let none = Outcome::Drop(Verdict::DroppedNoProgram);
    let Some(place) = env.platform.found(env.platform.cpu()) else {
        return none;
    };
    let (backend, state, quiet) = match found {
        Some((backend, state, quiet)) => (backend, state as u32, u32::from(quiet)),
        None => (0, 0, 0),
    };
    // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
    let successor = unsafe {
        (*place).backend = backend;
        (*place).state = state;
        (*place).quiet = quiet;
        (*place).successor
    };
    match env.platform.go_on(env.context, successor) {
        Some(action) => Outcome::Action(action),
        None => none,
    }
}

/// The flow of a client's packet, if there is one that goes on, and whether it was quiet; else whom the client persists with. What
/// has become of the
/// backend is for the successor to say.
#[inline(always)]
fn flow_of<P: Platform, F: Ip>(env: &Env<P>, header: &Header<F>) -> Option<(u32, State, bool)> {
    let packet = parse::transport(env, header).ok()?;
    let Role::Inbound(number) = service::role(env, &packet.tuple) else {
        return None;
    };
    let (source, port) = (packet.tuple.source, packet.tuple.source_port);
    let place = Place::<F>::of(env, source, port)?;
    if let Some((found, backend)) = place.inbound(env, number) {
        let age = found.flow.seen().age(env.platform.jiffies(), env.tick());
        if !flow::is_expired(env, backend, found.flow, age) {
            let is_quiet = flow::is_quiet(env, backend, found.flow, age);
            return Some((place.backend(env, found.flow), found.flow.state(), is_quiet));
        }
    }
    let service = env.service(number)?;
    if service.flags & Service::PERSISTENT == 0 {
        return None;
    }
    let backend = persistence::backend::<P, F>(env, number, service, source)?;
    Some((backend, State::Template, false))
}
