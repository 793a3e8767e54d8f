//! The difference between two desired states, for people and for programs.

use std::{fmt, ptr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Backend, BackendAddress, Check, CheckType, Desired, Forward, HashBy, Scheduler, Service, ServiceAddress};

/// One step from an old desired state to a new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A service is new; its backends follow as changes of their own.
    AddService {
        /// Where clients will reach it.
        service: ServiceAddress,
        /// How its packets will be forwarded.
        forward: Forward,
        /// How its connections will be spread.
        scheduler: Scheduler,
        /// How its backends will be probed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        health: Vec<CheckType>,
        /// What is kept of its connections, by the names of documents, where that is not as usual.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        options: Map<String, Value>,
    },
    /// A service is gone, its backends with it.
    RemoveService {
        /// Where clients reached it.
        service: ServiceAddress,
        /// How many backends it had.
        backends: usize,
    },
    /// A service's own fields change.
    ChangeService {
        /// Where clients reach it.
        service: ServiceAddress,
        /// What changes.
        fields: Vec<FieldChange>,
    },
    /// A backend is new.
    AddBackend {
        /// Its service.
        service: ServiceAddress,
        /// Its address.
        backend: BackendAddress,
        /// Its weight.
        weight: u16,
        /// How its packets will be forwarded, where that differs from the service's way.
        forward: Option<Forward>,
        /// Whether it gets no new connections.
        drain: bool,
        /// Thresholds and other fields, by the names of documents, where they are not as usual.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        options: Map<String, Value>,
    },
    /// A backend is gone.
    RemoveBackend {
        /// Its service.
        service: ServiceAddress,
        /// Its address.
        backend: BackendAddress,
    },
    /// A backend's fields change.
    ChangeBackend {
        /// Its service.
        service: ServiceAddress,
        /// Its address.
        backend: BackendAddress,
        /// What changes.
        fields: Vec<FieldChange>,
    },
}

/// A field that has another value than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field's name in documents.
    pub field: String,
    /// Its value before; null when it had none of its own.
    pub old: Value,
    /// Its value after; null when it has none of its own.
    pub new: Value,
}

/// The steps from `old` to `new`, in the order of the services' addresses; none when they are equal.
pub fn diff(old: &Desired, new: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    for pair in merge(services(old), services(new), |service| service.address) {
        match pair {
            // What is not changed is the same in memory too.
            Pair::Both(old, new) if ptr::eq(old, new) => {}
            Pair::Old(service) => {
                changes.push(Change::RemoveService {
                    service: service.address,
                    backends: service.backends.len(),
                });
            }
            Pair::New(service) => {
                changes.push(Change::AddService {
                    service: service.address,
                    forward: service.forward,
                    scheduler: service.scheduler,
                    health: service.health.iter().map(Check::kind).collect(),
                    options: options(service, &SERVICE_OPTIONS),
                });
                changes.extend(service.backends.iter().map(|backend| added(service, backend)));
            }
            Pair::Both(old, new) => service_diff(old, new, &mut changes),
        }
    }
    changes
}

fn services(of: &Desired) -> impl Iterator<Item = &Service> {
    of.services().values().map(Arc::as_ref)
}

fn service_diff(old: &Service, new: &Service, changes: &mut Vec<Change>) {
    let service = new.address;
    let mut fields = Vec::new();
    field(&mut fields, "forward", old.forward.name(), new.forward.name());
    field(&mut fields, "scheduler", old.scheduler.name(), new.scheduler.name());
    field(&mut fields, "mh_slots", old.mh_slots, new.mh_slots);
    field(
        &mut fields,
        "hash",
        old.hash.map(HashBy::name),
        new.hash.map(HashBy::name),
    );
    field(
        &mut fields,
        "persistence",
        json(&old.persistence),
        json(&new.persistence),
    );
    field(&mut fields, "netmask", old.netmask().0, new.netmask().0);
    field(&mut fields, "mark", old.mark, new.mark);
    field(&mut fields, "one_packet", old.one_packet, new.one_packet);
    field(&mut fields, "on_loss", old.on_loss.name(), new.on_loss.name());
    field(&mut fields, "overload", old.overload.name(), new.overload.name());
    field(&mut fields, "on_none", old.on_none.name(), new.on_none.name());
    field(&mut fields, "timeouts", json(&old.timeouts), json(&new.timeouts));
    field(&mut fields, "health", json(&old.health), json(&new.health));
    field(
        &mut fields,
        "availability",
        json(&old.availability),
        json(&new.availability),
    );
    if !fields.is_empty() {
        changes.push(Change::ChangeService { service, fields });
    }
    for pair in merge(&old.backends, &new.backends, |backend| {
        (backend.address, backend.port(new))
    }) {
        match pair {
            Pair::Old(backend) => changes.push(Change::RemoveBackend {
                service,
                backend: backend.name(),
            }),
            Pair::New(backend) => changes.push(added(new, backend)),
            Pair::Both(old, new) => {
                let mut fields = Vec::new();
                field(&mut fields, "weight", old.weight, new.weight);
                field(
                    &mut fields,
                    "forward",
                    old.forward.map(Forward::name),
                    new.forward.map(Forward::name),
                );
                field(&mut fields, "drain", old.drain, new.drain);
                field(&mut fields, "disabled", old.disabled, new.disabled);
                field(&mut fields, "sorry", old.sorry, new.sorry);
                field(&mut fields, "upper", old.upper, new.upper);
                field(&mut fields, "lower", old.lower, new.lower);
                field(&mut fields, "health", json(&old.health), json(&new.health));
                if !fields.is_empty() {
                    changes.push(Change::ChangeBackend {
                        service,
                        backend: new.name(),
                        fields,
                    });
                }
            }
        }
    }
}

