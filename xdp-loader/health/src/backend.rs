//! What is known of one backend: its probes, its state machine, its reported load.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    combine::combine,
    diagnosis,
    history::History,
    load::LoadShare,
    persist::Kept,
    probe::{Outcome, Probe, Report},
    quorum::Candidate,
    schedule::ProbeId,
    state::Machine,
    verdict::Streak,
};
use lvx_api::health::{BackendReport, ChangeReport, ProbeReport, ResultReport};
use lvx_model::{
    Availability, Backend, BackendKey, Check, Forward, Service,
    health::{BackendHealth, ProbeVerdict, State},
};

/// Changes of state that are kept.
const CHANGES: usize = 16;

/// Of a load that is not given: the weight that is left under load, in percent.
const FLOOR: u32 = 10;

/// One probe of one backend.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: ProbeId,
    pub(super) check: Check,
    /// Or why it cannot be asked on this machine.
    pub(super) probe: Result<Arc<Probe>, String>,
    pub(super) streak: Streak,
    pub(super) history: History,
    /// When it last began.
    pub(super) began: Duration,
    pub(super) vip: bool,
    /// Why it is not asked as it should be.
    pub(super) note: Option<String>,
    /// What the last failure means, where that is more than it says itself.
    pub(super) diagnosis: Option<String>,
    pub(super) diagnosed: Option<Duration>,
    /// Since when it waits for a way to the VIP.
    pub(super) waits: Option<Duration>,
}

impl Asked {
    pub(super) fn new(id: ProbeId, check: Check, probe: Result<Arc<Probe>, String>, streak: Streak) -> Self {
        Self {
            id,
            check,
            probe,
            streak,
            history: History::default(),
            began: Duration::ZERO,
            vip: false,
            note: None,
            diagnosis: None,
            diagnosed: None,
            waits: None,
        }
    }
}

#[derive(Clone, Debug)]
struct Change {
    at: Duration,
    from: State,
    to: State,
    reason: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) key: BackendKey,
    pub(super) machine: Machine,
    pub(super) load: LoadShare,
    pub(super) probes: Vec<Asked>,
    weight: u16,
    sorry: bool,
    drain: bool,
    disabled: bool,
    pub(super) direct: bool,
    /// Whether it answers ARP or neighbour discovery for its service's VIP.
    claims_vip: bool,
    reason: Option<String>,
    /// What the last decision was made from.
    seen: Option<(Candidate, State, u32)>,
    shown: State,
    shown_since: Duration,
    changes: VecDeque<Change>,
}

impl Watched {
    /// A backend with what was known of it before a restart.
    pub(super) fn new(key: BackendKey, kept: Option<&Kept>, ago: Duration, now: Duration) -> Self {
        let machine = kept.map_or_else(Machine::default, |kept| Machine::recall(kept.machine, ago, now));
        Self {
            key,
            shown: machine.state(),
            machine,
            load: kept.map(|kept| kept.load).unwrap_or_default(),
            probes: Vec::new(),
            weight: 0,
            sorry: false,
            drain: false,
            disabled: false,
            direct: false,
            claims_vip: false,
            reason: kept.and_then(|kept| kept.reason.clone()),
            seen: None,
            shown_since: now,
            changes: VecDeque::new(),
        }
    }

    /// Takes over what is desired.
    pub(super) fn desire(&mut self, service: &Service, backend: &Backend) {
        self.direct = backend.forward(service) == Forward::Dr;
        self.weight = backend.weight;
        self.sorry = backend.sorry;
        self.drain = backend.drain;
        self.disabled = backend.disabled;
    }

    /// Whether it is probed with these checks.
    pub(super) fn has_checks(&self, checks: &[Check]) -> bool {
        self.probes.iter().map(|asked| &asked.check).eq(checks)
    }

    /// Takes in whether it answers ARP for its service's VIP; returns whether that is news.
    pub(super) fn claims_vip(&mut self, claims: bool) -> bool {
        let claims = claims && self.direct;
        std::mem::replace(&mut self.claims_vip, claims) != claims
    }

