//! Loss: what becomes of a flow whose backend was deleted or is down.

use std::{net::SocketAddr, time::Duration};

use lvx_model::{Forward, OnLoss, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, Transport, socket},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::{tcp_state::State, verdict::Verdict};

use crate::balancer::{Action, Balancer};

/// A service with two backends, and a client whose flow the first has.
struct Case {
    service: &'static str,
    client: &'static str,
    backends: [&'static str; 2],
}

const TCP: Transport = Transport::Tcp { flags: ACK };
const UDP: Transport = Transport::Udp { checksum: true };

const CASES: [Case; 4] = [
    Case {
        service: "tcp://10.9.9.9:80",
        client: "10.7.0.1:40001",
        backends: ["10.0.1.11", "10.0.1.12"],
    },
    Case {
        service: "udp://10.9.9.9:80",
        client: "10.7.0.1:40001",
        backends: ["10.0.1.11", "10.0.1.12"],
    },
    Case {
        service: "tcp://[2001:db8:9::9]:80",
        client: "[2001:db8:7::1]:40001",
        backends: ["2001:db8:1::b", "2001:db8:1::c"],
    },
    Case {
        service: "udp://[2001:db8:9::9]:80",
        client: "[2001:db8:7::1]:40001",
        backends: ["2001:db8:1::b", "2001:db8:1::c"],
    },
];

/// How a backend is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Deleted,
    Down,
}

impl Case {
    fn is_tcp(&self) -> bool {
        self.service.starts_with("tcp")
    }

    /// What goes on with the flow.
    fn frame(&self) -> Frame {
        let (_, vip) = self.service.split_once("://").unwrap();
        Frame::new(socket(self.client), socket(vip), if self.is_tcp() { TCP } else { UDP })
    }

    fn real(&self, backend: usize) -> String {
        SocketAddr::new(self.backends[backend].parse().unwrap(), 80).to_string()
    }

    /// The client's flow is with backend 11; a flow of another client with 12.
    fn serving(&self, scheduler: Scheduler, on_loss: OnLoss) -> Balancer {
        let mut balancer = Balancer::new();
        balancer.add(self.service, Forward::Nat, scheduler, &self.backends);
        let change = ServiceChange {
            on_loss: Some(on_loss),
            ..ServiceChange::default()
        };
        balancer.set(self.service, &change);
        balancer.apply();
        assert_eq!(balancer.host(&self.frame()), 11);
        assert_eq!(balancer.host(&self.neighbour()), 12);
        balancer
    }

    fn neighbour(&self) -> Frame {
        let mut frame = self.frame();
        frame.source.set_port(40_002);
        frame
    }

    fn lose(&self, balancer: &mut Balancer, loss: Loss) {
        match loss {
            Loss::Deleted => balancer.del_backend(self.service, self.backends[0]),
            Loss::Down => balancer.is_up(self.service, &self.real(0), false),
        }
        balancer.apply();
    }

    fn back(&self, balancer: &mut Balancer, loss: Loss) {
        match loss {
            Loss::Deleted => balancer.add_backend(self.service, self.backends[0]),
            Loss::Down => balancer.is_up(self.service, &self.real(0), true),
        }
        balancer.apply();
    }
}

fn all() -> impl Iterator<Item = (Case, Loss)> {
    CASES
        .into_iter()
        .flat_map(|case| [Loss::Deleted, Loss::Down].map(|loss| (Case { ..case }, loss)))
}

#[test]
fn the_next_packet_of_a_flow_whose_backend_is_lost_reaches_another() {
    for (case, loss) in all() {
        for scheduler in [Scheduler::Rr, Scheduler::Wlc] {
            let mut balancer = case.serving(scheduler, OnLoss::Reschedule);
            case.lose(&mut balancer, loss);
            let (action, after, counted) = balancer.judge(OUTSIDE, &case.frame().bytes());
            assert_eq!(
                (action, after[5], counted),
                (Action::Redirect, 12, vec![]),
                "{loss:?} {}",
                case.service
            );
            assert_eq!(balancer.host(&case.neighbour()), 12);
            assert_eq!(balancer.flows().len(), 2, "in the place of the old one");
            // It has another backend now, and stays there.
            case.back(&mut balancer, loss);
            assert_eq!(balancer.host(&case.frame()), 12, "{loss:?} {}", case.service);
            if scheduler == Scheduler::Wlc {
                assert_eq!(balancer.load(case.service, &case.real(0)), (0, 0, false));
                assert_eq!(balancer.load(case.service, &case.real(1)), (2, 0, false));
            }
        }
    }
}

#[test]
fn a_flow_that_was_silent_while_its_backend_was_down_is_still_there() {
    for case in CASES {
        let mut balancer = case.serving(Scheduler::Rr, OnLoss::Reschedule);
        case.lose(&mut balancer, Loss::Down);
        balancer.sweep();
        case.back(&mut balancer, Loss::Down);
        assert_eq!(balancer.host(&case.frame()), 11, "{}", case.service);
    }
}

