//! IPVS's schedulers as its manual and sources define them (ipvsadm(8), `net/netfilter/ipvs/ip_vs_*.c`), over plain
//! numbers and written as loops over all servers: what the program's choices are held against.
//!
//! Where LVX means to differ it is said here: `wrr` spreads the turns of a round instead of giving them in runs; `sh`, `dh` and
//! `mh` all use Maglev's table; UDP flows count as active (IPVS has them inactive, where `sed`, `nq` and `ovf` are blind to
//! them).

use std::net::SocketAddr;

use lvx_dataplane::{maglev, ring::RingMember, words};
use lvx_model::Scheduler;
use xdp_common::hash;

/// Slots of the Maglev tables.
pub const SLOTS: u32 = 1021;

/// A real server.
#[derive(Clone, Debug)]
pub struct Server {
    /// What Maglev knows it by.
    pub identity: [u64; 2],
    pub weight: u16,
    pub active: u64,
    pub inactive: u64,
    /// It has reached its upper threshold (`IP_VS_DEST_F_OVERLOAD`).
    pub overloaded: bool,
}

impl Server {
    /// The real server at an address and port.
    pub fn new(address: SocketAddr, weight: u16) -> Self {
        let [high, low] = words::wide(address.ip());
        Self {
            identity: [high ^ u64::from(address.port()).rotate_left(32), low],
            weight,
            active: 0,
            inactive: 0,
            overloaded: false,
        }
    }
}

/// A virtual service.
pub struct Reference {
    pub scheduler: Scheduler,
    pub servers: Vec<Server>,
    /// The seed of its hashes.
    pub seed: u64,
    /// How many times it has chosen in turn.
    turns: usize,
    /// The order of turns or the slots of Maglev's table.
    ring: Vec<usize>,
}

impl Reference {
    pub fn new(scheduler: Scheduler, servers: Vec<Server>, seed: u64) -> Self {
        let mut reference = Self {
            scheduler,
            servers,
            seed,
            turns: 0,
            ring: Vec::new(),
        };
        reference.weighed();
        reference
    }

    /// Weights have changed.
    pub fn weighed(&mut self) {
        self.ring = match self.scheduler {
            Scheduler::Rr => (0..self.servers.len())
                .filter(|server| self.servers[*server].weight > 0)
                .collect(),
            Scheduler::Wrr => self.round(),
            Scheduler::Sh | Scheduler::Dh | Scheduler::Mh => self.maglev(),
            _ => Vec::new(),
        };
    }

    /// Each server as often as its weight says: the k-th of `w` turns at `(k + 1/2) / w` of the round, of two at one moment the
    /// heavier server's first.
    fn round(&self) -> Vec<usize> {
        let divisor = (1..=u16::MAX)
            .rev()
            .find(|divisor| self.servers.iter().all(|server| server.weight % divisor == 0));
        let divisor = divisor.unwrap_or(1);
        let mut turns = Vec::new();
        for (server, it) in self.servers.iter().enumerate() {
            let weight = u64::from(it.weight / divisor);
            turns.extend((0..weight).map(|turn| (2 * turn + 1, weight, server)));
        }
        turns.sort_by(|(one, of_one, first), (other, of_other, second)| {
            (one * of_other)
                .cmp(&(other * of_one))
                .then(of_other.cmp(of_one))
                .then(first.cmp(second))
        });
        turns.into_iter().map(|(_, _, server)| server).collect()
    }

    fn maglev(&self) -> Vec<usize> {
        let members: Vec<RingMember> = self
            .servers
            .iter()
            .map(|server| RingMember {
                identity: server.identity,
                weight: server.weight,
            })
            .collect();
        maglev::table(&members, SLOTS).into_iter().map(usize::from).collect()
    }

