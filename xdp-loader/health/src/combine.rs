//! Several probes of one backend make one verdict.

use lvx_model::{Combine, health::ProbeVerdict};

/// What the probes say together; none says up.
pub fn combine(how: Combine, verdicts: impl Iterator<Item = ProbeVerdict> + Clone) -> ProbeVerdict {
    let has = |wanted: ProbeVerdict| verdicts.clone().any(|verdict| verdict == wanted);
    match how {
        Combine::All if has(ProbeVerdict::Down) => ProbeVerdict::Down,
        Combine::All if has(ProbeVerdict::Drain) => ProbeVerdict::Drain,
        Combine::All if has(ProbeVerdict::Unknown) => ProbeVerdict::Unknown,
        Combine::All if has(ProbeVerdict::Degraded) => ProbeVerdict::Degraded,
        Combine::All => ProbeVerdict::Up,
        // A backend that asks to be drained is believed, whatever its other probes say.
        Combine::Any if has(ProbeVerdict::Drain) => ProbeVerdict::Drain,
        Combine::Any if has(ProbeVerdict::Up) => {
            let all = verdicts.clone().all(|verdict| verdict == ProbeVerdict::Up);
            if all { ProbeVerdict::Up } else { ProbeVerdict::Degraded }
        }
        Combine::Any if has(ProbeVerdict::Degraded) => ProbeVerdict::Degraded,
        Combine::Any if has(ProbeVerdict::Unknown) => ProbeVerdict::Unknown,
        Combine::Any if verdicts.clone().next().is_none() => ProbeVerdict::Up,
        Combine::Any => ProbeVerdict::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProbeVerdict::{Degraded, Down, Drain, Unknown, Up};

    #[test]
    fn all_is_as_good_as_the_worst() {
        let all = |verdicts: &[ProbeVerdict]| combine(Combine::All, verdicts.iter().copied());
        assert_eq!(all(&[]), Up);
        assert_eq!(all(&[Up, Up]), Up);
        assert_eq!(all(&[Up, Degraded]), Degraded);
        assert_eq!(all(&[Up, Unknown]), Unknown);
        assert_eq!(all(&[Drain, Unknown, Up]), Drain);
        assert_eq!(all(&[Drain, Down]), Down);
    }

    #[test]
    fn any_is_degraded_when_one_fails_and_down_when_all_do() {
        let any = |verdicts: &[ProbeVerdict]| combine(Combine::Any, verdicts.iter().copied());
        assert_eq!(any(&[]), Up);
        assert_eq!(any(&[Up, Up]), Up);
        assert_eq!(any(&[Up, Down]), Degraded);
        assert_eq!(any(&[Unknown, Down]), Unknown);
        assert_eq!(any(&[Down, Down]), Down);
        assert_eq!(any(&[Up, Drain]), Drain);
    }
}
