//! A service under NAT whose clients come and go at random, and what it must have come to.

use std::{collections::BTreeMap, net::SocketAddr};

use lvx_dataplane::census::Census;
use lvx_model::{Forward, Scheduler, ServiceChange};
use lvx_test_kit::{
    frame::{ACK, FIN, Frame, RST, SYN, Transport, socket},
    network::INSIDE,
    random::Random,
};
use xdp_common::{layout::Connections, tcp_state::State};

use crate::{
    balancer::Balancer,
    reference::{Reference, SLOTS, Server},
};

/// A connection as its ends know it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    client: SocketAddr,
    server: usize,
    state: State,
}

/// A service, its servers, and all its connections.
pub struct Site {
    pub name: String,
    pub reference: Reference,
    pub random: Random,
    vip: SocketAddr,
    is_tcp: bool,
    names: Vec<String>,
    numbers: Vec<u32>,
    connections: Vec<Connection>,
    next_client: u32,
    /// Whether packets count its connections.
    is_counted: bool,
}

impl Site {
    /// Desires a service of so many backends with weights at random, one in six of them 0.
    pub fn new(balancer: &mut Balancer, name: &str, scheduler: Scheduler, servers: u16, seed: u64) -> Self {
        let (transport, vip) = name.split_once("://").unwrap();
        let vip = socket(vip);
        let names: Vec<String> = (0..servers)
            .map(|host| match vip.is_ipv4() {
                true => format!("10.0.1.{host}"),
                false => format!("2001:db8:1::1{host:02x}"),
            })
            .collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        balancer.add(name, Forward::Nat, scheduler, &all);
        let change = ServiceChange {
            mh_slots: Some(SLOTS),
            ..ServiceChange::default()
        };
        balancer.set(name, &change);
        let all = names
            .iter()
            .map(|name| Server::new(SocketAddr::new(name.parse().unwrap(), vip.port()), 1))
            .collect();
        Self {
            name: name.to_owned(),
            reference: Reference::new(scheduler, all, 0),
            random: Random::new(seed),
            vip,
            is_tcp: transport == "tcp",
            names,
            numbers: Vec::new(),
            connections: Vec::new(),
            next_client: 0,
            is_counted: matches!(
                scheduler,
                Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Ovf | Scheduler::P2c
            ),
        }
    }

    /// Gives a share of the servers, in percent, another weight.
    pub fn weigh(&mut self, balancer: &mut Balancer, share: usize) {
        for server in 0..self.names.len() {
            if self.random.happens(share) {
                let weight = if self.random.happens(16) {
                    0
                } else {
                    1 + self.random.below(12) as u16
                };
                balancer.weigh(&self.name, &self.names[server], i64::from(weight));
                self.reference.servers[server].weight = weight;
            }
        }
        self.reference.weighed();
    }

    /// What was desired was applied.
    pub fn applied(&mut self, balancer: &Balancer) {
        self.reference.seed = balancer.service_entry(&self.name).seed;
        self.numbers = self
            .names
            .iter()
            .map(|name| {
                let real = SocketAddr::new(name.parse().unwrap(), self.vip.port());
                balancer.backend_number(&self.name, &real.to_string())
            })
            .collect();
    }

    fn frame(&self, client: SocketAddr, flags: u8) -> Frame {
        Frame::new(client, self.vip, self.transport(flags)).payload(b"")
    }

    fn transport(&self, flags: u8) -> Transport {
        match self.is_tcp {
            true => Transport::Tcp { flags },
            false => Transport::Udp { checksum: true },
        }
    }

    /// A client that was not there before.
    fn stranger(&mut self) -> SocketAddr {
        self.next_client += 1;
        let number = self.next_client;
        let port = 1024 + (number % 60_000) as u16;
        let [_, a, b, c] = (self.random.word() as u32).to_be_bytes();
        match self.vip.is_ipv4() {
            true => SocketAddr::new([10, 128 | a, b, c].into(), port),
            false => SocketAddr::new(
                [0x2001, 0xdb8, 7, u16::from(a), 0, 0, u16::from(b), u16::from(c)].into(),
                port,
            ),
        }
    }

    /// A connection begins: with the server that the reference chooses.
    #[track_caller]
    pub fn arrive(&mut self, balancer: &mut Balancer) {
        let closed = match self.random.happens(10) {
            true => self.pick(|state| state == State::TimeWait),
            false => None,
        };
        let client = match closed {
            Some(closed) => self.connections[closed].client,
            None => self.stranger(),
        };
        let expected = self.reference.choose(client);
        let chosen = balancer.chosen(&self.frame(client, SYN));
        let scheduler = self.reference.scheduler;
        assert_eq!(
            chosen.map(|[_, host]| usize::from(host)),
            expected,
            "{scheduler} of {} for {client}: {:?}",
            self.name,
            expected.map(|server| &self.reference.servers[server])
        );
        let Some(server) = expected else { return };
        if let Some(closed) = closed {
            self.count(closed, false);
            self.connections.swap_remove(closed);
        }
        self.connections.push(Connection {
            client,
            server,
            state: if self.is_tcp { State::SynReceived } else { State::Udp },
        });
        let new = self.connections.len() - 1;
        self.count(new, true);
        self.assert_counted(balancer, server);
        if self.random.happens(70) {
            self.send(balancer, new, ACK, true);
        }
    }

