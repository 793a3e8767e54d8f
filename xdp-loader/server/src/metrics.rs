//! Reports for Prometheus: the text format of <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use lvx_api::{BackendState, BackendStatus, Stats, Status, Traffic};
use lvx_control::Dataplane;
use lvx_model::settings::AttachMode;
use tokio::{
    net::TcpListener,
    runtime,
    sync::{Mutex, oneshot, watch},
};

use crate::listener::{self, Limits, until_dropped};

/// What clients may take: a Prometheus or two, and somebody with curl.
const LIMITS: Limits = Limits {
    connections: 64,
    header_bytes: 8 * 1024,
    header_time: Duration::from_secs(5),
    life: Duration::from_secs(60),
};

/// How much less of the processor the thread gets than others that want it (`nice(2)`).
const NICE: i32 = 10;
/// For how long a page is good: all who ask meanwhile get the same.
const FRESH: Duration = Duration::from_millis(200);

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {source}; give another --metrics address, or none")]
pub struct MetricsError {
    /// The address of the settings.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

/// Listens for those who collect metrics.
///
/// # Errors
/// When the address is not this node's or is taken.
pub fn listen(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    listener::bind(address).map_err(|source| MetricsError { address, source })
}

/// Answers `GET /metrics` until the sender of `stop` is dropped, on a thread that yields to all others of the daemon: who collects the
/// metrics of a large configuration, however often, holds up no change. What is returned is told when it has stopped, and is
/// dropped untold if the thread panics.
///
/// # Errors
/// When there is no thread or no runtime to be had.
pub fn start(
    listener: TcpListener,
    dataplane: Arc<dyn Dataplane>,
    stop: watch::Receiver<()>,
) -> io::Result<oneshot::Receiver<()>> {
    let listener = listener.into_std()?;
    let (stopped, ended) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "metrics are served with the priority of all else");
        }
        let served = runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            let page = Arc::new(Page {
                dataplane,
                latest: Mutex::default(),
            });
            let router = Router::new().route("/metrics", get(answer)).with_state(page);
            listener::serve(listener, router, LIMITS, until_dropped(stop)).await;
            io::Result::Ok(())
        });
        match served {
            // Whoever asked may be gone.
            Ok(()) => drop(stopped.send(())),
            Err(error) => tracing::error!(%error, "metrics are not served"),
        }
    };
    thread::Builder::new().name("lvx-metrics".into()).spawn(serve)?;
    Ok(ended)
}

/// What is answered.
struct Page {
    dataplane: Arc<dyn Dataplane>,
    /// The page that was rendered last, and when.
    latest: Mutex<Option<(Instant, Bytes)>>,
}

