//! A service: what clients connect to, and how its connections are spread over backends.

mod change;

use serde::{Deserialize, Serialize};

use super::{
    Availability, Backend, BackendAddress, Check, Forward, HashBy, Netmask, OnLoss, OnNone, Overload, Period, Protocol,
    Refusal, Scheduler, ServiceAddress, Timeouts, check,
    limits::{MAX_BACKENDS_PER_SERVICE, MAX_CHECKS},
    netmask,
    scheduler::{DEFAULT_MH_SLOTS, MH_SLOTS},
    timeouts::KEPT,
};

pub use self::change::ServiceChange;

/// A virtual service and its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Where clients reach it.
    pub address: ServiceAddress,
    /// How packets reach its backends, unless a backend says otherwise.
    #[serde(default)]
    pub forward: Forward,
    /// How new connections are spread.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Slots of its Maglev table: a prime in [`MH_SLOTS`].
    #[serde(default = "default_mh_slots", skip_serializing_if = "is_default_mh_slots")]
    pub mh_slots: u32,
    /// What of a client the hash is over, where that is not the scheduler's default: see [`Service::hash_by`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashBy>,
    /// For how long after the last packet of its connections a client is sent to the same backend; none chooses anew each
    /// time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Period>,
    /// Clients whose addresses agree in so many leading bits are one client to `persistence`; none means all bits.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "netmask::some_length"
    )]
    pub netmask: Option<u8>,
    /// Services with the same mark share their persistence: a client's connections to all of them meet one backend
    /// address. Not 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// UDP: every datagram is scheduled by itself. Under direct routing no flow is kept; under NAT one with each backend, for the
    /// answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_packet: bool,
    /// What becomes of the next packet of a flow whose backend was deleted or is down.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_loss: OnLoss,
    /// What becomes of a new connection when the backend that was chosen for it is at its upper threshold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overload: Overload,
    /// What becomes of a packet for which no backend is left.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_none: OnNone,
    /// How long its idle flows are kept, where that is not as the node says.
    #[serde(default, skip_serializing_if = "Timeouts::is_default")]
    pub timeouts: Timeouts,
    /// When it counts as available, and what is done when it is not.
    #[serde(default, skip_serializing_if = "Availability::is_default")]
    pub availability: Availability,
    /// The probes of its backends, unless a backend says otherwise; none takes every backend for healthy.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "check::one_or_many"
    )]
    pub health: Vec<Check>,
    /// Its backends, sorted by address and effective port, each there once.
    #[serde(rename = "backend", default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

impl Service {
    /// A service with everything at its default and no backends.
    pub fn new(address: ServiceAddress) -> Self {
        Self {
            address,
            forward: Forward::default(),
            scheduler: Scheduler::default(),
            mh_slots: DEFAULT_MH_SLOTS,
            hash: None,
            persistence: None,
            netmask: None,
            mark: None,
            one_packet: false,
            on_loss: OnLoss::default(),
            overload: Overload::default(),
            on_none: OnNone::default(),
            timeouts: Timeouts::default(),
            availability: Availability::default(),
            health: Vec::new(),
            backends: Vec::new(),
        }
    }

    /// The backend of that name, if it is there.
    pub fn backend(&self, name: BackendAddress) -> Option<&Backend> {
        self.position(name).ok().and_then(|at| self.backends.get(at))
    }

    /// What of a client the hash is over. Of meaning to `mh` and `sh` only.
    pub fn hash_by(&self) -> HashBy {
        self.hash.or(self.scheduler.default_hash()).unwrap_or_default()
    }

    /// How many leading bits of a client's address tell it from others to `persistence`.
    pub fn netmask(&self) -> Netmask {
        self.netmask.map_or(Netmask::full(self.address.family()), Netmask)
    }

    /// Where the backend of that name is, or where it would have to be inserted.
    pub(super) fn position(&self, name: BackendAddress) -> Result<usize, usize> {
        let wanted = (name.ip, name.effective_port(&self.address));
        self.backends
            .binary_search_by_key(&wanted, |backend| backend.identity(&self.address))
    }

    /// Brings the backends into the order and form that the rest of the program relies on.
    pub(super) fn normalise(&mut self) {
        for backend in &mut self.backends {
            backend.port = backend.port.filter(|port| *port != self.address.port);
        }
        self.netmask = self
            .netmask
            .filter(|length| Netmask(*length) != Netmask::full(self.address.family()));
        self.backends.sort_by_key(|backend| backend.identity(&self.address));
    }

