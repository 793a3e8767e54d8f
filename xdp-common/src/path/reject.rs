//! Reject: who asks a service that has no backend left is told so at once, as a host tells who asks a port of its own on which nobody
//! listens.

use super::{Env, Outcome, answer, count, deliver::Ip, handover, platform::Platform, transmit};
use crate::{
    layout::{ANSWERS_PER_SECOND, Handover, Service},
    tcp_state::RST,
    verdict::Verdict,
    wire::protocol,
};

/// Drops the packet, from where the program before has left it, or answers it: where no backend is left, if its service wants that.
#[inline(always)]
pub fn go_on<P: Platform, F: Ip>(env: &Env<P>, handover: &Handover) -> Result<Outcome, Outcome> {
    let verdict = handover::verdict(handover);
    let rejects = env
        .service(handover.service)
        .is_some_and(|service| service.flags & Service::REJECTS != 0);
    if verdict != Verdict::DroppedNoBackend || !rejects {
        return Err(Outcome::Drop(verdict));
    }
    let packet = handover::packet::<P, F>(env, handover)?;
    let (source, destination) = (packet.tuple.source, packet.tuple.destination);
    // Nobody answers a RST (RFC 9293, section 3.10.7.1), nor what does not come from one host (RFC 1122, section 3.2.2; RFC 4443,
    // section 2.4(e)).
    let asks = packet.flags & RST == 0 && F::is_one_host(source) && source != destination;
    if !asks || !may_answer(env) {
        return Err(Outcome::Drop(Verdict::DroppedNoBackend));
    }
    let (ip, transport) = (handover.ip as usize, handover.transport as usize);
    let is_answered = match packet.tuple.protocol {
        protocol::TCP => answer::reset(env, &packet, ip, transport),
        _ => answer::port_unreachable(env, &packet, ip),
    };
    if !is_answered {
        return Err(Outcome::Drop(Verdict::DroppedNoBackend));
    }
    count::verdict(env, Verdict::RejectedNoBackend);
    env.platform.warn(env.context, Verdict::DroppedNoBackend);
    Ok(transmit::back(env))
}

/// Whether this CPU may send one more answer in this second.
#[inline(always)]
fn may_answer<P: Platform>(env: &Env<P>) -> bool {
    let Some(answers) = env.platform.answers(env.platform.cpu()) else {
        return false;
    };
    // SAFETY: the entry is the table's only one.
    let hertz = u64::from(unsafe { (*env.control()).hertz });
    let second = env.platform.jiffies().checked_div(hertz).unwrap_or(0);
    // SAFETY: the entry is this CPU's, and programs on a CPU do not interrupt each other.
    unsafe {
        if (*answers).second != second {
            (*answers).second = second;
            (*answers).sent = 0;
        }
        (*answers).sent += 1;
        (*answers).sent <= ANSWERS_PER_SECOND
    }
}