#[test]
fn the_packets_of_a_flow_whose_backend_is_lost_are_dropped_where_that_is_wished() {
    for (case, loss) in all() {
        for scheduler in [Scheduler::Rr, Scheduler::Lc] {
            let mut balancer = case.serving(scheduler, OnLoss::Drop);
            case.lose(&mut balancer, loss);
            for flags in [ACK, FIN | ACK, SYN | ACK, RST] {
                let mut frame = case.frame();
                if case.is_tcp() {
                    frame = frame.with_flags(flags);
                }
                balancer.drops(OUTSIDE, &frame, Verdict::DroppedBackendLost);
            }
            balancer.sweep();
            balancer.drops(OUTSIDE, &case.frame(), Verdict::DroppedBackendLost);
            assert_eq!(balancer.host(&case.neighbour()), 12, "the other's flows go on");
            // New flows go elsewhere.
            let mut stranger = case.frame();
            stranger.source.set_port(40_003);
            assert_eq!(balancer.host(&stranger), 12);
            // It comes back, and has its flow again.
            case.back(&mut balancer, loss);
            assert_eq!(balancer.host(&case.frame()), 11, "{loss:?} {}", case.service);
        }
    }
}

#[test]
fn a_new_connection_from_the_port_of_a_lost_one_is_scheduled() {
    for (case, loss) in all().filter(|(case, _)| case.is_tcp()) {
        let mut balancer = case.serving(Scheduler::Rr, OnLoss::Drop);
        case.lose(&mut balancer, loss);
        balancer.drops(OUTSIDE, &case.frame(), Verdict::DroppedBackendLost);
        assert_eq!(balancer.host(&case.frame().with_flags(SYN)), 12);
        assert_eq!(balancer.host(&case.frame()), 12);
        assert_eq!(balancer.state(socket(case.client)), Some(State::Established));
    }
}

#[test]
fn packets_are_dropped_only_until_the_flow_is_over_and_the_number_is_then_given_out_again() {
    for case in CASES {
        let mut balancer = case.serving(Scheduler::Rr, OnLoss::Drop);
        let number = balancer.backend_number(case.service, &case.real(0));
        case.lose(&mut balancer, Loss::Deleted);
        // Other changes meanwhile do not end it.
        for weight in [2, 3, 4] {
            balancer.weigh(case.service, case.backends[1], weight);
            balancer.apply();
            balancer.sweep();
            balancer.drops(OUTSIDE, &case.frame(), Verdict::DroppedBackendLost);
        }
        assert_eq!(balancer.backend_number(case.service, &case.real(0)), number);
        balancer.set_idle_timeout(if case.is_tcp() { State::Established } else { State::Udp }, 1);
        balancer.sweep_after(Duration::from_secs(3));
        assert_eq!(balancer.flows().len(), 0);
        assert_eq!(balancer.host(&case.frame()), 12, "it had expired");
        let key = (case.service.parse().unwrap(), case.backends[0].parse().unwrap(), 80);
        assert_eq!(balancer.tables.ids().backends.get(&key), None);
        balancer.sweep();
        let other = if case.backends[0].contains(':') {
            "2001:db8:1::d"
        } else {
            "10.0.1.13"
        };
        balancer.add_backend(case.service, other);
        balancer.apply();
        let real = SocketAddr::new(other.parse().unwrap(), 80).to_string();
        assert_eq!(balancer.backend_number(case.service, &real), number);
        assert_eq!(balancer.counters(case.service, &real).packets_in, 0);
        let there: Vec<u8> = (41_000..41_010)
            .map(|port| {
                let mut frame = case.frame();
                frame.source.set_port(port);
                balancer.host(&frame)
            })
            .collect();
        assert!(there.contains(&13) && there.contains(&12) && !there.contains(&11));
    }
}

#[test]
fn a_lost_backend_s_own_packets_still_reach_the_client() {
    for (case, loss) in all() {
        let mut balancer = case.serving(Scheduler::Rr, OnLoss::Drop);
        let answer = Frame::new(
            socket(&case.real(0)),
            socket(case.client),
            if case.is_tcp() { TCP } else { UDP },
        );
        assert_eq!(balancer.run(INSIDE, &answer.bytes()).0, Action::Redirect);
        case.lose(&mut balancer, loss);
        if loss == Loss::Down {
            assert_eq!(balancer.run(INSIDE, &answer.bytes()).0, Action::Redirect);
        } else {
            // Nothing is known of a deleted backend's port: its packets are nobody's.
            balancer.passes(INSIDE, &answer.bytes(), Verdict::PassedNoService);
        }
    }
}

#[test]
fn the_answer_to_a_loss_can_be_changed_while_flows_linger() {
    for (case, loss) in all() {
        let mut balancer = case.serving(Scheduler::Rr, OnLoss::Drop);
        case.lose(&mut balancer, loss);
        balancer.drops(OUTSIDE, &case.frame(), Verdict::DroppedBackendLost);
        let change = ServiceChange {
            on_loss: Some(OnLoss::Reschedule),
            ..ServiceChange::default()
        };
        balancer.set(case.service, &change);
        balancer.apply();
        assert_eq!(balancer.host(&case.frame()), 12, "{loss:?} {}", case.service);
    }
}

#[test]
fn when_all_backends_are_lost_new_flows_find_none_and_the_old_ones_come_back() {
    for (case, loss) in all() {
        let mut balancer = case.serving(Scheduler::Rr, OnLoss::Reschedule);
        case.lose(&mut balancer, loss);
        balancer.drain(case.service, case.backends[1]);
        balancer.apply();
        balancer.drops(OUTSIDE, &case.frame(), Verdict::DroppedNoBackend);
        assert_eq!(balancer.host(&case.neighbour()), 12);
        case.back(&mut balancer, loss);
        assert_eq!(balancer.host(&case.frame()), 11);
    }
}
