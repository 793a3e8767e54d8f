//! Probes: one question to one backend, one answer. Each kind is a file; what they share is here.
//!
//! A probe never takes longer than its timeout and never keeps more than some tens of KiB of what a backend sends,
//! whatever it sends and however slowly.

mod agent;
mod bounded;
mod dns;
mod exec;
mod expect;
mod grpc;
mod http;
mod icmp;
mod own_trouble;
mod socket;
mod tcp;
mod tls;
mod udp;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use lvx_model::{
    Check, CheckType, ServiceAddress,
    check::{ProbeTo, from_hex},
};

pub use expect::Expect;

/// What a probe found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The backend serves.
    Up,
    /// It serves, and something is not as it should be.
    Degraded,
    /// It does not.
    Down,
    /// It serves and asks for no new connections.
    Drain,
    /// It serves, with this weight in place of the configured one.
    Weight(u16),
    /// It serves and reports its load, in thousandths of full.
    Load(u32),
    /// It serves and asks for this share of its weight, in percent.
    Share(u32),
    /// Nothing was found out: this node could not ask.
    Unknown,
}

impl Outcome {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Weight(_) => "weight",
            Self::Load(_) => "load",
            Self::Share(_) => "share",
            Self::Unknown => "unknown",
        }
    }
}

/// An outcome, how long it took, and why it is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was found out.
    pub outcome: Outcome,
    /// From the start to the answer.
    pub latency: Duration,
    /// Why, where it is no success; or what was said.
    pub reason: Option<Box<str>>,
}

impl Report {
    /// Of a probe that could not even begin.
    pub(crate) fn unasked(reason: impl std::fmt::Display) -> Self {
        Self {
            outcome: Outcome::Unknown,
            latency: Duration::ZERO,
            reason: Some(bounded(format!("cannot be asked: {reason}")).into()),
        }
    }
}

/// A finding before it was timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    outcome: Outcome,
    reason: Option<Box<str>>,
}

impl Finding {
    fn up() -> Self {
        Self::of(Outcome::Up)
    }

    fn of(outcome: Outcome) -> Self {
        Self { outcome, reason: None }
    }

    fn said(outcome: Outcome, reason: impl Into<String>) -> Self {
        Self {
            outcome,
            reason: Some(bounded(reason.into()).into()),
        }
    }

    fn down(reason: impl Into<String>) -> Self {
        Self::said(Outcome::Down, reason)
    }

    /// Nothing is known of the backend, by no fault of its own.
    fn unknown(reason: impl Into<String>) -> Self {
        Self::said(Outcome::Unknown, reason)
    }

