//! A bound, and whether the measurements keep it.

use serde::{Deserialize, Serialize};

/// Something that the measurements are to show.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What is bounded, with its unit.
    pub what: String,
    /// What was measured.
    pub measured: f64,
    /// What it is to be, at most or at least.
    pub bound: f64,
    /// Whether the bound is an upper one.
    pub at_most: bool,
    /// Whether it is kept.
    pub met: bool,
}

impl Check {
    /// `measured` is to be at most `bound`.
    pub fn at_most(what: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self {
            what: what.into(),
            measured,
            bound,
            at_most: true,
            met: measured <= bound,
        }
    }

    /// `measured` is to be at least `bound`.
    pub fn at_least(what: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self {
            at_most: false,
            met: measured >= bound,
            ..Self::at_most(what, measured, bound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_itself_is_within_it() {
        assert!(Check::at_most("", 2.0, 2.0).met && Check::at_least("", 2.0, 2.0).met);
        assert!(!Check::at_most("", 2.1, 2.0).met && !Check::at_least("", 1.9, 2.0).met);
    }
}
