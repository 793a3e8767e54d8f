//! A balancer and two backends, each a network namespace, removed when dropped.

use std::{
    fs::File,
    future::Future,
    net::IpAddr,
    os::fd::AsFd as _,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The balancer's interfaces, and the backends'.
pub const BALANCER: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 0], [2, 0, 0, 0, 1, 1]];
pub const BACKEND: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 0], [2, 0, 0, 0, 2, 1]];
/// Longer than anything here may take; the kernel gives up on a neighbour after three seconds.
pub const PATIENCE: Duration = Duration::from_secs(10);

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network namespace, removed when dropped.
pub struct Namespace(pub String);

impl Namespace {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the netlink tests need root (network namespaces): sudo -E cargo test -p lvx-netlink --test netlink"
        );
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("lvxn-{}-{number}", std::process::id()));
        run(&format!("ip netns add {}", namespace.0));
        namespace.run("sysctl -q -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0");
        namespace.ip("link set lo up");
        namespace
    }

    pub fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }

    pub fn run(&self, command: &str) {
        run(&format!("ip netns exec {} {command}", self.0));
    }

    /// Runs the future to its end on a thread of its own inside the namespace.
    pub fn enter<T: Send + 'static, F: Future<Output = T>>(&self, body: impl FnOnce() -> F + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.0);
        let thread = thread::spawn(move || {
            let namespace = File::open(path).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(body())
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing more can be done about a failure; panicking in a drop would hide the test's own.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A balancer with two interfaces, and behind each a backend: `10.0.N.11` and `2001:db8:N::11`.
pub struct Net {
    pub balancer: Arc<Namespace>,
    pub backends: [Arc<Namespace>; 2],
}

pub fn net() -> Net {
    let net = Net {
        balancer: Arc::new(Namespace::new()),
        backends: [Arc::new(Namespace::new()), Arc::new(Namespace::new())],
    };
    for (number, backend) in net.backends.iter().enumerate() {
        net.balancer.ip(&format!(
            "link add eth{number} address {} type veth peer name eth0 address {} netns {}",
            text(BALANCER[number]),
            text(BACKEND[number]),
            backend.0
        ));
        for (namespace, interface, host) in [
            (&net.balancer, format!("eth{number}"), 1),
            (backend, "eth0".to_owned(), 11),
        ] {
            namespace.ip(&format!("addr add 10.0.{number}.{host}/24 dev {interface}"));
            namespace.ip(&format!("addr add 2001:db8:{number}::{host}/64 dev {interface} nodad"));
            namespace.ip(&format!("link set {interface} up"));
        }
        backend.ip(&format!("route add default via 10.0.{number}.1"));
    }
    // A new veth is without a carrier, and its IPv6 addresses tentative, for up to a second.
    let deadline = Instant::now() + PATIENCE;
    let all = || [&net.balancer].into_iter().chain(&net.backends);
    while all().any(|namespace| {
        !output(&format!("ip -n {} -o link show up", namespace.0)).contains("state UP")
            || output(&format!("ip -n {} -o link show", namespace.0)).contains("NO-CARRIER")
            || !output(&format!("ip -n {} -6 -o addr show tentative", namespace.0)).is_empty()
    }) {
        assert!(Instant::now() < deadline, "the interfaces do not come up");
        thread::sleep(Duration::from_millis(20));
    }
    net
}
