//! A change of the probes of a service or a backend.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::{Check, CheckChange};
use crate::Refusal;

/// New probes, or new fields of the one that there is: in JSON, a probe with a type or a list of probes stands for the
/// former, a probe without a type for the latter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum HealthChange {
    /// These, in place of all that there were.
    Probes(Vec<Check>),
    /// The one that there is, with other fields.
    Probe(Box<CheckChange>),
}

impl Default for HealthChange {
    fn default() -> Self {
        Self::Probes(Vec::new())
    }
}

impl HealthChange {
    /// What it makes of these probes; `whose` is told when they cannot be changed.
    pub(crate) fn made_of(&self, checks: &[Check], whose: impl FnOnce() -> String) -> Result<Vec<Check>, Refusal> {
        let change = match self {
            Self::Probes(checks) => return Ok(checks.clone()),
            Self::Probe(change) => change,
        };
        match checks {
            [check] => {
                let mut form = check.form().clone();
                change.apply_to(&mut form);
                Check::try_from(form)
                    .map(|check| vec![check])
                    .map_err(|error| Refusal::Check { whose: whose(), error })
            }
            [] => Err(Refusal::NoCheck { whose: whose() }),
            checks => Err(Refusal::ManyChecks {
                whose: whose(),
                count: checks.len(),
            }),
        }
    }
}

impl<'de> Deserialize<'de> for HealthChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = HealthChange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a health check, a list of them, or the fields of one that change")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, sequence: A) -> Result<HealthChange, A::Error> {
                let checks = Vec::deserialize(de::value::SeqAccessDeserializer::new(sequence))?;
                Ok(HealthChange::Probes(checks))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<HealthChange, A::Error> {
                let fields: Map<String, Value> = Map::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let has_type = fields.contains_key("type");
                let fields = Value::Object(fields);
                if has_type {
                    Check::deserialize(fields).map(|check| HealthChange::Probes(vec![check]))
                } else {
                    CheckChange::deserialize(fields).map(|change| HealthChange::Probe(Box::new(change)))
                }
                .map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
