//! UDP: servers on backends that answer with their name, and clients that ask from one port.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::net::{self, AddressFamily, SendFlags, SocketType};

use crate::{Namespace, topology::Backend};

/// A server that answers each datagram with its name, a space, and the datagram itself. Dropping it ends it.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    heard: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts one on a backend, at an address that the backend has (its own, or a VIP on its loopback).
    pub fn start(backend: &Backend, listen: SocketAddr) -> Result<Self> {
        Self::start_in(&backend.namespace, &backend.name, listen)
    }

    /// Starts one in a namespace.
    pub fn start_in(namespace: &Namespace, name: &str, listen: SocketAddr) -> Result<Self> {
        let socket = namespace.inside(|| UdpSocket::bind(listen))?;
        let socket = socket.with_context(|| format!("cannot listen at {listen}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, name) = (Arc::clone(&stop), Arc::clone(&heard), name.to_owned());
        let thread = thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let mut answer = format!("{name} ").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                // A client that is gone is no failure.
                let _ = socket.send_to(&answer, from);
            }
        });
        Ok(Self {
            stop,
            heard,
            thread: Some(thread),
        })
    }

    /// How many datagrams it has heard.
    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client at one port of its own.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
}

impl Client {
    /// A client of `service`; an answer from any other address does not arrive.
    pub fn of(client: &Namespace, service: SocketAddr) -> Result<Self> {
        let any: SocketAddr = match service {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let socket = client.inside(|| UdpSocket::bind(any))??;
        socket.connect(service)?;
        Ok(Self { socket })
    }

    /// Sends a datagram and waits for its answer: the name of who answered, if anybody did. An answer with other bytes
    /// is an error.
    pub fn ask(&self, payload: &[u8], patience: Duration) -> Result<Option<String>> {
        self.socket.set_read_timeout(Some(patience))?;
        match self.socket.send(payload) {
            // What an earlier datagram met is told to the next.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
            sent => sent?,
        };
        let mut buffer = vec![0; 65_536];
        let length = match self.socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let answer = &buffer[..length];
        let space = answer
            .iter()
            .position(|byte| *byte == b' ')
            .context("an answer without a name")?;
        anyhow::ensure!(
            answer[space + 1..] == *payload,
            "the answer has other bytes than the question"
        );
        Ok(Some(String::from_utf8_lossy(&answer[..space]).into_owned()))
    }
}

/// What [`flood`] sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A UDP datagram.
    Datagram,
    /// A TCP segment that begins a connection. (Its checksum is wrong: the balancer does not look, and no backend answers.)
    Syn,
    /// A fragment of a UDP datagram that is not the first.
    LaterFragment,
}

/// Sends `count` packets to `service` (IPv4), each from another client address and port: as many flows.
pub fn flood(client: &Namespace, service: SocketAddr, count: u32, kind: Kind) -> Result<()> {
    flood_from(client, service, 0..count, kind)
}

/// The same, from the client addresses and ports of these numbers.
pub fn flood_from(client: &Namespace, service: SocketAddr, numbers: Range<u32>, kind: Kind) -> Result<()> {
    /// Ports per client address.
    const PORTS: u32 = 50_000;
    let SocketAddr::V4(service) = service else {
        anyhow::bail!("{service} is not IPv4");
    };
    let (protocol, offset) = match kind {
        Kind::Datagram => (17, [0x40, 0]),
        Kind::Syn => (6, [0x40, 0]),
        // In units of 8 bytes: 1480 / 8.
        Kind::LaterFragment => (17, [0, 185]),
    };
    client.inside(|| -> Result<()> {
        // ip(7), raw(7): with IPPROTO_RAW the header is ours, and the kernel fills in its checksum and length.
        let raw = net::socket(AddressFamily::INET, SocketType::RAW, Some(net::ipproto::RAW))?;
        let to = SocketAddr::from((*service.ip(), 0));
        for number in numbers {
            let source = Ipv4Addr::from(0x0a14_0001 + number / PORTS);
            let port = u16::try_from(1024 + number % PORTS)?;
            let [high, low] = u16::try_from(number % 0xffff + 1)?.to_be_bytes();
            let mut packet = vec![0x45, 0, 0, 0, high, low, offset[0], offset[1], 64, protocol, 0, 0];
            packet.extend(source.octets());
            packet.extend(service.ip().octets());
            packet.extend(port.to_be_bytes());
            packet.extend(service.port().to_be_bytes());
            match kind {
                // Length 9, no checksum (RFC 768).
                Kind::Datagram | Kind::LaterFragment => packet.extend([0, 9, 0, 0, b'x']),
                // Sequence and acknowledgement, a header of 20 bytes, SYN, window, checksum, urgent (RFC 9293).
                Kind::Syn => packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]),
            }
            net::sendto(&raw, &packet, SendFlags::empty(), &to)?;
        }
        Ok(())
    })?
}
