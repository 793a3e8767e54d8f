//! Every transition of a TCP flow's state, by either side's packets, and the bytes of its entry in the flow table.

use std::net::{IpAddr, SocketAddr};

use xdp_common::{
    hash,
    layout::{FlowV4, FlowV6, WAYS},
    tcp_state::State::{self, *},
};
use xdp_loader::{
    dataplane::words,
    model::{Forward, Scheduler},
};

use crate::{
    balancer::{Action, Balancer},
    frame::{ACK, FIN, Frame, PSH, RST, SYN, Transport, socket},
    network::{INSIDE, OUTSIDE},
};

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
const WAYS_THERE: [(State, &[Segment]); 6] = [
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

/// The state after a segment: of the client, then of the backend. A row for each of [`WAYS_THERE`].
///
/// A SYN of the client where all is over begins a new connection.
const NEXT: [[[State; 10]; 2]; 6] = [
    [
        [
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
        ],
        [
            SynReceived,
            SynReceived,
            SynReceived,
            SynReceived,
            FinBackend,
            FinBackend,
            Closed,
            Closed,
            SynReceived,
            Closed,
        ],
    ],
    [
        [
            Established,
            Established,
            Established,
            Established,
            FinClient,
            FinClient,
            Closed,
            Closed,
            Established,
            Closed,
        ],
        [
            Established,
            Established,
            Established,
            Established,
            FinBackend,
            FinBackend,
            Closed,
            Closed,
            Established,
            Closed,
        ],
    ],
    [
        [
            SynReceived,
            FinClient,
            FinClient,
            FinClient,
            FinClient,
            FinClient,
            Closed,
            Closed,
            FinClient,
            Closed,
        ],
        [
            FinClient, FinClient, FinClient, FinClient, TimeWait, TimeWait, Closed, Closed, FinClient, Closed,
        ],
    ],
    [
        [
            SynReceived,
            FinBackend,
            FinBackend,
            FinBackend,
            TimeWait,
            TimeWait,
            Closed,
            Closed,
            FinBackend,
            Closed,
        ],
        [
            FinBackend, FinBackend, FinBackend, FinBackend, FinBackend, FinBackend, Closed, Closed, FinBackend, Closed,
        ],
    ],
    [
        [
            SynReceived,
            TimeWait,
            TimeWait,
            TimeWait,
            TimeWait,
            TimeWait,
            Closed,
            Closed,
            TimeWait,
            Closed,
        ],
        [
            TimeWait, TimeWait, TimeWait, TimeWait, TimeWait, TimeWait, Closed, Closed, TimeWait, Closed,
        ],
    ],
    [
        [
            SynReceived,
            Closed,
            Closed,
            Closed,
            Closed,
            Closed,
            Closed,
            Closed,
            Closed,
            Closed,
        ],
        [
            Closed, Closed, Closed, Closed, Closed, Closed, Closed, Closed, Closed, Closed,
        ],
    ],
];

impl Site {
    fn send(&self, balancer: &mut Balancer, client: SocketAddr, (by_client, flags): Segment) {
        let transport = Transport::Tcp { flags };
        let (ingress, frame) = match by_client {
            CLIENT => (OUTSIDE, Frame::new(client, socket(self.vip), transport)),
            BACKEND => (INSIDE, Frame::new(socket(self.real), client, transport)),
        };
        let (action, _, counted) = balancer.judge(ingress, &frame.bytes());
        assert_eq!((action, counted), (Action::Redirect, vec![]));
    }

    /// The bytes of a client's entry, but for when it was last seen (the last four but for those that IPv6 fills up with).
    fn entry(&self, balancer: &Balancer, client: SocketAddr) -> Vec<u8> {
        let maps = balancer.tables.maps();
        let seed = balancer.control().seed;
        let port = client.port().to_be();
        let is_there = |there: &[u8], expected: &[u8]| there == expected;
        match words::of(client.ip()) {
            words::Words::V4(address) => {
                let buckets = maps.sizes().flows_v4 as usize / WAYS;
                let bucket = hash::client_v4(address, port, seed) as usize % buckets;
                let flows: [FlowV4; WAYS] = maps.flows_v4(0, buckets).unwrap().read(bucket);
                let of_client = [&port.to_ne_bytes()[..], &address.to_ne_bytes()].concat();
                let bytes = flows.map(|flow| [&flow.key.to_le_bytes()[..], &flow.record.0.to_le_bytes()].concat());
                bytes
                    .into_iter()
                    .find(|bytes| is_there(&bytes[2..8], &of_client))
                    .unwrap()
            }
            words::Words::V6(address) => {
                let buckets = maps.sizes().flows_v6 as usize / WAYS;
                let bucket = hash::client_v6(address, port, seed) as usize % buckets;
                let flows: [FlowV6; WAYS] = maps.flows_v6(0, buckets).unwrap().read(bucket);
                let bytes = flows.map(|flow| {
                    let client = flow.client.map(u64::to_ne_bytes).concat();
                    [&client[..], &flow.key.to_le_bytes(), &flow.record.0.to_le_bytes()].concat()
                });
                let of_client = [&address.map(u64::to_ne_bytes).concat()[..]].concat();
                let found = bytes
                    .into_iter()
                    .find(|bytes| is_there(&bytes[..16], &of_client) && is_there(&bytes[18..20], &port.to_ne_bytes()));
                found.unwrap()
            }
        }
    }

    /// What those bytes must be.
    fn expected(&self, balancer: &Balancer, client: SocketAddr, state: State) -> Vec<u8> {
        let service = balancer.service_number(self.service) as u16;
        let [a, b, c, _] = balancer.backend_number(self.service, self.backend).to_le_bytes();
        let record = [state as u8, a, b, c];
        let port = client.port().to_be_bytes();
        match client.ip() {
            IpAddr::V4(ip) => [&service.to_le_bytes()[..], &port, &ip.octets(), &record].concat(),
            IpAddr::V6(ip) => {
                let words::Words::V6(address) = words::of(client.ip()) else {
                    panic!("an IPv6 address")
                };
                let seed = balancer.control().seed;
                let hash = hash::client_v6(address, client.port().to_be(), seed);
                // The highest bit is set, and 31 of the hash's are below it.
                let tag = 1 << 31 | (hash >> 33) as u32;
                [
                    &ip.octets()[..],
                    &service.to_le_bytes(),
                    &port,
                    &tag.to_le_bytes(),
                    &record,
                ]
                .concat()
            }
        }
    }
}

#[test]
fn each_segment_by_either_side_brings_a_flow_in_each_state_into_the_next_and_changes_nothing_else() {
    for site in SITES {
        let mut balancer = Balancer::serving(site.service, Forward::Nat, Scheduler::Rr, &[site.backend]);
        let mut port = 20_000;
        for ((state, way), rows) in WAYS_THERE.iter().zip(NEXT) {
            for (by_client, row) in [CLIENT, BACKEND].into_iter().zip(rows) {
                for (flags, next) in FLAGS.into_iter().zip(row) {
                    port += 1;
                    let client = SocketAddr::new(site.client.parse().unwrap(), port);
                    for segment in *way {
                        site.send(&mut balancer, client, *segment);
                    }
                    assert_eq!(site.entry(&balancer, client), site.expected(&balancer, client, *state));
                    site.send(&mut balancer, client, (by_client, flags));
                    assert_eq!(
                        site.entry(&balancer, client),
                        site.expected(&balancer, client, next),
                        "{state:?}, then {flags:#04x} by the client: {by_client}; {next:?} is expected"
                    );
                }
            }
        }
        assert_eq!(balancer.flows().len(), 120, "one entry for each");
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
                site.send(&mut balancer, client, (CLIENT, flags));
                assert_eq!(
                    site.entry(&balancer, client),
                    site.expected(&balancer, client, state),
                    "{flags:#04x}"
                );
            }
        }
    }
}
