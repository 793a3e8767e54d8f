//! How a backend's health is asked for: one probe of a service or a backend, as it is written in documents.
//!
//! A [`Check`] keeps what was written, so that it is exported as it came; what was left out has its default in the
//! accessors. A check that exists is valid: texts are within bounds, patterns compile, every field belongs to its type.

mod availability;
mod change;
mod fault;
mod form;
mod pattern;
mod period;
mod statuses;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::{
    availability::{Availability, AvailabilityChange, Combine},
    change::HealthChange,
    form::{CheckChange, CheckError, CheckForm, CheckType, CloseBy, Positive, ProbeTo},
    pattern::{PATTERN_LIMIT, compile},
    period::{NoPeriod, Period},
    statuses::{NoStatuses, Statuses},
};
pub(super) use form::one_or_many;
pub use pattern::from_hex;

/// A probe as it was asked for, valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CheckForm", into = "CheckForm")]
pub struct Check(CheckForm);

impl TryFrom<CheckForm> for Check {
    type Error = CheckError;

    fn try_from(form: CheckForm) -> Result<Self, CheckError> {
        form.validate()?;
        Ok(Self(form))
    }
}

impl From<Check> for CheckForm {
    fn from(check: Check) -> Self {
        check.0
    }
}

impl Check {
    /// A probe of that type with everything at its default.
    ///
    /// # Errors
    /// When the type needs more, as `exec` needs a command.
    pub fn new(kind: CheckType) -> Result<Self, CheckError> {
        CheckForm::new(kind).try_into()
    }

    /// What was written.
    pub fn form(&self) -> &CheckForm {
        &self.0
    }

    /// What is asked.
    pub fn kind(&self) -> CheckType {
        self.0.kind
    }

    /// Time from the start of one probe to the start of the next; 2 s by default.
    pub fn interval(&self) -> Period {
        self.0.interval.unwrap_or(Period::from_millis(2_000))
    }

    /// How long one probe may take: 1 s, or the interval if that is shorter.
    pub fn timeout(&self) -> Period {
        let default = Period::from_millis(1_000).min(self.interval());
        self.0.timeout.unwrap_or(default)
    }

    /// Successes in a row after which a backend that was down is up; 2 by default.
    pub fn rise(&self) -> u32 {
        self.0.rise.unwrap_or(2)
    }

    /// Failures in a row after which a backend that was up is down; 3 by default.
    pub fn fall(&self) -> u32 {
        self.0.fall.unwrap_or(3)
    }

    /// By how many percent an interval may be shortened at random; 10 by default.
    pub fn jitter(&self) -> u32 {
        self.0.jitter.unwrap_or(10)
    }

    /// Time from the start of a probe that failed to the start of the next; the interval by default.
    pub fn retry(&self) -> Period {
        self.0.delay_before_retry.unwrap_or(self.interval())
    }

    /// The port to ask at, where it is not the backend's.
    pub fn port(&self) -> Option<u16> {
        self.0.port
    }

    /// Whether one probe is asked for all that have the same check of the same address; by default not for `exec`, whose program is
    /// told the service.
    pub fn shares(&self) -> bool {
        self.0.share.unwrap_or(self.0.kind != CheckType::Exec)
    }

    /// The address to ask from.
    pub fn source(&self) -> Option<IpAddr> {
        self.0.source
    }
}

/// The DNS response code of that name (RFC 1035, section 4.1.1), in lower or upper case.
pub fn rcode(name: &str) -> Option<hickory_proto::op::ResponseCode> {
    use hickory_proto::op::ResponseCode;
    Some(match name.to_ascii_lowercase().as_str() {
        "noerror" => ResponseCode::NoError,
        "nxdomain" => ResponseCode::NXDomain,
        "servfail" => ResponseCode::ServFail,
        "refused" => ResponseCode::Refused,
        "notimp" => ResponseCode::NotImp,
        "formerr" => ResponseCode::FormErr,
        _ => return None,
    })
}