fn added(service: &Service, backend: &Backend) -> Change {
    Change::AddBackend {
        service: service.address,
        backend: backend.name(),
        weight: backend.weight,
        forward: backend.forward,
        drain: backend.drain,
        options: options(backend, &["upper", "lower", "disabled", "sorry"]),
    }
}

/// What is told of a new service as documents tell it.
const SERVICE_OPTIONS: [&str; 10] = [
    "mh_slots",
    "hash",
    "persistence",
    "netmask",
    "mark",
    "one_packet",
    "on_loss",
    "overload",
    "on_none",
    "timeouts",
];

/// The fields of these names; documents leave out what is as usual.
fn options(of: &impl Serialize, names: &[&str]) -> Map<String, Value> {
    let Value::Object(mut fields) = json(of) else {
        return Map::new();
    };
    fields.retain(|name, _| names.contains(&name.as_str()));
    // One that was emptied keeps half a KiB, and most are.
    if fields.is_empty() { Map::new() } else { fields }
}

/// As it stands in a document. Made of texts, numbers and booleans, it has a form in JSON.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn field(fields: &mut Vec<FieldChange>, name: &str, old: impl Into<Value>, new: impl Into<Value>) {
    let (old, new) = (old.into(), new.into());
    if old != new {
        fields.push(FieldChange {
            field: name.to_owned(),
            old,
            new,
        });
    }
}

/// What two sorted sequences have in common and what only one of them has.
enum Pair<'a, T> {
    Old(&'a T),
    New(&'a T),
    Both(&'a T, &'a T),
}

fn merge<'a, T, K: Ord>(
    old: impl IntoIterator<Item = &'a T>,
    new: impl IntoIterator<Item = &'a T>,
    key: impl Fn(&T) -> K,
) -> Vec<Pair<'a, T>> {
    let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let (takes_old, takes_new) = match (old.peek(), new.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some(first), Some(second)) => {
                let (first, second) = (key(first), key(second));
                (first <= second, second <= first)
            }
        };
        let old = if takes_old { old.next() } else { None };
        let new = if takes_new { new.next() } else { None };
        pairs.extend(match (old, new) {
            (Some(old), Some(new)) => Some(Pair::Both(old, new)),
            (Some(old), None) => Some(Pair::Old(old)),
            (None, Some(new)) => Some(Pair::New(new)),
            (None, None) => None,
        });
    }
}

/// One line: `+` is added, `-` removed, `~` changed.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddService {
                service,
                forward,
                scheduler,
                health,
                options,
            } => {
                write!(f, "+ service {service} forward={forward} scheduler={scheduler}")?;
                for (at, kind) in health.iter().enumerate() {
                    write!(f, "{}{kind}", if at == 0 { " health=" } else { "," })?;
                }
                write_options(f, options)
            }
            Self::RemoveService { service, backends: 0 } => write!(f, "- service {service}"),
            Self::RemoveService { service, backends: 1 } => write!(f, "- service {service} and its backend"),
            Self::RemoveService { service, backends } => {
                write!(f, "- service {service} and its {backends} backends")
            }
            Self::ChangeService { service, fields } => {
                write!(f, "~ service {service}")?;
                fields.iter().try_for_each(|field| write!(f, " {field}"))
            }
            Self::AddBackend {
                service,
                backend,
                weight,
                forward,
                drain,
                options,
            } => {
                write!(f, "+ backend {backend} of {service} weight={weight}")?;
                if let Some(forward) = forward {
                    write!(f, " forward={forward}")?;
                }
                if *drain {
                    write!(f, " drain=true")?;
                }
                write_options(f, options)
            }
            Self::RemoveBackend { service, backend } => {
                write!(f, "- backend {backend} of {service}")
            }
            Self::ChangeBackend {
                service,
                backend,
                fields,
            } => {
                write!(f, "~ backend {backend} of {service}")?;
                fields.iter().try_for_each(|field| write!(f, " {field}"))
            }
        }
    }
}

fn write_options(f: &mut fmt::Formatter<'_>, options: &Map<String, Value>) -> fmt::Result {
    options
        .iter()
        .try_for_each(|(name, value)| write!(f, " {name}={}", plain(value)))
}

/// A text without its quotes, and all else as in JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `weight: 1 -> 2`.
impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Value| match value {
            Value::Null if ["forward", "health"].contains(&self.field.as_str()) => "(the service's)".to_owned(),
            Value::Null => "(none)".to_owned(),
            other => plain(other),
        };
        write!(f, "{}: {} -> {}", self.field, text(&self.old), text(&self.new))
    }
}

#[cfg(test)]
mod tests;