    /// The server of a client's new connection.
    pub fn choose(&mut self, client: SocketAddr) -> Option<usize> {
        match self.scheduler {
            Scheduler::Rr | Scheduler::Wrr => self.next(),
            Scheduler::Lc => self.least(|server| (server.active * 256 + server.inactive, 1)),
            Scheduler::Wlc => self.least(|server| (server.active * 256 + server.inactive, server.weight)),
            Scheduler::Sed => self.shortest(),
            Scheduler::Nq => self
                .usable(|server| server.active == 0)
                .next()
                .or_else(|| self.shortest()),
            Scheduler::Fo => self.heaviest(|_| true),
            Scheduler::Ovf => self.heaviest(|server| server.active <= u64::from(server.weight)),
            Scheduler::Mh => self.hashed(client),
            Scheduler::Sh => self.hashed(SocketAddr::new(client.ip(), 0)),
            Scheduler::Dh => self.slot(hash::spread(hash::mix(self.seed), SLOTS)),
            Scheduler::P2c => None,
        }
    }

    fn usable(&self, wanted: impl Fn(&Server) -> bool) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(move |server| {
            let server = &self.servers[*server];
            server.weight > 0 && !server.overloaded && wanted(server)
        })
    }

    fn next(&mut self) -> Option<usize> {
        if self.ring.is_empty() {
            return None;
        }
        self.turns += 1;
        Some(self.ring[(self.turns - 1) % self.ring.len()])
    }

    fn shortest(&self) -> Option<usize> {
        self.least(|server| (server.active + 1, server.weight))
    }

    /// The first server with the smallest quotient.
    fn least(&self, quotient: impl Fn(&Server) -> (u64, u16)) -> Option<usize> {
        let mut least: Option<usize> = None;
        for server in self.usable(|_| true) {
            let (load, weight) = quotient(&self.servers[server]);
            let is_less = least.is_none_or(|least| {
                let (least_load, least_weight) = quotient(&self.servers[least]);
                u128::from(least_load) * u128::from(weight) > u128::from(load) * u128::from(least_weight)
            });
            if is_less {
                least = Some(server);
            }
        }
        least
    }

    /// The first server with the largest weight.
    fn heaviest(&self, wanted: impl Fn(&Server) -> bool) -> Option<usize> {
        let mut heaviest: Option<usize> = None;
        for server in self.usable(wanted) {
            if heaviest.is_none_or(|heaviest| self.servers[server].weight > self.servers[heaviest].weight) {
                heaviest = Some(server);
            }
        }
        heaviest
    }

    fn hashed(&self, client: SocketAddr) -> Option<usize> {
        let port = client.port().to_be();
        let hash = match words::of(client.ip()) {
            words::Words::V4(address) => hash::client_v4(address, port, self.seed),
            words::Words::V6(address) => hash::client_v6(address, port, self.seed),
        };
        self.slot(hash::spread(hash, SLOTS))
    }

    fn slot(&self, slot: u32) -> Option<usize> {
        self.ring.get(slot as usize).copied()
    }
}

#[test]
fn the_reference_chooses_as_the_manual_says() {
    let servers = |weights: &[u16]| {
        let name = |host| SocketAddr::new([10, 0, 1, host].into(), 80);
        (1..)
            .zip(weights)
            .map(|(host, weight)| Server::new(name(host), *weight))
            .collect::<Vec<_>>()
    };
    let client = SocketAddr::new([10, 7, 0, 1].into(), 40_000);
    let mut wrr = Reference::new(Scheduler::Wrr, servers(&[2, 4, 6]), 0);
    assert_eq!([(); 6].map(|()| wrr.choose(client)), [2, 1, 2, 0, 1, 2].map(Some));
    let mut sed = Reference::new(Scheduler::Sed, servers(&[1, 0, 3]), 0);
    for (expected, active) in [(2, 1), (2, 2), (0, 1), (2, 3)] {
        assert_eq!(sed.choose(client), Some(expected));
        sed.servers[expected].active = active;
    }
    let mut ovf = Reference::new(Scheduler::Ovf, servers(&[1, 2]), 0);
    for (active, expected) in [([0, 2], Some(1)), ([0, 3], Some(0)), ([2, 3], None)] {
        (ovf.servers[0].active, ovf.servers[1].active) = (active[0], active[1]);
        assert_eq!(ovf.choose(client), expected);
    }
}
