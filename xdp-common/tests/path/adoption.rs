//! Adoption: a flow that only the predecessor knows goes on, revives or begins anew by the rules of flows that are known.

use lvx_test_kit::{
    frame::{ACK, FIN, PSH, RST, SYN, socket, tcp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::{layout::Control, tcp_state::State};

use crate::{balancer::Balancer, configuration::Service};

const CLIENT: &str = "10.7.0.1:40000";
const VIP: &str = "10.9.9.9:80";
/// A segment of the client's, or of the backend's.
type Segment = (bool, u8);

fn service() -> Service {
    Service::nat("tcp://10.9.9.9:80", &["10.0.1.11:80", "10.0.1.12:80"])
}

/// A balancer that comes after one with a connection over which these segments went, and so many seconds. Its turn is the other
/// backend's.
fn succeeding(segments: &[Segment], seconds: u64, change: impl FnOnce(&mut Service)) -> Balancer {
    let mut before = Balancer::new(&[service()]);
    for (is_client, flags) in [(true, SYN), (true, ACK)].iter().chain(segments) {
        let (ingress, from, to) = match is_client {
            true => (OUTSIDE, CLIENT, VIP),
            false => (INSIDE, "10.0.1.11:80", CLIENT),
        };
        before.run(ingress, &tcp(from, to, *flags).payload(b"").bytes());
    }
    before.wait(seconds);
    let mut changed = service();
    change(&mut changed);
    let mut after = Balancer::new(&[changed]);
    after.wait(seconds);
    after.host(&tcp("10.7.0.9:1", VIP, SYN));
    after.tables.succeed(Some(before.tables));
    after.control(|control| control.mode |= Control::SUCCEEDING);
    after
}

/// What only one end has sent, or somebody in its name.
const ONE_SIDED: [Segment; 4] = [(true, FIN | ACK), (false, FIN | ACK), (true, RST), (false, RST | ACK)];

#[test]
fn a_syn_after_one_end_s_closing_goes_to_the_backend_that_the_predecessor_knows() {
    for closing in ONE_SIDED {
        let after = succeeding(&[closing], 1, |_| ());
        assert_eq!(after.host(&tcp(CLIENT, VIP, SYN)), 11, "after {closing:02x?}");
        assert_eq!(after.flow(socket(CLIENT)).state, State::SynReceived);
        assert_eq!(
            after.counters(1, 1).connections,
            2,
            "what the SYN opens is a connection"
        );
        assert_eq!(after.host(&tcp(CLIENT, VIP, ACK)), 11);
    }
}

#[test]
fn a_syn_begins_anew_what_both_ends_have_closed_or_has_long_been_quiet_there() {
    for (segments, seconds) in [
        (&[(true, FIN | ACK), (false, FIN | ACK)][..], 1),
        (&[(false, FIN | ACK), (true, RST)], 1),
        (&[(true, FIN | ACK)], 15),
        (&[(false, FIN | ACK)], 15),
    ] {
        let after = succeeding(segments, seconds, |_| ());
        assert_eq!(after.host(&tcp(CLIENT, VIP, SYN)), 12, "after {segments:02x?}");
    }
    // No SYN: what is under way still.
    let after = succeeding(&[(true, FIN | ACK), (false, FIN | ACK)], 15, |_| ());
    assert_eq!(after.host(&tcp(CLIENT, VIP, ACK).payload(b"")), 11);
    assert_eq!(after.flow(socket(CLIENT)).state, State::TimeWait);
}

#[test]
fn a_syn_after_one_end_s_closing_is_none_of_a_backend_s_that_drains() {
    for closing in ONE_SIDED {
        let after = succeeding(&[closing], 1, |service| *service = service.clone().weights(&[0, 1]));
        assert_eq!(after.host(&tcp(CLIENT, VIP, SYN)), 12, "after {closing:02x?}");
    }
}

#[test]
fn data_of_the_client_revives_a_flow_that_the_predecessor_knows_as_closed() {
    for closing in ONE_SIDED {
        let after = succeeding(&[closing], 1, |_| ());
        assert_eq!(after.host(&tcp(CLIENT, VIP, PSH | ACK).payload(b"x")), 11);
        let state = match closing {
            // The client may go on after the backend's FIN.
            (false, flags) if flags & FIN != 0 => State::FinBackend,
            _ => State::Established,
        };
        assert_eq!(after.flow(socket(CLIENT)).state, state, "after {closing:02x?}");
    }
}

#[test]
fn what_has_ended_since_is_not_the_predecessor_s_any_more() {
    let after = succeeding(&[], 1, |_| ());
    assert_eq!(after.host(&tcp(CLIENT, VIP, FIN | ACK)), 11, "adopted");
    after.run(INSIDE, &tcp("10.0.1.11:80", CLIENT, FIN | ACK).bytes());
    assert_eq!(after.flow(socket(CLIENT)).state, State::TimeWait);
    assert_eq!(
        after.host(&tcp(CLIENT, VIP, SYN)),
        12,
        "the predecessor's word is older"
    );
}
