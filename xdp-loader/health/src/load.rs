//! Weights that follow reported load: smoothed, bounded, and in steps that do not rebuild a table for every wobble.

use serde::{Deserialize, Serialize};

/// What a backend last reported, made into a share of its weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadShare {
    /// The share in percent, smoothed; none before the first report.
    smooth: Option<f64>,
    /// The share that is in use: moved only when the smooth one is a step away.
    used: Option<u32>,
    /// Whether the load is past the limit and has not recovered yet.
    protected: bool,
    /// A weight that takes the place of the configured one (as keepalived's MISC_CHECK has it).
    weight: Option<u16>,
    /// The same, smoothed.
    #[serde(default)]
    smooth_weight: Option<f64>,
}

/// How much of a new report goes into the smoothed share.
const NEW: f64 = 0.3;

/// The smallest change of the share in use, in percent of the configured weight.
const STEP: u32 = 5;

/// A load limit is recovered from only below this part of it.
const RECOVERED: f64 = 0.9;

impl LoadShare {
    /// Takes in a load, where 1 is full: the share is what is free, but not less than `floor` percent. From `limit`
    /// percent on the backend is protected from new connections until it falls to nine tenths of that.
    pub fn report_load(&mut self, load: f64, floor: u32, limit: Option<u32>) {
        let load = load.clamp(0.0, 10.0);
        self.follow((1.0 - load).mul_add(100.0, 0.0), floor);
        self.protected = limit.is_some_and(|limit| {
            let limit = f64::from(limit) / 100.0;
            load >= if self.protected { limit * RECOVERED } else { limit }
        });
    }

    /// Takes in a share, in percent, as HAProxy's agent reports it: a load of what is left to 100.
    pub fn report_share(&mut self, percent: f64, floor: u32, limit: Option<u32>) {
        self.report_load(1.0 - percent / 100.0, floor, limit);
    }

    /// Takes in a weight that replaces the configured one: the first at once, the others smoothly.
    pub fn report_weight(&mut self, weight: u16) {
        let target = f64::from(weight);
        let before = self.smooth_weight.unwrap_or(target);
        let smooth = before + NEW * (target - before);
        // So near that rounding would never get there.
        let smooth = if (smooth - target).abs() < 1.0 { target } else { smooth };
        self.smooth_weight = Some(smooth);
        let (next, used) = (smooth.round() as u16, self.weight.unwrap_or(0));
        let step = u32::from(used) * STEP / 100;
        if self.weight.is_none() || u32::from(next.abs_diff(used)) > step || smooth == target {
            self.weight = Some(next);
        }
    }

    /// The share of the weight to use, in percent.
    pub fn share(&self) -> u32 {
        self.used.unwrap_or(100)
    }

    /// The weight in the place of the configured one, if the backend reported one.
    pub fn weight(&self) -> Option<u16> {
        self.weight
    }

    /// Whether the backend is past its load limit.
    pub fn protected(&self) -> bool {
        self.protected
    }

    fn follow(&mut self, percent: f64, floor: u32) {
        let percent = percent.clamp(f64::from(floor), 100.0);
        let smooth = self.smooth.map_or(percent, |before| before + NEW * (percent - before));
        self.smooth = Some(smooth);
        let target = smooth.round() as u32;
        let used = self.share();
        if self.used.is_none() || target.abs_diff(used) >= STEP || (target != used && [floor, 100].contains(&target)) {
            self.used = Some(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_follows_the_load_smoothly_and_within_bounds() {
        let mut share = LoadShare::default();
        share.report_load(0.0, 10, None);
        assert_eq!(share.share(), 100);
        let mut last = 100;
        for _ in 0..40 {
            share.report_load(5.0, 10, None);
            assert!(last - share.share() <= 27, "{last} -> {}", share.share());
            last = share.share();
        }
        assert_eq!(last, 10);
    }

    #[test]
    fn a_wobble_changes_nothing() {
        let mut share = LoadShare::default();
        share.report_load(0.5, 10, None);
        for report in 0..100 {
            share.report_load(if report % 2 == 0 { 0.46 } else { 0.54 }, 10, None);
            assert_eq!(share.share(), 50);
        }
    }

    #[test]
    fn a_backend_past_its_limit_is_protected_until_it_recovers() {
        let mut share = LoadShare::default();
        let protected = [0.5, 0.8, 0.9, 0.85, 0.82, 0.80, 0.9].map(|load| {
            share.report_load(load, 10, Some(90));
            share.protected()
        });
        assert_eq!(protected, [false, false, true, true, true, false, true]);
    }

    #[test]
    fn a_report_of_nonsense_stays_within_bounds() {
        let mut share = LoadShare::default();
        for load in [-5.0, 1e300, f64::INFINITY] {
            share.report_load(load, 10, None);
            assert!((10..=100).contains(&share.share()));
        }
        share.report_share(1e9, 10, None);
        assert!((10..=100).contains(&share.share()));
    }

    #[test]
    fn an_agent_that_has_little_share_left_is_past_its_limit() {
        let mut share = LoadShare::default();
        let protected = [50.0, 20.0, 25.0, 30.0].map(|percent| {
            share.report_share(percent, 1, Some(80));
            share.protected()
        });
        assert_eq!(protected, [false, true, true, false]);
    }

    #[test]
    fn a_reported_weight_is_followed_smoothly_and_reached() {
        let mut share = LoadShare::default();
        share.report_weight(100);
        assert_eq!(share.weight(), Some(100));
        let mut last = 100;
        for _ in 0..20 {
            share.report_weight(10);
            let weight = share.weight().unwrap_or(0);
            assert!(weight <= last && last - weight <= 27, "{last} -> {weight}");
            last = weight;
        }
        assert_eq!(last, 10);
        for wobble in [10, 11, 9, 10] {
            share.report_weight(wobble);
        }
        assert_eq!(share.weight(), Some(10));
    }
}
