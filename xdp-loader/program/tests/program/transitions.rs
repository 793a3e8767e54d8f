//! Every transition of a TCP flow's state, by either side's packets, and its entry in the flow table.

use std::net::SocketAddr;

use lvx_dataplane::words;
use lvx_model::{Forward, Scheduler};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, PSH, RST, SYN, Transport, socket},
    network::{INSIDE, OUTSIDE},
};
use xdp_common::{
    layout::{ClientId, FlowEntry, Seen},
    tcp_state::State::{self, *},
};

use crate::balancer::{Action, Balancer};

/// A service under NAT with one backend, and the address of a client.
struct Site {
    service: &'static str,
    vip: &'static str,
    backend: &'static str,
    real: &'static str,
    client: &'static str,
}

const SITES: [Site; 2] = [
    Site {
        service: "tcp://10.9.9.9:80",
        vip: "10.9.9.9:80",
        backend: "10.0.1.11:8080",
        real: "10.0.1.11:8080",
        client: "10.7.0.1",
    },
    Site {
        service: "tcp://[2001:db8:9::9]:80",
        vip: "[2001:db8:9::9]:80",
        backend: "[2001:db8:1::b]:8080",
        real: "[2001:db8:1::b]:8080",
        client: "2001:db8:7::1",
    },
];

/// Who sends a segment, and its flags.
type Segment = (bool, u8);
const CLIENT: bool = true;
const BACKEND: bool = false;

/// What brings a new flow into each state.
const PATHS_THERE: [(State, &[Segment]); 6] = [
    (SynReceived, &[(CLIENT, SYN)]),
    (Established, &[(CLIENT, SYN), (BACKEND, SYN | ACK), (CLIENT, ACK)]),
    (FinClient, &[(CLIENT, ACK), (CLIENT, FIN | ACK)]),
    (FinBackend, &[(CLIENT, ACK), (BACKEND, FIN | ACK)]),
    (TimeWait, &[(CLIENT, ACK), (CLIENT, FIN | ACK), (BACKEND, FIN | ACK)]),
    (Closed, &[(CLIENT, ACK), (CLIENT, RST)]),
];

/// The flags of the columns of [`NEXT`].
const FLAGS: [u8; 10] = [
    SYN,
    SYN | ACK,
    ACK,
    PSH | ACK,
    FIN,
    FIN | PSH | ACK,
    RST,
    RST | ACK,
    0,
    SYN | RST,
];

/// The state after a segment: of the client, then of the backend. A row for each of [`PATHS_THERE`].
///
/// A SYN of the client whose flow both ends have closed begins a new connection; a SYN of the backend whose flow is over is none of
/// its service's.
#[rustfmt::skip]
const NEXT: [[[State; 10]; 2]; 6] = [
    [
        [SynReceived, SynReceived, Established, Established, FinClient, FinClient, SynReceived, SynReceived, Established, SynReceived],
        [SynReceived, SynReceived, SynReceived, SynReceived, FinBackend, FinBackend, Closed, Closed, SynReceived, Closed],
    ],
    [
        [Established, Established, Established, Established, FinClient, FinClient, Closed, Closed, Established, Closed],
        [Established, Established, Established, Established, FinBackend, FinBackend, Closed, Closed, Established, Closed],
    ],
    [
        [SynReceived, FinClient, FinClient, Established, FinClient, FinClient, Closed, Closed, FinClient, Closed],
        [FinClient, FinClient, FinClient, FinClient, TimeWait, TimeWait, TimeWait, TimeWait, FinClient, TimeWait],
    ],
    [
        [SynReceived, FinBackend, FinBackend, FinBackend, TimeWait, TimeWait, TimeWait, TimeWait, FinBackend, TimeWait],
        [FinBackend, FinBackend, FinBackend, FinBackend, FinBackend, FinBackend, Closed, Closed, FinBackend, Closed],
    ],
    [
        [SynReceived, TimeWait, TimeWait, Established, TimeWait, TimeWait, TimeWait, TimeWait, TimeWait, TimeWait],
        [GONE, GONE, TimeWait, TimeWait, TimeWait, TimeWait, TimeWait, TimeWait, TimeWait, GONE],
    ],
    [
        [SynReceived, Closed, Closed, Established, Closed, Closed, Closed, Closed, Closed, Closed],
        [GONE, GONE, Closed, Closed, Closed, Closed, Closed, Closed, Closed, GONE],
    ],
];

/// In [`NEXT`]: there is no flow any more, and the segment passes.
const GONE: State = Template;

