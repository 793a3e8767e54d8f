//! A change of a service's own fields.

use serde::{Deserialize, Deserializer, Serialize};

use super::{DEFAULT_MH_SLOTS, Forward, Service};
use crate::{
    Availability, AvailabilityChange, HashBy, HealthChange, Netmask, OnLoss, OnNone, Overload, Period, Refusal,
    Scheduler, TimeoutOf, TimeoutsChange,
    change::{or, or_default, or_none},
};

/// What to change in a service; what is absent stays, null in JSON puts a field back to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceChange {
    /// The new forwarding method.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub forward: Option<Forward>,
    /// The new scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub scheduler: Option<Scheduler>,
    /// The new number of Maglev slots.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "or_default_mh_slots"
    )]
    pub mh_slots: Option<u32>,
    /// What of a client the hash is to be over; none leaves it to the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_none")]
    pub hash: Option<Option<HashBy>>,
    /// The new persistence; a period of 0 takes it off, and netmask and mark with it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub persistence: Option<Period>,
    /// The new netmask of persistence; none means all bits.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "length_or_none"
    )]
    pub netmask: Option<Option<u8>>,
    /// The new mark; 0 takes it off.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub mark: Option<u32>,
    /// Whether every datagram is scheduled by itself.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub one_packet: Option<bool>,
    /// The new answer to a lost backend.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub on_loss: Option<OnLoss>,
    /// The new answer to overload.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub overload: Option<Overload>,
    /// The new answer where no backend is left.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub on_none: Option<OnNone>,
    /// New timeouts; those that are not named stay, null leaves one to the node.
    #[serde(
        default,
        skip_serializing_if = "TimeoutsChange::is_empty",
        deserialize_with = "or_default_timeouts"
    )]
    pub timeouts: TimeoutsChange,
    /// New probes in place of all that there were, or new fields of the one that there is.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "or_default")]
    pub health: Option<HealthChange>,
    /// New fields of the health policy; those that are not named stay.
    #[serde(
        default,
        skip_serializing_if = "AvailabilityChange::is_empty",
        deserialize_with = "or_default_availability"
    )]
    pub availability: AvailabilityChange,
}

impl Service {
    /// Changes what `change` names and keeps the rest. Does not validate the service as a whole.
    ///
    /// # Errors
    /// When fields of a probe are named and there is not exactly one, or it cannot have them; the service is then
    /// unchanged.
    pub fn change(&mut self, change: &ServiceChange) -> Result<(), Refusal> {
        let health = match &change.health {
            Some(health) => health.made_of(&self.health, || format!("service {}", self.address))?,
            None => self.health.clone(),
        };
        self.health = health;
        self.forward = change.forward.unwrap_or(self.forward);
        if let Some(scheduler) = change.scheduler {
            // What it hashed by means nothing to a scheduler that does not hash.
            self.hash = self.hash.filter(|_| scheduler.default_hash().is_some());
            self.scheduler = scheduler;
        }
        self.mh_slots = change.mh_slots.unwrap_or(self.mh_slots);
        self.hash = change.hash.unwrap_or(self.hash);
        if let Some(persistence) = change.persistence {
            self.persistence = Some(persistence).filter(|period| !period.is_zero());
            if self.persistence.is_none() {
                (self.netmask, self.mark) = (None, None);
            }
        }
        self.netmask = change.netmask.unwrap_or(self.netmask);
        if let Some(mark) = change.mark {
            self.mark = Some(mark).filter(|mark| *mark != 0);
        }
        self.one_packet = change.one_packet.unwrap_or(self.one_packet);
        self.on_loss = change.on_loss.unwrap_or(self.on_loss);
        self.overload = change.overload.unwrap_or(self.overload);
        self.on_none = change.on_none.unwrap_or(self.on_none);
        self.timeouts.change(&change.timeouts);
        self.availability.change(&change.availability);
        Ok(())
    }
}

fn or_default_mh_slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    or(deserializer, DEFAULT_MH_SLOTS)
}

fn or_default_timeouts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TimeoutsChange, D::Error> {
    let all_default = || TimeoutOf::ALL.iter().map(|of| (*of, None)).collect();
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(all_default))
}

fn or_default_availability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AvailabilityChange, D::Error> {
    let all_default = || AvailabilityChange::to(&Availability::default());
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(all_default))
}

fn length_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u8>>, D::Error> {
    let netmask: Option<Netmask> = Option::deserialize(deserializer)?;
    Ok(Some(netmask.map(|Netmask(length)| length)))
}