async fn answer(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let mut latest = page.latest.lock().await;
    let text = match &*latest {
        Some((at, text)) if at.elapsed() < FRESH => text.clone(),
        _ => {
            let text = Bytes::from(render(&page.dataplane.status().await, &page.dataplane.stats().await));
            *latest = Some((Instant::now(), text.clone()));
            text
        }
    };
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// A counter of services and backends: its name, what it counts and where it stands.
type Counter = (&'static str, &'static str, fn(&Traffic) -> u64);

const COUNTERS: [Counter; 5] = [
    ("packets_in_total", "Packets from clients.", |traffic| {
        traffic.packets_in
    }),
    ("bytes_in_total", "Bytes from clients.", |traffic| traffic.bytes_in),
    (
        "packets_out_total",
        "Packets to clients that came back through the balancer.",
        |traffic| traffic.packets_out,
    ),
    (
        "bytes_out_total",
        "Bytes to clients that came back through the balancer.",
        |traffic| traffic.bytes_out,
    ),
    ("connections_total", "Connections or flows begun.", |traffic| {
        traffic.connections
    }),
];

fn render(status: &Status, stats: &Stats) -> String {
    let mut page = Text::default();
    page.family("lvx_info", "gauge", "1, with the daemon's version.");
    page.sample(&[("version", &status.version)], 1);
    page.family("lvx_uptime_seconds", "gauge", "Seconds since the daemon started.");
    page.sample(&[], status.uptime_seconds);
    page.family(
        "lvx_interface_up",
        "gauge",
        "Whether an interface is attached, up and has a carrier.",
    );
    for interface in &status.interfaces {
        page.sample(
            &[
                ("interface", &interface.name),
                ("mode", interface.mode.map_or("none", AttachMode::name)),
            ],
            interface.link_up.into(),
        );
    }
    page.family(
        "lvx_reconcile_failed",
        "gauge",
        "1 while what is desired is not in place, as the last reconcile failed.",
    );
    page.sample(&[], status.reconcile_failure.is_some().into());
    let flows = [("ipv4", status.flows.v4), ("ipv6", status.flows.v6)];
    page.family("lvx_flow_table_entries", "gauge", "Entries in the flow table.");
    flows
        .iter()
        .for_each(|(family, table)| page.sample(&[("family", family)], table.used));
    page.family(
        "lvx_flow_table_capacity",
        "gauge",
        "Entries that fit in the flow table.",
    );
    flows
        .iter()
        .for_each(|(family, table)| page.sample(&[("family", family)], table.capacity));
    page.family(
        "lvx_packets_total",
        "counter",
        "Packets received, by what became of them.",
    );
    for interface in &stats.interfaces {
        for count in &interface.verdicts {
            page.sample(
                &[("interface", &interface.name), ("verdict", &count.verdict)],
                count.packets,
            );
        }
    }
    backends_up(&mut page, status);
    backends_busy(&mut page, status);
    traffic(&mut page, stats);
    page.text
}

fn backends_up(page: &mut Text, status: &Status) {
    page.family("lvx_backend_up", "gauge", "Whether `lvx status` calls a backend up.");
    for service in &status.services {
        for backend in &service.backends {
            let labels = [
                ("service", &*service.address.to_string()),
                ("backend", &*backend.address.to_string()),
            ];
            page.sample(&labels, (backend.state == BackendState::Up).into());
        }
    }
}

fn backends_busy(page: &mut Text, status: &Status) {
    type Gauge = (&'static str, &'static str, fn(&BackendStatus) -> Option<u64>);
    let gauges: [Gauge; 2] = [
        (
            "lvx_backend_active_connections",
            "Established TCP connections and UDP flows.",
            |backend| backend.active_connections,
        ),
        (
            "lvx_backend_inactive_connections",
            "Connections that are half open, closing or closed, and not yet forgotten.",
            |backend| backend.inactive_connections,
        ),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        for service in &status.services {
            for backend in &service.backends {
                let labels = [
                    ("service", &*service.address.to_string()),
                    ("backend", &*backend.address.to_string()),
                ];
                if let Some(connections) = value(backend) {
                    page.sample(&labels, connections);
                }
            }
        }
    }
}

fn traffic(page: &mut Text, stats: &Stats) {
    let gauge: Counter = ("active_flows", "Entries in the flow table now.", |traffic| {
        traffic.active_flows
    });
    for (name, help, value) in COUNTERS.into_iter().chain([gauge]) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        page.family(&format!("lvx_service_{name}"), kind, help);
        for service in &stats.services {
            page.sample(&[("service", &service.address.to_string())], value(&service.traffic));
        }
        page.family(&format!("lvx_backend_{name}"), kind, help);
        for service in &stats.services {
            for backend in &service.backends {
                let labels = [
                    ("service", &*service.address.to_string()),
                    ("backend", &*backend.address.to_string()),
                ];
                page.sample(&labels, value(&backend.traffic));
            }
        }
    }
}

/// The text so far and the family that samples belong to.
#[derive(Debug, Default)]
struct Text {
    text: String,
    family: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.family = name.to_owned();
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, text)| format!("{name}=\"{}\"", escaped(text)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.family);
    }
}
