//! Several probes of one backend make one verdict.

use lvx_model::{Combine, health::Verdict};

/// What the probes say together; none says up.
pub fn combine(how: Combine, verdicts: impl Iterator<Item = Verdict> + Clone) -> Verdict {
    let has = |wanted: Verdict| verdicts.clone().any(|verdict| verdict == wanted);
    match how {
        Combine::All if has(Verdict::Down) => Verdict::Down,
        Combine::All if has(Verdict::Drain) => Verdict::Drain,
        Combine::All if has(Verdict::Unknown) => Verdict::Unknown,
        Combine::All if has(Verdict::Degraded) => Verdict::Degraded,
        Combine::All => Verdict::Up,
        // A backend that asks to be drained is believed, whatever its other probes say.
        Combine::Any if has(Verdict::Drain) => Verdict::Drain,
        Combine::Any if has(Verdict::Up) => {
            let all = verdicts.clone().all(|verdict| verdict == Verdict::Up);
            if all { Verdict::Up } else { Verdict::Degraded }
        }
        Combine::Any if has(Verdict::Degraded) => Verdict::Degraded,
        Combine::Any if has(Verdict::Unknown) => Verdict::Unknown,
        Combine::Any if verdicts.clone().next().is_none() => Verdict::Up,
        Combine::Any => Verdict::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Degraded, Down, Drain, Unknown, Up};

    #[test]
    fn all_is_as_good_as_the_worst() {
        let all = |verdicts: &[Verdict]| combine(Combine::All, verdicts.iter().copied());
        assert_eq!(all(&[]), Up);
        assert_eq!(all(&[Up, Up]), Up);
        assert_eq!(all(&[Up, Degraded]), Degraded);
        assert_eq!(all(&[Up, Unknown]), Unknown);
        assert_eq!(all(&[Drain, Unknown, Up]), Drain);
        assert_eq!(all(&[Drain, Down]), Down);
    }

    #[test]
    fn any_is_degraded_when_one_fails_and_down_when_all_do() {
        let any = |verdicts: &[Verdict]| combine(Combine::Any, verdicts.iter().copied());
        assert_eq!(any(&[]), Up);
        assert_eq!(any(&[Up, Up]), Up);
        assert_eq!(any(&[Up, Down]), Degraded);
        assert_eq!(any(&[Unknown, Down]), Unknown);
        assert_eq!(any(&[Down, Down]), Down);
        assert_eq!(any(&[Up, Drain]), Drain);
    }
}
