//! Which probes ask the same question, so that one of them asks for all: the first that came.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::schedule::ProbeId;

/// What is asked: by the same check, of the same address and port, in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// The check as it is written.
    pub(super) check: String,
    pub(super) backend: IpAddr,
    pub(super) port: u16,
    /// The VIP that is asked at the backend, where that is.
    pub(super) vip: Option<IpAddr>,
}

/// Probes that share their questions; the others are not here. No question is here without a probe.
#[derive(Debug, Default)]
pub(super) struct Shares {
    probes: HashMap<Arc<Question>, Vec<ProbeId>>,
    questions: HashMap<ProbeId, Arc<Question>>,
}

impl Shares {
    /// What a probe shares.
    pub(super) fn question(&self, probe: ProbeId) -> Option<&Question> {
        self.questions.get(&probe).map(Arc::as_ref)
    }

    /// Has a probe share a question; returns the one that asks it, which may be this one.
    pub(super) fn join(&mut self, probe: ProbeId, question: Question) -> ProbeId {
        let question = Arc::new(question);
        let probes = self.probes.entry(Arc::clone(&question)).or_default();
        probes.push(probe);
        self.questions.insert(probe, question);
        probes[0]
    }

    /// Has a probe share nothing any more; returns the one that is to ask in its place, if it asked.
    pub(super) fn leave(&mut self, probe: ProbeId) -> Option<ProbeId> {
        let question = self.questions.remove(&probe)?;
        let probes = self.probes.get_mut(&question)?;
        let asked = probes.first() == Some(&probe);
        probes.retain(|other| *other != probe);
        let next = probes.first().copied();
        if next.is_none() {
            self.probes.remove(&question);
        }
        next.filter(|_| asked)
    }

    /// The probes that an answer to this one is for; none, if another asks in its place.
    pub(super) fn answered_by(&self, probe: ProbeId) -> Vec<ProbeId> {
        match self.sharing(probe) {
            Some(probes) if probes.first() == Some(&probe) => probes.to_vec(),
            Some(_) => Vec::new(),
            None => vec![probe],
        }
    }

    /// How many probes have one question, this one among them.
    pub(super) fn count(&self, probe: ProbeId) -> usize {
        self.sharing(probe).map_or(1, <[_]>::len)
    }

    fn sharing(&self, probe: ProbeId) -> Option<&[ProbeId]> {
        self.probes.get(self.questions.get(&probe)?).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(port: u16) -> Question {
        Question {
            check: "tcp".into(),
            backend: [10, 0, 0, 11].into(),
            port,
            vip: None,
        }
    }

    #[test]
    fn the_first_asks_for_all_and_the_next_when_it_goes() {
        let mut shares = Shares::default();
        assert_eq!([1, 2, 3].map(|probe| shares.join(probe, question(80))), [1, 1, 1]);
        assert_eq!(shares.join(4, question(81)), 4);
        assert_eq!((shares.count(2), shares.count(4), shares.count(9)), (3, 1, 1));
        assert_eq!(shares.answered_by(1), [1, 2, 3]);
        assert_eq!((shares.answered_by(2), shares.answered_by(9)), (vec![], vec![9]));
        assert_eq!(
            (shares.leave(2), shares.leave(1), shares.leave(9)),
            (None, Some(3), None)
        );
        assert_eq!(shares.answered_by(3), [3]);
        assert_eq!((shares.leave(3), shares.leave(4)), (None, None));
        assert!(shares.probes.is_empty() && shares.questions.is_empty());
    }
}
