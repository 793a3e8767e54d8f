//! TCP's states, as far as a balancer can tell them.

use std::{thread::sleep, time::Duration};

use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, FIN, PSH, RST, SYN, socket, tcp, udp},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::tcp_state::State;

use crate::balancer::{Action, Balancer};

const SERVICE: &str = "tcp://10.9.9.9:80";
const CLIENT: &str = "10.7.0.1:40001";
const VIP: &str = "10.9.9.9:80";

/// Who sends.
#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Backend,
}
use Side::{Backend, Client};

/// Sends packets of one connection to a service under NAT; after each the flow must be in its state.
fn walk(packets: &[(Side, u8, State)]) {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    for (number, (side, flags, state)) in packets.iter().enumerate() {
        let (ingress, frame) = match side {
            Client => (OUTSIDE, tcp(CLIENT, VIP, *flags)),
            Backend => (INSIDE, tcp("10.0.1.11:80", CLIENT, *flags)),
        };
        let data: &[u8] = if flags & PSH == 0 { b"" } else { b"data" };
        let (action, _) = balancer.run(ingress, &frame.payload(data).bytes());
        assert_eq!(action, Action::Redirect);
        assert_eq!(
            balancer.state(socket(CLIENT)),
            Some(*state),
            "after packet {number}: {side:?} sends {flags:#04x}"
        );
    }
}

#[test]
fn a_connection_is_established_by_the_client_s_answer_to_the_backend() {
    walk(&[
        (Client, SYN, State::SynReceived),
        (Client, SYN, State::SynReceived),
        (Backend, SYN | ACK, State::SynReceived),
        (Backend, SYN | ACK, State::SynReceived),
        (Client, ACK, State::Established),
        (Client, PSH | ACK, State::Established),
        (Backend, PSH | ACK, State::Established),
        (Backend, SYN | ACK, State::Established),
    ]);
}

#[test]
fn a_connection_that_the_client_closes_first_ends_when_the_backend_has_closed_too() {
    walk(&[
        (Client, SYN, State::SynReceived),
        (Client, ACK, State::Established),
        (Client, FIN | ACK, State::FinClient),
        (Backend, ACK, State::FinClient),
        (Backend, PSH | ACK, State::FinClient),
        (Client, ACK, State::FinClient),
        (Client, FIN | ACK, State::FinClient),
        (Backend, FIN | ACK, State::TimeWait),
        (Client, ACK, State::TimeWait),
        (Backend, FIN | ACK, State::TimeWait),
    ]);
}

#[test]
fn a_connection_that_the_backend_closes_first_ends_when_the_client_has_closed_too() {
    walk(&[
        (Client, SYN, State::SynReceived),
        (Client, ACK, State::Established),
        (Backend, FIN | PSH | ACK, State::FinBackend),
        (Client, ACK, State::FinBackend),
        (Client, PSH | ACK, State::FinBackend),
        (Backend, FIN | ACK, State::FinBackend),
        (Client, FIN | ACK, State::TimeWait),
        (Backend, ACK, State::TimeWait),
    ]);
}

#[test]
fn a_reset_by_either_side_closes_the_connection_for_good() {
    for side in [Client, Backend] {
        for flags in [RST, RST | ACK] {
            walk(&[
                (Client, SYN, State::SynReceived),
                (Client, ACK, State::Established),
                (side, flags, State::Closed),
                (Client, ACK, State::Closed),
                (Backend, FIN | ACK, State::Closed),
                (Client, FIN | ACK, State::Closed),
            ]);
        }
    }
    walk(&[(Client, SYN, State::SynReceived), (Backend, RST | ACK, State::Closed)]);
}

#[test]
fn a_connection_met_in_its_middle_counts_as_established() {
    walk(&[(Client, ACK, State::Established), (Backend, ACK, State::Established)]);
    walk(&[(Client, PSH | ACK, State::Established)]);
    walk(&[
        (Client, FIN | ACK, State::FinClient),
        (Backend, FIN | ACK, State::TimeWait),
    ]);
    walk(&[(Client, RST, State::Closed)]);
}

#[test]
fn under_direct_routing_the_client_s_packets_alone_tell_the_state() {
    for client in [CLIENT, "[2001:db8:7::1]:40001"] {
        let mut balancer = Balancer::new();
        let vip = if client == CLIENT {
            balancer.add(SERVICE, Forward::Dr, Scheduler::Rr, &["10.0.1.11"]);
            VIP
        } else {
            balancer.add(
                "tcp://[2001:db8:9::9]:80",
                Forward::Dr,
                Scheduler::Rr,
                &["2001:db8:1::11"],
            );
            "[2001:db8:9::9]:80"
        };
        balancer.apply();
        for (flags, state) in [
            (SYN, State::SynReceived),
            (ACK, State::Established),
            (FIN | ACK, State::FinClient),
            (ACK, State::FinClient),
            (RST, State::Closed),
        ] {
            balancer.host(&tcp(client, vip, flags).payload(b""));
            assert_eq!(balancer.state(socket(client)), Some(state));
        }
    }
}

#[test]
fn a_udp_flow_has_a_state_of_its_own_both_ways() {
    let mut balancer = Balancer::serving("udp://10.9.9.9:80", Forward::Nat, Scheduler::Rr, &["10.0.1.11"]);
    for (ingress, frame) in [(OUTSIDE, udp(CLIENT, VIP)), (INSIDE, udp("10.0.1.11:80", CLIENT))] {
        assert_eq!(balancer.run(ingress, &frame.bytes()).0, Action::Redirect);
        assert_eq!(balancer.state(socket(CLIENT)), Some(State::Udp));
    }
}

