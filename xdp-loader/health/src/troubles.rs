//! Which troubles of this node keep probes from being asked: each is told to the log once, however many probes meet it. Pure.

use std::{collections::HashMap, time::Duration};

/// A trouble that was not met for so long is over, and is told again when it comes back.
const OVER: Duration = Duration::from_secs(300);

/// Reasons that are known at once at most: a program may have a hand in one. More are not told.
const KNOWN: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Troubles(HashMap<Box<str>, Duration>);

impl Troubles {
    /// Takes in that a probe met a trouble; returns whether that is news.
    pub(super) fn meet(&mut self, reason: &str, now: Duration) -> bool {
        if let Some(met) = self.0.get_mut(reason) {
            *met = now;
            return false;
        }
        let room = self.0.len() < KNOWN;
        if room {
            self.0.insert(reason.into(), now);
        }
        room
    }

    /// Forgets the troubles that are over and returns them.
    pub(super) fn over(&mut self, now: Duration) -> Vec<Box<str>> {
        let over = self.0.extract_if(|_, met| now >= *met + OVER);
        over.map(|(reason, _)| reason).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_news_once_until_it_is_over() {
        let mut troubles = Troubles::default();
        let met = [0, 1, 299, 598].map(|second| {
            let now = Duration::from_secs(second);
            (troubles.meet("too many open files", now), troubles.over(now).len())
        });
        assert_eq!(met, [(true, 0), (false, 0), (false, 0), (false, 0)]);
        assert_eq!(troubles.over(Duration::from_secs(898)), ["too many open files".into()]);
        assert!(troubles.meet("too many open files", Duration::from_secs(899)));
    }

    #[test]
    fn reasons_that_never_repeat_do_not_fill_log_or_memory() {
        let mut troubles = Troubles::default();
        let told = (0..1_000)
            .filter(|number| troubles.meet(&format!("{number}"), Duration::ZERO))
            .count();
        assert_eq!((told, troubles.0.len()), (KNOWN, KNOWN));
    }
}