    /// Checks everything that can be checked without looking at other services. Expects a normalised service.
    pub(super) fn validate(&self) -> Result<(), Refusal> {
        let service = self.address;
        if let Some(kind) = super::refusal::not_unicast(service.ip) {
            return Err(Refusal::ServiceNotUnicast { service, kind });
        }
        if service.port == 0 {
            return Err(Refusal::ServicePortZero { service });
        }
        if !MH_SLOTS.contains(&self.mh_slots) || !is_prime(self.mh_slots) {
            return Err(Refusal::MhSlots {
                service,
                slots: self.mh_slots,
            });
        }
        self.validate_connections()?;
        if self.backends.len() > MAX_BACKENDS_PER_SERVICE {
            return Err(Refusal::TooManyBackends { service });
        }
        if let Some(reason) = self.availability.fault() {
            return Err(Refusal::Availability { service, reason });
        }
        self.validate_checks(&self.health)?;
        for backend in &self.backends {
            self.validate_backend(backend)?;
        }
        for pair in self.backends.windows(2) {
            if let [first, second] = pair
                && first.identity(&service) == second.identity(&service)
            {
                return Err(Refusal::BackendTwice {
                    service,
                    backend: second.name(),
                });
            }
        }
        Ok(())
    }

    /// Checks what is kept of connections: hash, persistence, one-packet scheduling, timeouts.
    fn validate_connections(&self) -> Result<(), Refusal> {
        let service = self.address;
        if self.hash.is_some() && self.scheduler.default_hash().is_none() {
            let scheduler = self.scheduler;
            return Err(Refusal::HashWithoutHashing { service, scheduler });
        }
        match self.persistence {
            Some(period) if !KEPT.contains(&period) => return Err(Refusal::Persistence { service, period }),
            Some(_) if self.one_packet => return Err(Refusal::OnePacketPersistence { service }),
            None if self.netmask.is_some() => {
                let what = "netmask";
                return Err(Refusal::WithoutPersistence { service, what });
            }
            None if self.mark.is_some() => {
                let what = "mark";
                return Err(Refusal::WithoutPersistence { service, what });
            }
            _ => {}
        }
        let longest = Netmask::full(service.family());
        match self.netmask {
            Some(length) if length == 0 || Netmask(length) > longest => {
                return Err(Refusal::NetmaskLength {
                    service,
                    length,
                    longest,
                });
            }
            _ => {}
        }
        if self.mark == Some(0) {
            return Err(Refusal::MarkZero { service });
        }
        if self.one_packet && service.protocol != Protocol::Udp {
            return Err(Refusal::OnePacketProtocol { service });
        }
        match self.timeouts.fault() {
            Some((of, period)) => Err(Refusal::Timeout { service, of, period }),
            None => Ok(()),
        }
    }

    fn validate_checks(&self, checks: &[Check]) -> Result<(), Refusal> {
        let service = self.address;
        if checks.len() > MAX_CHECKS {
            return Err(Refusal::TooManyChecks { service });
        }
        let foreign = checks
            .iter()
            .filter_map(Check::source)
            .find(|source| super::Family::of(*source) != service.family());
        match foreign {
            Some(from) => Err(Refusal::CheckSource { service, from }),
            None => Ok(()),
        }
    }

    fn validate_backend(&self, backend: &Backend) -> Result<(), Refusal> {
        let (service, name) = (self.address, backend.name());
        if let Some(kind) = super::refusal::not_unicast(backend.address) {
            return Err(Refusal::BackendNotUnicast { backend: name, kind });
        }
        if super::Family::of(backend.address) != service.family() {
            return Err(Refusal::MixedFamilies { service, backend: name });
        }
        if backend.address == service.ip {
            return Err(Refusal::BackendIsVip { service, backend: name });
        }
        if backend.forward(self) == Forward::Dr && backend.port(self) != service.port {
            return Err(Refusal::PortMismatch { service, backend: name });
        }
        match (backend.upper, backend.lower) {
            (_, 0) => {}
            (0, lower) => return Err(Refusal::LowerWithoutUpper { backend: name, lower }),
            (upper, lower) if lower >= upper => {
                return Err(Refusal::Thresholds {
                    backend: name,
                    upper,
                    lower,
                });
            }
            _ => {}
        }
        self.validate_checks(backend.health.as_deref().unwrap_or_default())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_mh_slots() -> u32 {
    DEFAULT_MH_SLOTS
}

fn is_default_mh_slots(slots: &u32) -> bool {
    *slots == DEFAULT_MH_SLOTS
}

/// Trial division: at most 362 steps for the largest table.
fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_and_the_limits_of_mh_slots_are_primes() {
        assert!(
            [DEFAULT_MH_SLOTS, *MH_SLOTS.start(), *MH_SLOTS.end()]
                .into_iter()
                .all(is_prime)
        );
        assert!(![0, 1, 4, 65_536, 65_535].into_iter().any(is_prime));
    }
}