    /// One of its probes.
    pub(super) fn asked_mut(&mut self, id: ProbeId) -> Option<&mut Asked> {
        self.probes.iter_mut().find(|asked| asked.id == id)
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.key.1, self.key.2)
    }

    /// A verdict to begin new probes with: what is known stays until they say otherwise.
    pub(super) fn begin(&self) -> ProbeVerdict {
        // Not by its state: one that is held out answers, and to begin with a failure would be another fall.
        match self.machine.verdict() {
            ProbeVerdict::Degraded => ProbeVerdict::Up,
            verdict => verdict,
        }
    }

    /// Takes in a result.
    pub(super) fn take(&mut self, id: ProbeId, report: &Report, now: Duration, policy: &Availability) {
        let Some(asked) = self.probes.iter_mut().find(|asked| asked.id == id) else {
            return;
        };
        asked.history.add(report, now);
        asked
            .streak
            .take(&report.outcome, asked.check.rise(), asked.check.fall());
        if !matches!(report.outcome, Outcome::Down | Outcome::Unknown) {
            asked.diagnosis = None;
        }
        let form = asked.check.form();
        let floor = form.load_floor.unwrap_or(FLOOR);
        match report.outcome {
            Outcome::Load(thousandths) => {
                self.load
                    .report_load(f64::from(thousandths) / 1_000.0, floor, form.load_limit);
            }
            Outcome::Share(percent) => {
                let floor = floor.min(percent.max(1));
                self.load.report_share(f64::from(percent), floor, form.load_limit);
            }
            Outcome::Weight(weight) => self.load.report_weight(weight),
            Outcome::Up | Outcome::Degraded | Outcome::Down | Outcome::Drain | Outcome::Unknown => {}
        }
        let verdict = combine(policy.combine, self.probes.iter().map(|asked| asked.streak.verdict()));
        self.machine.observe(verdict, now, policy);
    }

    /// Lets time pass. A backend without probes is healthy.
    pub(super) fn tick(&mut self, now: Duration, policy: &Availability) {
        if self.probes.is_empty() {
            self.machine.observe(ProbeVerdict::Up, now, policy);
        } else {
            self.machine.tick(now, policy);
        }
    }

    /// Whether anything is another since this was last asked that a decision is made from.
    pub(super) fn moved(&mut self, now: Duration, policy: &Availability) -> bool {
        let seen = Some((self.candidate(), self.state(), self.share(now, policy)));
        let moved = self.seen != seen;
        self.seen = seen;
        moved
    }

    /// The share of its weight that it gets, in percent.
    fn share(&self, now: Duration, policy: &Availability) -> u32 {
        (self.machine.share(now, policy) * self.load.share() / 100).max(1)
    }

    /// The state that users see.
    pub(super) fn state(&self) -> State {
        match self.machine.state() {
            _ if self.disabled => State::Disabled,
            State::Down => State::Down,
            _ if self.drain => State::Draining,
            State::Up if self.load.protected() || self.claims_vip => State::Degraded,
            state => state,
        }
    }

    /// Notes a change of the state that users see; returns the state before, if it is another now.
    pub(super) fn changed(&mut self, now: Duration) -> Option<(State, Option<String>)> {
        let state = self.state();
        let reason = self.explain(now);
        if state == self.shown {
            // The same state, perhaps for another reason: the state's age is kept.
            self.reason = reason;
            return None;
        }
        let from = std::mem::replace(&mut self.shown, state);
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Change {
            at: now,
            from,
            to: state,
            reason: reason.clone(),
        });
        self.shown_since = now;
        self.reason.clone_from(&reason);
        Some((from, reason))
    }

    /// Why it is in its state.
    fn explain(&self, now: Duration) -> Option<String> {
        match self.state() {
            State::Disabled => return Some("disabled by the operator".into()),
            State::Draining if self.drain => return Some("asked to drain".into()),
            State::Unknown => return Some(self.trouble().unwrap_or_else(|| "not probed yet".into())),
            _ => {}
        }
        if let Some(held) = self
            .machine
            .held_for(now)
            .filter(|_| self.machine.state() == State::Down)
        {
            let flaps = self.machine.flaps();
            if self.failure().is_none() {
                return Some(format!(
                    "flaps: went down {flaps} times; answers, and is held out for {:.0} s more",
                    held.as_secs_f64().ceil()
                ));
            }
        }
        match self.state() {
            State::Up => self.trouble(),
            State::Degraded if self.load.protected() => Some("past its load limit: no new connections".into()),
            State::Degraded if self.claims_vip => Some(diagnosis::of_claim(self.key.0.ip)),
            State::Degraded => self
                .trouble()
                .or_else(|| self.failure())
                .or_else(|| self.reason.clone()),
            // Nothing new is known since the restart: what was known before is the reason.
            _ => self.failure().or_else(|| self.reason.clone()),
        }
    }

    /// Why this node could not ask, of the first probe that it could not.
    fn trouble(&self) -> Option<String> {
        let mut troubles = self
            .probes
            .iter()
            .filter_map(|asked| Some((asked, asked.history.trouble()?)));
        let (asked, words) = troubles.next()?;
        Some(format!(
            "{}: not known, so its state is kept: {words}",
            asked.check.kind()
        ))
    }

    /// The reason of the first probe that fails.
    fn failure(&self) -> Option<String> {
        let failing = self
            .probes
            .iter()
            .find(|asked| matches!(asked.streak.verdict(), ProbeVerdict::Down | ProbeVerdict::Drain))
            .or_else(|| {
                self.probes
                    .iter()
                    .find(|asked| asked.streak.verdict() == ProbeVerdict::Degraded)
            })?;
        let words = failing.diagnosis.as_deref().or_else(|| failing.history.last_failure());
        Some(format!("{}: {}", failing.check.kind(), words?))
    }

    /// As the decision who serves sees it.
    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            state: self.machine.state(),
            weight: self.reported_weight().unwrap_or(self.weight),
            sorry: self.sorry,
            protected: self.load.protected(),
            withdrawn: self.drain || self.disabled,
        }
    }

    /// As the dataplane sees it.
    pub(super) fn health(&self, takes_new: bool, now: Duration, policy: &Availability) -> BackendHealth {
        BackendHealth {
            takes_new,
            share: self.share(now, policy),
            weight: self.reported_weight(),
            state: self.state(),
        }
    }

    /// The weight that it reported; a 0 that the operator gave stays 0.
    fn reported_weight(&self) -> Option<u16> {
        self.load.weight().filter(|_| self.weight > 0)
    }

    /// What is to survive a restart.
    pub(super) fn keep(&self, now: Duration) -> Kept {
        Kept::new(
            self.key,
            self.machine.remember(now),
            self.load,
            self.probes.iter().map(|asked| asked.streak).collect(),
            self.reason.clone(),
        )
    }

    /// What users are told.
    pub(super) fn report(
        &self,
        health: BackendHealth,
        now: Duration,
        whole: bool,
        shared_by: impl Fn(ProbeId) -> usize,
    ) -> BackendReport {
        let ago = |at: Duration| now.saturating_sub(at).as_secs_f64();
        BackendReport {
            address: self.address(),
            state: self.state(),
            since_seconds: ago(self.shown_since),
            takes_new: health.takes_new,
            share_percent: health.share,
            reported_weight: health.weight,
            reason: self.explain(now),
            flaps: self.machine.flaps(),
            held_out_seconds: self.machine.held_for(now).map(|span| span.as_secs_f64()),
            probes: self
                .probes
                .iter()
                .filter(|_| whole)
                .map(|asked| probe_report(asked, shared_by(asked.id), &ago))
                .collect(),
            changes: self
                .changes
                .iter()
                .filter(|_| whole)
                .map(|change| ChangeReport {
                    seconds_ago: ago(change.at),
                    from: change.from,
                    to: change.to,
                    reason: change.reason.clone(),
                })
                .collect(),
        }
    }
}

fn probe_report(asked: &Asked, shared_by: usize, ago: &impl Fn(Duration) -> f64) -> ProbeReport {
    let history = &asked.history;
    ProbeReport {
        kind: asked.check.kind(),
        vip: asked.vip,
        shared_by,
        verdict: asked.streak.verdict(),
        total: history.total,
        failed: history.failed,
        unknown: history.unknown,
        p50_microseconds: history.percentile(50),
        p99_microseconds: history.percentile(99),
        note: asked.note.clone(),
        results: history
            .entries()
            .map(|entry| ResultReport {
                seconds_ago: ago(entry.at),
                outcome: entry.outcome.name().to_owned(),
                microseconds: entry.micros,
                reason: entry.reason.as_deref().map(str::to_owned),
            })
            .collect(),
    }
}
