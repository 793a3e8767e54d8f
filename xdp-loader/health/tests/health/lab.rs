//! A balancer and backends on one network, each a network namespace, removed when dropped.

use std::{
    ffi::OsStr,
    net::IpAddr,
    path::Path,
    process::Stdio,
    sync::Arc,
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
use lvx_test_kit::{Namespace, namespace::STATIC_ADDRESSES, process::Running};
use tempfile::TempDir;
use tokio::sync::watch;

/// Longer than anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

fn host(role: &str) -> Namespace {
    let host = Namespace::unique(role).unwrap();
    host.sysctl(&STATIC_ADDRESSES).unwrap();
    host
}

/// Starts a server in a namespace, its output thrown away.
pub fn start<S: AsRef<OsStr>>(namespace: &Namespace, program: &str, arguments: impl IntoIterator<Item = S>) -> Running {
    let mut command = namespace.command(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    Running::start(&mut command).unwrap()
}

/// A balancer `10.9.0.1` and backends `10.9.0.11`, `10.9.0.12` ... (and `2001:db8:9::11` ...) on a switch.
pub struct Net {
    pub balancer: Namespace,
    pub backends: Vec<Namespace>,
    _switch: Namespace,
    pub dir: TempDir,
}

impl Net {
    pub fn new(backends: usize) -> Self {
        let net = Self {
            balancer: host("lb"),
            backends: (1..=backends).map(|number| host(&format!("b{number}"))).collect(),
            _switch: host("switch"),
            dir: TempDir::new().unwrap(),
        };
        let switch = &net._switch;
        switch
            .ip("link add br0 type bridge forward_delay 0\nlink set br0 up\n")
            .unwrap();
        let hosts = std::iter::once((1, &net.balancer)).chain((11..).zip(&net.backends));
        for (host, namespace) in hosts {
            switch
                .ip(&format!(
                    "link add port{host} type veth peer name eth0 netns {}\n\
                     link set port{host} master br0 up\n",
                    namespace.name()
                ))
                .unwrap();
            namespace
                .ip(&format!(
                    "addr add 10.9.0.{host}/24 dev eth0\n\
                     addr add 2001:db8:9::{host}/64 dev eth0 nodad\n\
                     link set eth0 up\n"
                ))
                .unwrap();
        }
        thread::sleep(Duration::from_millis(1_200));
        net
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

/// Settings under which exec probes may run the shells and programs of these tests.
pub fn settings() -> HealthSettings {
    HealthSettings {
        exec_allow: ["/bin/bash", "/bin/sh", "/bin/true"].map(str::to_owned).to_vec(),
        ..HealthSettings::default()
    }
}

/// What the kernel of a namespace has counted of TCP: a column of `/proc/net/snmp`.
pub fn tcp_counter(namespace: &Namespace, name: &str) -> u64 {
    let counters = namespace.run("cat", ["/proc/net/snmp"]).unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|column| column == name).unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

/// Prints a figure, in one form.
pub fn figure(what: &str, took: Duration, promised: Duration) {
    println!(
        "FIGURE {what}: {:.0} ms (promised: at most {:.0} ms and 200)",
        took.as_secs_f64() * 1e3,
        promised.as_secs_f64() * 1e3
    );
}
