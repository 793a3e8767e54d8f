//! Adopt: a flow that the predecessor has found goes on here; what it does not know begins here.
//!
//! The program that was attached has looked at the packet; what it found out is taken over, as in [`super::new_flow`].

use super::{
    Env, Outcome,
    deliver::{self, Ip},
    flow::{self, Insertion, Place},
    handover,
    parse::Packet,
    platform::Platform,
};
use crate::{
    layout::{Backend, ClientId, FLOWS_PER_BUCKET, Handover},
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
        // An entry of this dataplane's own that is over is newer than what the predecessor knows of the flow.
        let is_new = opens && (handover.reuse as usize) < FLOWS_PER_BUCKET;
        if state == State::Template || is_new {
            let takes = backend.flags & (Backend::QUIESCED | Backend::UNUSABLE) == 0;
            handover::persist(env, if takes { found.backend } else { 0 });
        } else if backend.flags & Backend::UNUSABLE != 0 {
            if backend.flags & Backend::DROPPING != 0 && !opens {
                return Err(Outcome::Drop(Verdict::DroppedBackendLost));
            }
        } else {
            let before = match state.is_closed() {
                true => flow::go_on_after_close(env, &packet, found.backend, backend, state, || found.quiet != 0),
                false => Some(state),
            };
            if let Some(state) = before {
                return adopt(env, &packet, handover, (found.backend, state), backend);
            }
        }
    }
    Err(handover::tail_call(env, F::NEW_FLOW))
}

/// Records the flow that was in this state before the packet, and delivers it to its backend.
#[inline(always)]
fn adopt<P: Platform, F: Ip>(
    env: &Env<P>,
    packet: &Packet<F>,
    handover: &Handover,
    (number, before): (u32, State),
    backend: &Backend,
) -> Result<Outcome, Outcome> {
    deliver::deliverable(packet, backend)?;
    let state = match packet.tuple.protocol {
        protocol::TCP => before.next(packet.flags, From::Client),
        _ => State::Udp,
    };
    if let Some(place) = Place::<F>::at(env, packet.tuple.source, ClientId(handover.client)) {
        // Without a record the copy of the predecessor's, which is under way, serves the next packet.
        let _: Insertion = place.insert(env, state, handover.reuse as usize, number, backend);
    }
    Ok(deliver::to_backend(env, packet, number, backend, false))
}