    /// What an error, told in these words, says of the backend: that it is down, unless the trouble is this node's own.
    fn failed(error: &(dyn std::error::Error + 'static), words: impl Into<String>) -> Self {
        if own_trouble::is_own(error) {
            Self::unknown(words)
        } else {
            Self::down(words)
        }
    }

    /// The same, told in the kernel's words.
    fn refused(error: &std::io::Error) -> Self {
        Self::failed(error, refused(error))
    }
}

/// The longest reason, in bytes: a backend may have had a hand in it.
const REASON: usize = 200;

/// One printable line within [`REASON`].
fn bounded(mut text: String) -> String {
    if text.len() > REASON {
        let end = (0..=REASON).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

/// How packets are made to reach the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By its own address.
    Address,
    /// By the VIP, at this backend: the mark makes the probe namespace's routes lead there.
    Vip {
        /// The mark of the socket.
        mark: u32,
    },
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The service.
    pub service: ServiceAddress,
    /// The backend's own address.
    pub backend: IpAddr,
    /// The backend's port.
    pub port: u16,
    /// How it is reached.
    pub reach: Reach,
}

impl Target {
    /// The destination of the probe's packets.
    fn destination(&self) -> IpAddr {
        match self.reach {
            Reach::Address => self.backend,
            Reach::Vip { .. } => self.service.ip,
        }
    }

    fn mark(&self) -> Option<u32> {
        match self.reach {
            Reach::Address => None,
            Reach::Vip { mark } => Some(mark),
        }
    }
}

/// Where a probe's socket goes to and comes from.
#[derive(Clone, Copy, Debug)]
struct Route {
    to: SocketAddr,
    from: Option<IpAddr>,
    mark: Option<u32>,
}

/// A check, compiled: what is shared by all backends that it is asked of.
#[derive(Debug)]
pub struct Probe {
    kind: Kind,
    port: Option<u16>,
    source: Option<IpAddr>,
    timeout: Duration,
    to: Option<ProbeTo>,
}

#[derive(Debug)]
enum Kind {
    Icmp,
    Tcp(tcp::Tcp),
    Http(Box<http::Http>),
    Dns(dns::Dns),
    Udp(udp::Udp),
    Grpc(grpc::Grpc),
    Exec(exec::Exec),
    Agent(agent::Agent),
}

/// Why a check cannot be asked on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(String);

impl Probe {
    /// Compiles a check.
    ///
    /// # Errors
    /// When a file that it names cannot be read.
    pub fn new(check: &Check) -> Result<Self, ProbeError> {
        let form = check.form();
        // A check that exists is valid: see `CheckForm::validate`.
        let bytes = |text: &Option<String>, hex: &Option<String>| {
            text.as_ref()
                .map(|text| text.clone().into_bytes())
                .or_else(|| hex.as_deref().and_then(from_hex))
        };
        let expect = || -> Result<Option<Expect>, ProbeError> {
            match &form.expect_regex {
                Some(pattern) => Expect::pattern(pattern).map(Some).map_err(ProbeError),
                None => Ok(bytes(&form.expect, &form.expect_hex).map(Expect::text)),
            }
        };
        let kind = match form.kind {
            CheckType::Icmp => Kind::Icmp,
            CheckType::Tcp => Kind::Tcp(tcp::Tcp {
                send: bytes(&form.send, &form.send_hex).unwrap_or_default(),
                expect: expect()?,
                close: form.close,
            }),
            CheckType::Udp => Kind::Udp(udp::Udp {
                send: bytes(&form.send, &form.send_hex).unwrap_or_default(),
                expect: expect()?,
            }),
            CheckType::Http | CheckType::Https => Kind::Http(Box::new(http::Http::new(form)?)),
            CheckType::Dns => Kind::Dns(dns::Dns::new(form)?),
            CheckType::Grpc => Kind::Grpc(grpc::Grpc::new(form)?),
            CheckType::Exec => Kind::Exec(exec::Exec {
                command: form.command.clone().unwrap_or_default(),
                status: match (form.nagios, form.weight_from_status) {
                    (Some(true), _) => exec::Status::Nagios,
                    (_, Some(true)) => exec::Status::Weight,
                    _ => exec::Status::Success,
                },
            }),
            CheckType::Agent => Kind::Agent(agent::Agent {
                send: form.send.clone().unwrap_or_default(),
            }),
        };
        Ok(Self {
            kind,
            port: check.port(),
            source: check.source(),
            timeout: check.timeout().get(),
            to: form.to,
        })
    }

    /// An echo request.
    pub fn echo(timeout: Duration) -> Self {
        Self {
            kind: Kind::Icmp,
            port: None,
            source: None,
            timeout,
            to: None,
        }
    }

    /// How long it may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it asks what clients of a service reach, where that is another address than the backend's own.
    pub fn asks_vip(&self, is_dr: bool) -> bool {
        match self.to {
            Some(to) => to == ProbeTo::Vip,
            None => is_dr && !matches!(self.kind, Kind::Exec(_) | Kind::Agent(_)),
        }
    }

    /// Asks. Takes as long as the timeout at most, and some milliseconds.
    pub async fn run(&self, target: &Target) -> Report {
        let begin = Instant::now();
        let route = Route {
            to: SocketAddr::new(target.destination(), self.port.unwrap_or(target.port)),
            from: self.source,
            mark: target.mark(),
        };
        let asked = async {
            match &self.kind {
                Kind::Icmp => icmp::run(route).await,
                Kind::Tcp(tcp) => tcp.run(route).await,
                Kind::Http(http) => http.run(route, self.timeout).await,
                Kind::Dns(dns) => dns.run(route).await,
                Kind::Udp(udp) => udp.run(route, self.timeout).await,
                Kind::Grpc(grpc) => grpc.run(route).await,
                Kind::Exec(exec) => exec.run(target, route.to.port(), self.timeout).await,
                Kind::Agent(agent) => agent.run(route).await,
            }
        };
        let finding = match tokio::time::timeout(self.limit(), asked).await {
            Ok(finding) => finding,
            Err(_) => Finding::down(format!("no answer within {} ms", self.timeout.as_millis())),
        };
        Report {
            outcome: finding.outcome,
            latency: begin.elapsed(),
            reason: finding.reason,
        }
    }

    /// Those that keep the time themselves, to say more than that there was no answer, are given a little longer.
    fn limit(&self) -> Duration {
        match self.kind {
            Kind::Udp(_) | Kind::Exec(_) | Kind::Http(_) => self.timeout + Duration::from_secs(1),
            _ => self.timeout,
        }
    }
}

/// An error as one line, with the deepest cause that says more.
fn why(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// What the kernel said, without Rust's `(os error 111)`.
fn refused(error: &std::io::Error) -> String {
    let text = why(error);
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}