/// A connection with the first of two backends that take turns, after these segments without data.
fn after(forward: Forward, segments: &[(Side, u8)]) -> Balancer {
    let balancer = Balancer::serving(SERVICE, forward, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    connected(balancer, segments)
}

/// The balancer of two such backends, after these segments.
fn connected(mut balancer: Balancer, segments: &[(Side, u8)]) -> Balancer {
    assert_eq!(sent(&mut balancer, SYN), 11);
    assert_eq!(sent(&mut balancer, ACK), 11);
    for (side, flags) in segments {
        let (ingress, frame) = match side {
            Client => (OUTSIDE, tcp(CLIENT, VIP, *flags)),
            Backend => (INSIDE, tcp("10.0.1.11:80", CLIENT, *flags)),
        };
        let (action, _) = balancer.run(ingress, &frame.payload(b"").bytes());
        assert_eq!(action, Action::Redirect);
    }
    balancer
}

/// The host number of the backend to which a segment of the client without data goes.
#[track_caller]
fn sent(balancer: &mut Balancer, flags: u8) -> u8 {
    balancer.host(&tcp(CLIENT, VIP, flags).payload(b""))
}

#[test]
fn a_client_that_reuses_a_port_whose_connection_both_ends_have_closed_is_scheduled_anew() {
    let endings: [&[(Side, u8)]; 5] = [
        &[(Client, FIN | ACK), (Backend, FIN | ACK), (Client, ACK)],
        &[(Backend, FIN | ACK), (Client, FIN | ACK), (Backend, ACK)],
        &[(Client, FIN | ACK), (Backend, RST | ACK)],
        &[(Backend, FIN | ACK), (Client, RST)],
        &[(Client, FIN | ACK), (Backend, FIN | ACK), (Client, RST)],
    ];
    for ending in endings {
        let mut balancer = after(Forward::Nat, ending);
        assert_eq!(sent(&mut balancer, ACK), 11, "what is under way still");
        assert_eq!(sent(&mut balancer, SYN | ACK), 11, "opens nothing");
        assert_eq!(sent(&mut balancer, SYN), 12, "after {ending:02x?}");
        assert_eq!(balancer.state(socket(CLIENT)), Some(State::SynReceived));
        assert_eq!(sent(&mut balancer, ACK), 12);
        assert_eq!(balancer.state(socket(CLIENT)), Some(State::Established));
        assert_eq!(balancer.flows().len(), 1);
        assert_eq!(balancer.counters(SERVICE, "10.0.1.12:80").connections, 1);
    }
}

/// What one end alone may have sent, or somebody else in its name.
const ONE_SIDED: [(Forward, &[(Side, u8)]); 6] = [
    (Forward::Nat, &[(Client, FIN | ACK)]),
    (Forward::Nat, &[(Backend, FIN | ACK)]),
    (Forward::Nat, &[(Client, RST)]),
    (Forward::Nat, &[(Backend, RST | ACK)]),
    (Forward::Dr, &[(Client, FIN | ACK)]),
    (Forward::Dr, &[(Client, RST)]),
];

#[test]
fn a_syn_after_one_end_s_closing_goes_to_the_backend_which_knows_what_it_is() {
    for (forward, closing) in ONE_SIDED {
        let mut balancer = after(forward, closing);
        assert_eq!(sent(&mut balancer, SYN), 11, "after {closing:02x?}");
        assert_eq!(sent(&mut balancer, ACK), 11);
        assert_eq!(balancer.state(socket(CLIENT)), Some(State::Established));
        let counted = balancer.counters(SERVICE, "10.0.1.11:80").connections;
        assert_eq!(counted, 2, "what the SYN opens is a connection");
    }
}

#[test]
fn a_syn_that_comes_when_all_has_long_been_quiet_is_scheduled_anew() {
    for (forward, closing) in ONE_SIDED {
        let mut balancer = Balancer::serving(SERVICE, forward, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
        balancer.pace();
        let mut balancer = connected(balancer, closing);
        balancer.set_idle_timeout(State::Closed, 1);
        sleep(Duration::from_millis(40));
        assert_eq!(sent(&mut balancer, SYN), 12, "after {closing:02x?}");
    }
}

#[test]
fn a_syn_after_one_end_s_closing_is_none_of_a_backend_s_that_drains() {
    for (forward, closing) in ONE_SIDED {
        let mut balancer = after(forward, closing);
        balancer.drain(SERVICE, "10.0.1.11");
        balancer.apply();
        assert_eq!(sent(&mut balancer, SYN), 12, "after {closing:02x?}");
    }
}

#[test]
fn data_of_the_client_after_a_reset_or_a_fin_of_unknown_origin_revives_the_flow() {
    for (forward, closing) in ONE_SIDED {
        let mut balancer = after(forward, closing);
        assert_eq!(sent(&mut balancer, ACK), 11);
        assert_ne!(balancer.state(socket(CLIENT)), Some(State::Established), "no data");
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, PSH | ACK).payload(b"x")), 11);
        let state = match closing {
            // The client may go on after a FIN of the backend's.
            [(Backend, flags)] if flags & FIN != 0 => State::FinBackend,
            _ => State::Established,
        };
        assert_eq!(balancer.state(socket(CLIENT)), Some(state), "after {closing:02x?}");
    }
}

#[test]
fn a_syn_that_is_sent_again_is_no_new_connection() {
    let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
    for flags in [SYN, SYN, ACK, SYN, SYN | ACK] {
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, flags)), 11);
    }
    assert_eq!(balancer.counters(SERVICE, "10.0.1.11:80").connections, 1);
}