impl Site {
    /// Sends a segment, with data if it has the flag PSH.
    fn send(&self, balancer: &mut Balancer, client: SocketAddr, (by_client, flags): Segment) -> Action {
        let transport = Transport::Tcp { flags };
        let (ingress, frame) = match by_client {
            CLIENT => (OUTSIDE, Frame::new(client, socket(self.vip), transport)),
            BACKEND => (INSIDE, Frame::new(socket(self.real), client, transport)),
        };
        let data: &[u8] = if flags & PSH == 0 { b"" } else { b"data" };
        balancer.run(ingress, &frame.payload(data).bytes()).0
    }

    /// The words of a client's bucket that are not free, but for when their flows were last seen.
    fn entry(&self, balancer: &Balancer, client: SocketAddr) -> Option<FlowEntry> {
        let maps = balancer.tables.maps();
        let (number, mask) = self.place(balancer, client);
        let bucket = number.bucket(mask) as usize;
        let flows = match client {
            SocketAddr::V4(_) => &maps.flows_v4,
            SocketAddr::V6(_) => &maps.flows_v6,
        };
        let flows = flows.whole().unwrap().read(bucket);
        let found = flows.into_iter().find(|flow| flow.is_of(number, mask));
        found.map(|flow| flow.with(flow.state(), Seen(0)))
    }

    /// What that must be.
    fn expected(&self, balancer: &Balancer, client: SocketAddr, state: State) -> Option<FlowEntry> {
        let (number, mask) = self.place(balancer, client);
        let backend = balancer.backend_number(self.service, self.backend);
        Some(FlowEntry::new(number, mask, backend, state, Seen(0)))
    }

    /// The number of a client, and the mask of its table's buckets.
    fn place(&self, balancer: &Balancer, client: SocketAddr) -> (ClientId, u32) {
        let (keys, sizes) = (balancer.control().keys, balancer.tables.maps().sizes());
        let port = client.port().to_be();
        match words::of(client.ip()) {
            words::Words::V4(address) => (ClientId::v4(address, port, &keys), sizes.buckets_v4() - 1),
            words::Words::V6(address) => (ClientId::v6(address, port, &keys), sizes.buckets_v6() - 1),
        }
    }
}

#[test]
fn each_segment_by_either_side_brings_a_flow_in_each_state_into_the_next_and_changes_nothing_else() {
    for site in SITES {
        let mut balancer = Balancer::serving(site.service, Forward::Nat, Scheduler::Rr, &[site.backend]);
        let mut port = 20_000;
        for ((state, path), rows) in PATHS_THERE.iter().zip(NEXT) {
            for (by_client, row) in [CLIENT, BACKEND].into_iter().zip(rows) {
                for (flags, next) in FLAGS.into_iter().zip(row) {
                    port += 1;
                    let client = SocketAddr::new(site.client.parse().unwrap(), port);
                    for segment in *path {
                        assert_eq!(site.send(&mut balancer, client, *segment), Action::Redirect);
                    }
                    assert_eq!(site.entry(&balancer, client), site.expected(&balancer, client, *state));
                    let action = site.send(&mut balancer, client, (by_client, flags));
                    let expected = match next {
                        GONE => (Action::Pass, None),
                        _ => (Action::Redirect, site.expected(&balancer, client, next)),
                    };
                    assert_eq!(
                        (action, site.entry(&balancer, client)),
                        expected,
                        "{state:?}, then {flags:#04x} by the client: {by_client}; {next:?} is expected"
                    );
                }
            }
        }
        assert_eq!(balancer.flows().len(), 120 - 6, "one entry for each that is not gone");
    }
}

#[test]
fn the_first_segment_of_a_flow_says_its_state() {
    let first = [
        SynReceived,
        SynReceived,
        Established,
        Established,
        FinClient,
        FinClient,
        Closed,
        Closed,
        Established,
        Closed,
    ];
    for site in SITES {
        for forward in [Forward::Nat, Forward::Dr] {
            let real = SocketAddr::new(socket(site.real).ip(), 80).to_string();
            let site = Site {
                backend: if forward == Forward::Nat {
                    site.backend
                } else {
                    real.leak()
                },
                ..site
            };
            let mut balancer = Balancer::serving(site.service, forward, Scheduler::Rr, &[site.backend]);
            for ((flags, state), port) in FLAGS.into_iter().zip(first).zip(20_000..) {
                let client = SocketAddr::new(site.client.parse().unwrap(), port);
                assert_eq!(site.send(&mut balancer, client, (CLIENT, flags)), Action::Redirect);
                assert_eq!(
                    site.entry(&balancer, client),
                    site.expected(&balancer, client, state),
                    "{flags:#04x}"
                );
            }
        }
    }
}
