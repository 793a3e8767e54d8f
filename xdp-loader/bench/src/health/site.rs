//! Two network namespaces joined by a cable: the balancer's, and that of a server that is every backend.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::fd::AsFd as _,
    process::{Command, id},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    net::listen,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::run;

/// What arrivals are counted by.
pub(super) const SLOT: Duration = Duration::from_millis(10);

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 4_096;

/// The address of a backend.
pub(super) fn backend(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 1).to_bits() + number)
}

/// A network namespace, removed when dropped.
struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Result<Self> {
        let name = format!("lvx-bench-{}-{role}", id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self(name))
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        run(Command::new("ip")
            .args(["-n", &self.0])
            .args(arguments.split_whitespace()))?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.0])) {
            eprintln!("lvx-bench: {error:#}");
        }
    }
}

/// See the module.
pub(super) struct Site {
    balancer: Namespace,
    server: Namespace,
}

impl Site {
    pub(super) fn new() -> Result<Self> {
        let site = Self {
            balancer: Namespace::new("balancer")?,
            server: Namespace::new("server")?,
        };
        let (balancer, server) = (&site.balancer, &site.server);
        balancer.ip(&format!("link add eth0 type veth peer name eth0 netns {}", server.0))?;
        for (namespace, host) in [(balancer, 1), (server, 2)] {
            namespace.ip("link set lo up")?;
            namespace.ip(&format!("addr add 10.63.0.{host}/24 dev eth0"))?;
            namespace.ip("link set eth0 up")?;
        }
        // Every address of the network is the server's own.
        server.ip("route add local 10.64.0.0/16 dev lo")?;
        balancer.ip("route add 10.64.0.0/16 via 10.63.0.2")?;
        Ok(site)
    }

    /// A command in the balancer's namespace. `ip netns exec` would hide the BPF file system.
    pub(super) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.balancer.0))
            .arg(program);
        command
    }

    /// Accepts connections to port 80 of every backend and notes when they come, until this program ends.
    pub(super) fn serve(&self) -> Result<Arc<Arrivals>> {
        let namespace = File::open(format!("/run/netns/{}", self.server.0))?;
        let arrivals = Arc::new(Arrivals::new());
        let noted = Arc::clone(&arrivals);
        let (ready, listens) = mpsc::channel();
        thread::spawn(move || {
            let listener = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(std::io::Error::from)
                .and_then(|()| TcpListener::bind("0.0.0.0:80"))
                // More than std asks for: a server that the scheduler lets wait refuses nobody.
                .and_then(|listener| Ok(listen(&listener, BACKLOG).map(|()| listener)?));
            match listener {
                Ok(listener) => {
                    let _ = ready.send(Ok(()));
                    while listener.accept().is_ok() {
                        noted.add();
                    }
                }
                // Whoever waits for it has not gone.
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        listens.recv()?.context("the server cannot listen")?;
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
