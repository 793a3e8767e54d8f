//! TCP's states, as far as a balancer can tell them.

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
        let (action, _) = balancer.run(ingress, &frame.bytes());
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
            balancer.host(&tcp(client, vip, flags));
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

#[test]
fn a_client_that_reuses_a_port_whose_connection_is_over_is_scheduled_anew() {
    let endings: [&[(Side, u8)]; 5] = [
        &[(Client, FIN | ACK)],
        &[(Backend, FIN | ACK)],
        &[(Client, FIN | ACK), (Backend, FIN | ACK), (Client, ACK)],
        &[(Client, RST)],
        &[(Backend, RST | ACK)],
    ];
    for ending in endings {
        let mut balancer = Balancer::serving(SERVICE, Forward::Nat, Scheduler::Rr, &["10.0.1.11", "10.0.1.12"]);
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, SYN)), 11);
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, ACK)), 11);
        for (side, flags) in ending {
            let (ingress, frame) = match side {
                Client => (OUTSIDE, tcp(CLIENT, VIP, *flags)),
                Backend => (INSIDE, tcp("10.0.1.11:80", CLIENT, *flags)),
            };
            assert_eq!(balancer.run(ingress, &frame.bytes()).0, Action::Redirect);
        }
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, ACK)), 11, "what is under way still");
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, SYN | ACK)), 11, "opens nothing");
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, SYN)), 12, "after {ending:02x?}");
        assert_eq!(balancer.state(socket(CLIENT)), Some(State::SynReceived));
        assert_eq!(balancer.host(&tcp(CLIENT, VIP, ACK)), 12);
        assert_eq!(balancer.state(socket(CLIENT)), Some(State::Established));
        assert_eq!(balancer.flows().len(), 1);
        assert_eq!(balancer.counters(SERVICE, "10.0.1.12:80").connections, 1);
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
