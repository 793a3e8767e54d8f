//! What stands for several runs.

/// The median of `values`; the mean of the middle two where their number is even; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The least and the greatest of `values`; 0 of none, as JSON has no infinity.
pub fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min);
    let greatest = values.iter().copied().reduce(f64::max);
    (least.unwrap_or_default(), greatest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_range_may_be_negative_or_of_nothing() {
        assert_eq!(range(&[-3.0, -1.0, -2.0]), (-3.0, -1.0));
        assert_eq!(range(&[]), (0.0, 0.0));
    }
}
