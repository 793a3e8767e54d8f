//! Two network namespaces joined by a cable: the balancer's, and that of a server that is every backend.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lvx_test_kit::Namespace;
use rustix::net::listen;

/// What arrivals are counted by.
pub(super) const SLOT: Duration = Duration::from_millis(10);

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 4_096;

/// The address of a backend.
pub(super) fn backend(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 1).to_bits() + number)
}

/// See the module.
pub(super) struct Site {
    balancer: Namespace,
    server: Namespace,
}

impl Site {
    pub(super) fn new() -> Result<Self> {
        let site = Self {
            balancer: Namespace::unique("balancer")?,
            server: Namespace::unique("server")?,
        };
        let (balancer, server) = (&site.balancer, &site.server);
        balancer.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n",
            server.name()
        ))?;
        for (namespace, host) in [(balancer, 1), (server, 2)] {
            namespace.ip(&format!("addr add 10.63.0.{host}/24 dev eth0\nlink set eth0 up\n"))?;
        }
        // Every address of the network is the server's own.
        server.ip("route add local 10.64.0.0/16 dev lo")?;
        balancer.ip("route add 10.64.0.0/16 via 10.63.0.2")?;
        Ok(site)
    }

    /// A command in the balancer's namespace.
    pub(super) fn command(&self, program: &std::path::Path) -> Command {
        self.balancer.command(program)
    }

    /// Accepts connections to port 80 of every backend and notes when they come, until this program ends.
    pub(super) fn serve(&self) -> Result<Arc<Arrivals>> {
        let listening = || -> io::Result<TcpListener> {
            let listener = TcpListener::bind("0.0.0.0:80")?;
            // More than std asks for: a server that the scheduler lets wait refuses nobody.
            listen(&listener, BACKLOG)?;
            Ok(listener)
        };
        let listener = self.server.inside(listening)?.context("the server cannot listen")?;
        let arrivals = Arc::new(Arrivals::new());
        let noted = Arc::clone(&arrivals);
        thread::spawn(move || {
            while listener.accept().is_ok() {
                noted.add();
            }
        });
        Ok(arrivals)
    }
}

/// When connections came.
pub(super) struct Arrivals {
    begin: Instant,
    slots: Mutex<Vec<u32>>,
}

impl Arrivals {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            slots: Mutex::default(),
        }
    }

    fn add(&self) {
        let slot = slot(self.now());
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() <= slot {
            slots.resize(slot + 1, 0);
        }
        slots[slot] += 1;
    }

    /// The time since it began to listen.
    pub(super) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// How many connections came in each whole slot of a time.
    pub(super) fn per_slot(&self, window: Range<Duration>) -> Vec<u32> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = slot(window.start) + 1..slot(window.end);
        whole.map(|slot| slots.get(slot).copied().unwrap_or(0)).collect()
    }
}

fn slot(at: Duration) -> usize {
    usize::try_from(at.as_millis() / SLOT.as_millis()).unwrap_or(usize::MAX)
}