    /// Something happens to a connection: it is closed by either side or both, or reset, or just goes on.
    #[track_caller]
    pub fn go_on(&mut self, balancer: &mut Balancer) {
        let Some(one) = self.pick(|_| true) else { return };
        let exchanges: [&[(u8, bool)]; 7] = [
            &[(FIN | ACK, true), (FIN | ACK, false)],
            &[(FIN | ACK, false), (FIN | ACK, true)],
            &[(FIN | ACK, true)],
            &[(FIN | ACK, false)],
            &[(RST, true)],
            &[(RST | ACK, false)],
            &[(ACK, true), (ACK, false)],
        ];
        for (flags, by_client) in self.random.one(&exchanges) {
            self.send(balancer, one, *flags, *by_client);
        }
    }

    fn pick(&mut self, wanted: impl Fn(State) -> bool) -> Option<usize> {
        if self.connections.is_empty() {
            return None;
        }
        let one = self.random.below(self.connections.len());
        wanted(self.connections[one].state).then_some(one)
    }

    /// Sends a packet of a connection: it goes where that is.
    #[track_caller]
    fn send(&mut self, balancer: &mut Balancer, one: usize, flags: u8, by_client: bool) {
        let Connection { client, server, state } = self.connections[one];
        if by_client {
            let host = balancer.host(&self.frame(client, flags));
            assert_eq!(usize::from(host), server, "{client} stays");
        } else {
            let real = SocketAddr::new(self.names[server].parse().unwrap(), self.vip.port());
            let frame = Frame::new(real, client, self.transport(flags)).payload(b"");
            balancer.run(INSIDE, &frame.bytes());
        }
        self.count(one, false);
        self.connections[one].state = if self.is_tcp {
            after(state, flags, by_client)
        } else {
            state
        };
        self.count(one, true);
        self.assert_counted(balancer, server);
    }

    /// Adds a connection to its server's counts, or takes it away.
    fn count(&mut self, one: usize, adds: bool) {
        let Connection { server, state, .. } = self.connections[one];
        let server = &mut self.reference.servers[server];
        let part = match state {
            State::SynReceived | State::Established | State::Udp => &mut server.active,
            _ => &mut server.inactive,
        };
        *part = if adds { *part + 1 } else { *part - 1 };
    }

    /// Connections in these states were idle for too long, and a sweep came.
    pub fn swept(&mut self, states: &[State]) {
        for one in (0..self.connections.len()).rev() {
            if states.contains(&self.connections[one].state) {
                self.count(one, false);
                self.connections.swap_remove(one);
            }
        }
    }

    #[track_caller]
    fn assert_counted(&self, balancer: &Balancer, server: usize) {
        if !self.is_counted {
            return;
        }
        let load = balancer
            .tables
            .maps()
            .connections
            .whole()
            .unwrap()
            .read(self.numbers[server] as usize);
        let counted = (Connections::active(load.word), Connections::inactive(load.word));
        let Server { active, inactive, .. } = self.reference.servers[server];
        let expected = (active as u32, inactive as u32);
        assert_eq!(counted, expected, "{} of {}", self.names[server], self.name);
    }

    /// Packets have counted what there is for every server, and the sweep found the same.
    #[track_caller]
    pub fn assert_all_counted(&self, balancer: &Balancer, census: &Census) {
        let mut there: BTreeMap<usize, [u64; 3]> = BTreeMap::new();
        for connection in &self.connections {
            let [active, inactive, half_open] = there.entry(connection.server).or_default();
            match connection.state {
                State::Established | State::Udp => *active += 1,
                State::SynReceived => (*inactive, *half_open) = (*inactive + 1, *half_open + 1),
                _ => *inactive += 1,
            }
        }
        for (server, number) in self.numbers.iter().enumerate() {
            self.assert_counted(balancer, server);
            let found = census.backends.get(number).copied().unwrap_or_default();
            let expected = there.get(&server).copied().unwrap_or_default();
            assert_eq!(
                [found.active, found.inactive, found.half_open],
                expected,
                "{}",
                self.names[server]
            );
        }
    }

    /// Connections that are not forgotten.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}

/// TCP's state after a segment from one side, as far as a balancer can tell it.
fn after(state: State, flags: u8, by_client: bool) -> State {
    if state == State::SynReceived && flags & RST != 0 && by_client {
        return state;
    }
    if state == State::Closed {
        return State::Closed;
    }
    if flags & RST != 0
        && !matches!(
            (state, by_client),
            (State::TimeWait, _) | (State::FinBackend, true) | (State::FinClient, false)
        )
    {
        return State::Closed;
    }
    if flags & (FIN | RST) != 0 {
        return match (state, by_client) {
            (State::TimeWait, _) | (State::FinBackend, true) | (State::FinClient, false) => State::TimeWait,
            (_, true) => State::FinClient,
            (_, false) => State::FinBackend,
        };
    }
    match state {
        State::SynReceived if by_client => State::Established,
        state => state,
    }
}
