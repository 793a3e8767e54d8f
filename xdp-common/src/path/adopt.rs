//! Adopt: a flow that the predecessor has found goes on here; what it does not know begins here.
//!
//! The program that was attached has looked at the packet; what it found out is taken over, as in [`super::new_flow`].

use super::{
    Env, Outcome,
    deliver::{self, Ip},
    flow::{Insertion, Place},
    handover,
    parse::Packet,
    platform::Platform,
};
use crate::{
    layout::{Backend, ClientId, Handover},
    succession::Found,
    tcp_state::{From, State, opens},
    verdict::Verdict,
    wire::protocol,
};

/// A client's packet, from where the predecessor has left it.
#[inline(always)]
pub fn go_on<P: Platform, F: Ip>(env: &Env<P>, handover: &Handover) -> Result<Outcome, Outcome> {
    let packet = handover::packet::<P, F>(env, handover)?;
    let found = handover::found(env);
    if let Some(backend) = env.backend(found.backend)
        && found.backend != 0
        && u32::from(backend.service) == handover.service
    {
        let state = State::from_bits(found.state as u8);
        let opens = opens(packet.flags);
        if state == State::Template {
            let takes = backend.flags & (Backend::QUIESCED | Backend::UNUSABLE) == 0;
            handover::persist(env, if takes { found.backend } else { 0 });
        } else if backend.flags & Backend::UNUSABLE != 0 {
            if backend.flags & Backend::DROPPING != 0 && !opens {
                return Err(Outcome::Drop(Verdict::DroppedBackendLost));
            }
        } else if !(opens && state.is_closed()) {
            return adopt(env, &packet, handover, found, backend);
        }
    }
    Err(handover::tail_call(env, F::NEW_FLOW))
}

/// Records the flow, and delivers the packet to its backend.
#[inline(always)]
fn adopt<P: Platform, F: Ip>(
    env: &Env<P>,
    packet: &Packet<F>,
    handover: &Handover,
    found: Found,
    backend: &Backend,
) -> Result<Outcome, Outcome> {
    deliver::deliverable(packet, backend)?;
    let state = match packet.tuple.protocol {
        protocol::TCP => State::from_bits(found.state as u8).next(packet.flags, From::Client),
        _ => State::Udp,
    };
    if let Some(place) = Place::<F>::at(env, packet.tuple.source, ClientId(handover.client)) {
        // Without a record the copy of the predecessor's, which is under way, serves the next packet.
        let _: Insertion = place.insert(env, state, handover.reuse as usize, found.backend, backend);
    }
    Ok(deliver::to_backend(env, packet, found.backend, backend, false))
}
