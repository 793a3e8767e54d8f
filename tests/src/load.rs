//! Many connections at once: short ones as fast as they go, held ones that stay open, and ones from a chosen port.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt, sockopt::Timeout},
};

use crate::{Namespace, client::Answers};

/// How long a connection may take to be made, and an answer to come. Longer than a lost SYN costs, so that it shows as
/// slowness and not as a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Failures that are kept word for word.
const KEPT: usize = 5;

/// What became of short connections.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// How often each backend answered.
    pub answers: Answers,
    /// Requests that were not answered.
    pub failed: usize,
    /// The first failures.
    pub failures: Vec<String>,
    /// The longest time from the beginning of a connection to its end.
    pub slowest: Duration,
}

impl Outcome {
    /// Requests that were answered.
    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    fn add(&mut self, result: Result<String>, took: Duration) {
        self.slowest = self.slowest.max(took);
        match result {
            Ok(backend) => *self.answers.entry(backend).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < KEPT {
                    self.failures.push(format!("{error:#} after {took:?}"));
                }
            }
        }
    }

    fn merge(&mut self, other: Self) {
        for (backend, count) in other.answers {
            *self.answers.entry(backend).or_default() += count;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(KEPT);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Asks `address` for `/` over `count` connections, each for one request, `parallel` at a time.
pub fn short_connections(client: &Namespace, address: SocketAddr, count: usize, parallel: usize) -> Result<Outcome> {
    let begun = AtomicUsize::new(0);
    in_parallel(client, parallel, |outcome| {
        while begun.fetch_add(1, Ordering::Relaxed) < count {
            let begin = Instant::now();
            outcome.add(short(address), begin.elapsed());
        }
    })
}

/// Asks `address` for `/` over connections for one request each, `parallel` at a time, until `stop`. `started` is called
/// with the time at which a request began and the backend that answered it.
pub fn until_stopped(
    client: &Namespace,
    address: SocketAddr,
    parallel: usize,
    stop: &AtomicBool,
    answered: impl Fn(Instant, &str) + Sync,
) -> Result<Outcome> {
    in_parallel(client, parallel, |outcome| {
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let result = short(address);
            if let Ok(backend) = &result {
                answered(begin, backend);
            }
            outcome.add(result, begin.elapsed());
        }
    })
}

fn in_parallel(client: &Namespace, parallel: usize, work: impl Fn(&mut Outcome) + Sync) -> Result<Outcome> {
    let whole = Mutex::new(Outcome::default());
    // Threads are born in the namespace of the thread that starts them.
    client.inside(|| {
        thread::scope(|scope| {
            for _ in 0..parallel {
                scope.spawn(|| {
                    let mut outcome = Outcome::default();
                    work(&mut outcome);
                    whole.lock().unwrap_or_else(PoisonError::into_inner).merge(outcome);
                });
            }
        });
    })?;
    Ok(whole.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One request over one connection, which the backend closes first; the backend's name.
fn short(address: SocketAddr) -> Result<String> {
    finish(connect(None, address)?)
}

/// Asks for `/`, reads to the end, and returns the backend's name.
fn finish(mut stream: TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: lvx\r\nConnection: close\r\n\r\n")
        .context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading")?;
    backend(&answer)
}

/// The name of the backend that gave an answer.
fn backend(answer: &str) -> Result<String> {
    ensure!(answer.starts_with("HTTP/1.1 200"), "no right answer: {answer:?}");
    let name = answer.lines().find_map(|line| line.strip_prefix("X-Backend: "));
    Ok(name.context("no X-Backend")?.trim().to_owned())
}

/// A connection that was used once and stays open.
#[derive(Debug)]
pub struct Held {
    /// The backend that answered.
    pub backend: String,
    stream: TcpStream,
}

impl Held {
    /// Connects from the client's own address and asks for `/`.
    pub fn open(client: &Namespace, address: SocketAddr) -> Result<Self> {
        client.inside(|| Self::with(connect(None, address)?))?
    }

    /// Connects from an address that the client has, and any port.
    pub fn open_from(client: &Namespace, from: IpAddr, address: SocketAddr) -> Result<Self> {
        client.inside(|| Self::with(connect(Some(SocketAddr::new(from, 0)), address)?))?
    }

    /// Connects from an address and port that the client has.
    pub fn open_at(client: &Namespace, from: SocketAddr, address: SocketAddr) -> Result<Self> {
        client.inside(|| Self::with(connect(Some(from), address)?))?
    }

    /// Opens several, one after the other.
    pub fn open_many(client: &Namespace, address: SocketAddr, count: usize) -> Result<Vec<Self>> {
        client.inside(|| (0..count).map(|_| Self::with(connect(None, address)?)).collect())?
    }

    fn with(stream: TcpStream) -> Result<Self> {
        let mut held = Self {
            backend: String::new(),
            stream,
        };
        held.backend = held.ask()?;
        Ok(held)
    }

    /// Asks once more over the same connection; the backend's name.
    pub fn ask(&mut self) -> Result<String> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream
            .write_all(b"GET / HTTP/1.1\r\nHost: lvx\r\n\r\n")
            .context("asking")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 2048];
        // The body is the backend's name and a line's end, and ends the answer.
        while !(answer.ends_with(b"\n")
            && answer.windows(4).any(|four| four == b"\r\n\r\n")
            && !answer.ends_with(b"\r\n"))
        {
            match self.stream.read(&mut buffer).context("reading")? {
                0 => bail!("the connection was closed"),
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
        backend(&String::from_utf8_lossy(&answer))
    }
}

/// How many of the connections each backend has.
pub fn spread(held: &[Held]) -> BTreeMap<&str, usize> {
    let mut spread = BTreeMap::new();
    for each in held {
        *spread.entry(each.backend.as_str()).or_default() += 1;
    }
    spread
}

/// How a client leaves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By a FIN, after the backend's.
    Orderly,
    /// By a RST.
    Abort,
}

/// Connects from a chosen port, asks for `/`, and leaves so that the port is free at once; the backend's name, and how
/// long it took to be connected.
pub fn from_port(client: &Namespace, port: SocketAddr, address: SocketAddr, end: End) -> Result<(String, Duration)> {
    client.inside(|| {
        let (stream, connected) = reconnect(port, address)?;
        let backend = match end {
            End::Orderly => {
                let backend = finish(stream)?;
                until_acknowledged(port.port())?;
                backend
            }
            End::Abort => {
                let held = Held::with(stream)?;
                sockopt::set_socket_linger(&held.stream, Some(Duration::ZERO))?;
                held.backend
            }
        };
        Ok((backend, connected))
    })?
}

/// Waits until the client's kernel has the last acknowledgement of its connections from a port. To a NAT backend that another service
/// has too, the next one from that port would be this one used again; what still comes of this one would be taken for the next one's.
fn until_acknowledged(port: u16) -> Result<()> {
    /// `TCP_LAST_ACK` of `include/net/tcp_states.h`.
    const LAST_ACK: &str = "09";
    let local = format!(":{port:04X}");
    let end = Instant::now() + PATIENCE;
    loop {
        let mut sockets = String::new();
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            sockets += &std::fs::read_to_string(table)?;
        }
        let mut fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        if !fields.any(|of| of.len() > 3 && of[1].ends_with(&local) && of[3] == LAST_ACK) {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "a connection from port {port} is not acknowledged"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Connects from a port as soon as the client's own kernel has the last acknowledgement of the connection before; how long
/// it took from then on.
fn reconnect(from: SocketAddr, to: SocketAddr) -> Result<(TcpStream, Duration)> {
    let end = Instant::now() + PATIENCE;
    loop {
        let begin = Instant::now();
        match connect(Some(from), to) {
            Ok(stream) => return Ok((stream, begin.elapsed())),
            Err(error) if error.downcast_ref() == Some(&Errno::ADDRNOTAVAIL) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// A new connection, from an address and port that the caller or the kernel chooses.
///
/// Its first data carry the handshake's acknowledgement. Where the two are packets of their own, one CPU of the backend may
/// look the second up while another puts the established socket into the place of the request that the first completed:
/// Linux before 6.19 may find neither then, and resets (`inet_ehash_insert`). That is one of some 200,000 connections, and
/// no balancer's fault.
pub fn connect(from: Option<SocketAddr>, to: SocketAddr) -> Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if let Some(from) = from {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &from).with_context(|| format!("binding {from}"))?;
    }
    sockopt::set_tcp_quickack(&socket, false)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    net::connect(&socket, &to).with_context(|| format!("connecting to {to}"))?;
    Ok(socket.into())
}
