//! A balancer and backends on one network, each a network namespace, removed when dropped.

use std::{
    fs::File,
    future::Future,
    net::IpAddr,
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lvx_health::Health;
use lvx_model::{
    Desired,
    document::{Document, Format},
    health::{BackendHealth, HealthView, State},
    settings::HealthSettings,
};
use lvx_netlink::NextHopTracker;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::sync::watch;

/// Longer than anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

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

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace(pub String);

impl Namespace {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the health tests need root (network namespaces): sudo -E cargo test -p lvx-health --test health"
        );
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("lvxh-{}-{number}", std::process::id()));
        run(&format!("ip netns add {}", namespace.0));
        namespace.sysctl("net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0");
        namespace.ip("link set lo up");
        namespace
    }

    pub fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.0));
    }

    pub fn sysctl(&self, setting: &str) {
        run(&format!("ip netns exec {} sysctl -q -w {setting}", self.0));
    }

    /// Starts a program inside.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Process {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.0, program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process(child)
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

/// A program, killed when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.0.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Lets it run on, where it was stopped, so that it can end.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A balancer `10.9.0.1` and backends `10.9.0.11`, `10.9.0.12` ... (and `2001:db8:9::11` ...) on a switch.
pub struct Net {
    pub balancer: Namespace,
    pub backends: Vec<Namespace>,
    _switch: Namespace,
    pub dir: TempDir,
}

impl Net {
    pub fn new(backends: usize) -> Arc<Self> {
        let net = Self {
            balancer: Namespace::new(),
            backends: (0..backends).map(|_| Namespace::new()).collect(),
            _switch: Namespace::new(),
            dir: TempDir::new().unwrap(),
        };
        let switch = &net._switch;
        switch.ip("link add br0 type bridge forward_delay 0");
        switch.ip("link set br0 up");
        let hosts = std::iter::once((1, &net.balancer)).chain((11..).zip(&net.backends));
        for (host, namespace) in hosts {
            switch.ip(&format!(
                "link add port{host} type veth peer name eth0 netns {}",
                namespace.0
            ));
            switch.ip(&format!("link set port{host} master br0"));
            switch.ip(&format!("link set port{host} up"));
            namespace.ip(&format!("addr add 10.9.0.{host}/24 dev eth0"));
            namespace.ip(&format!("addr add 2001:db8:9::{host}/64 dev eth0 nodad"));
            namespace.ip("link set eth0 up");
        }
        thread::sleep(Duration::from_millis(1_200));
        Arc::new(net)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Health of what a document desires, inside the balancer.
pub struct Watch {
    pub health: Health,
    pub view: watch::Receiver<Arc<HealthView>>,
    pub desired: Arc<Desired>,
    _tracker: NextHopTracker,
}

impl Watch {
    pub async fn start(text: &str, settings: HealthSettings) -> Self {
        let desired = Arc::new(desired(text));
        let tracker = NextHopTracker::start().await.unwrap();
        tracker.set_targets(desired.backend_addresses());
        tracker.ready().await;
        let health = Health::start(settings, tracker.subscribe()).unwrap();
        health.set_targets(Arc::clone(&desired)).await;
        Self {
            view: health.subscribe(),
            health,
            desired,
            _tracker: tracker,
        }
    }

    /// What the dataplane is told of a backend.
    pub fn backend(&self, ip: &str) -> BackendHealth {
        let ip: IpAddr = ip.parse().unwrap();
        let view = self.view.borrow();
        let found = view
            .0
            .values()
            .flat_map(|it| it.iter())
            .find(|((backend, _), _)| *backend == ip);
        *found.unwrap().1
    }

    pub fn weights(&self) -> Vec<u16> {
        let service = self.desired.services().values().next().unwrap();
        self.view.borrow().weights(service)
    }

    /// Waits until a backend is in a state, and says how long that took.
    pub async fn until(&mut self, ip: &str, state: State) -> Duration {
        self.until_health(ip, state.name(), |health| health.state == state)
            .await
    }

    pub async fn until_health(&mut self, ip: &str, what: &str, is: impl Fn(&BackendHealth) -> bool) -> Duration {
        let begin = Instant::now();
        let wanted: IpAddr = ip.parse().unwrap();
        let waited = self.view.wait_for(|view| {
            let mut backends = view.0.values().flat_map(|it| it.iter());
            let found = backends.find(|((backend, _), _)| *backend == wanted);
            found.is_some_and(|(_, health)| is(health))
        });
        if tokio::time::timeout(PATIENCE, waited).await.is_err() {
            let mut report = self.health.report(None).await;
            for backend in report.services.iter_mut().flat_map(|service| &mut service.backends) {
                for probe in &mut backend.probes {
                    probe.results = probe.results.split_off(probe.results.len().saturating_sub(2));
                }
            }
            panic!("{ip} is not {what}: {report:#?}");
        }
        begin.elapsed()
    }

    pub async fn reason(&self, ip: &str) -> String {
        let ip: IpAddr = ip.parse().unwrap();
        let report = self.health.report(None).await;
        let mut backends = report.services.iter().flat_map(|service| &service.backends);
        let found = backends.find(|backend| backend.address.ip() == ip).unwrap();
        found.reason.clone().unwrap_or_default()
    }

    /// Waits until the reason says this.
    pub async fn until_reason(&self, ip: &str, part: &str) {
        let begin = Instant::now();
        loop {
            let reason = self.reason(ip).await;
            if reason.contains(part) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{reason:?} does not say {part:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

pub fn desired(text: &str) -> Desired {
    Desired::from_document(Document::parse(text, Format::Toml, "test").unwrap()).unwrap()
}

/// Prints a figure, in one form.
pub fn figure(what: &str, took: Duration, promised: Duration) {
    println!(
        "FIGURE {what}: {:.0} ms (promised: at most {:.0} ms and 200)",
        took.as_secs_f64() * 1e3,
        promised.as_secs_f64() * 1e3
    );
}
