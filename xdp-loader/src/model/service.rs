//! A service: what clients connect to, and how its connections are spread over backends.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Backend, BackendAddress, Refusal, ServiceAddress};

/// Slots of a Maglev table for which no number is given.
pub const DEFAULT_MH_SLOTS: u32 = 65_537;

/// How many slots a Maglev table may have; the number must also be a prime.
pub const MH_SLOTS: RangeInclusive<u32> = 251..=131_071;

/// A name that is none of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no {what}: there are {known}")]
pub struct UnknownName {
    name: String,
    what: &'static str,
    known: String,
}

/// An enum whose members are known to users by name.
macro_rules! named {
    (
        $(#[$meta:meta])* $type:ident, $what:literal {
            $($(#[$doc:meta])* $variant:ident = $name:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl $type {
            /// Every one there is, in the order in which they are shown to users.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name that users write.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|known| known.name() == text).ok_or_else(|| UnknownName {
                    name: text.to_owned(),
                    what: $what,
                    known: Self::ALL.iter().map(|known| known.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

named! {
    // `fullnat` and `tunnel` come later; each is one more line here and an arm where the compiler asks for it.
    /// How packets are brought to a backend.
    Forward, "forwarding method" {
        /// Direct routing: only the MAC addresses change, the backend answers the client itself.
        #[default]
        Dr = "dr",
        /// Address and port are rewritten both ways; the backend's answers come back through the balancer.
        Nat = "nat",
    }
}

named! {
    /// How a backend is chosen for a new connection.
    Scheduler, "scheduler" {
        /// Maglev hashing: the same client always meets the same backend, on every node.
        #[default]
        Mh = "mh",
        /// Round robin, weights ignored (a weight of 0 still excludes).
        Rr = "rr",
        /// Weighted round robin.
        Wrr = "wrr",
    }
}

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
    #[serde(
        default = "default_mh_slots",
        skip_serializing_if = "is_default_mh_slots"
    )]
    pub mh_slots: u32,
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
            backends: Vec::new(),
        }
    }

    /// The backend of that name, if it is there.
    pub fn backend(&self, name: BackendAddress) -> Option<&Backend> {
        self.position(name)
            .ok()
            .and_then(|at| self.backends.get(at))
    }

    /// Changes what `change` names and keeps the rest. Does not validate: see [`Service::validate`].
    pub(super) fn change(&mut self, change: &ServiceChange) {
        self.forward = change.forward.unwrap_or(self.forward);
        self.scheduler = change.scheduler.unwrap_or(self.scheduler);
        self.mh_slots = change.mh_slots.unwrap_or(self.mh_slots);
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
        self.backends
            .sort_by_key(|backend| backend.identity(&self.address));
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
        if self.backends.len() > super::MAX_BACKENDS_PER_SERVICE {
            return Err(Refusal::TooManyBackends { service });
        }
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

    fn validate_backend(&self, backend: &Backend) -> Result<(), Refusal> {
        let (service, name) = (self.address, backend.name());
        if let Some(kind) = super::refusal::not_unicast(backend.address) {
            return Err(Refusal::BackendNotUnicast {
                backend: name,
                kind,
            });
        }
        if super::Family::of(backend.address) != service.family() {
            return Err(Refusal::MixedFamilies {
                service,
                backend: name,
            });
        }
        if backend.address == service.ip {
            return Err(Refusal::BackendIsVip {
                service,
                backend: name,
            });
        }
        if backend.forward(self) == Forward::Dr && backend.port(self) != service.port {
            return Err(Refusal::PortMismatch {
                service,
                backend: name,
            });
        }
        Ok(())
    }
}

/// What to change in a service; what is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceChange {
    /// The new way of forwarding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
    /// The new scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    /// The new number of Maglev slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mh_slots: Option<u32>,
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
    fn an_unknown_scheduler_is_answered_with_those_that_exist() {
        let message = "lc".parse::<Scheduler>().map_err(|error| error.to_string());
        assert_eq!(
            message,
            Err("`lc` is no scheduler: there are mh, rr, wrr".to_owned())
        );
    }

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
