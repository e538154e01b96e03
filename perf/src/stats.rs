//! What a handful of repeats says: median and spread.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

/// From this many samples on the quartiles are the spread; below, the quartiles of so few would be made up, and the
/// whole range is.
const QUARTILES_FROM: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub count: usize,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub quartile_low: f64,
    pub quartile_high: f64,
}

impl Summary {
    /// `None` without samples. Samples are finite.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            count: sorted.len(),
            median: quantile(&sorted, 0.5)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            quartile_low: quantile(&sorted, 0.25)?,
            quartile_high: quantile(&sorted, 0.75)?,
        })
    }

    /// The range that the samples are said to lie in: all of a few, the middle half of many.
    pub fn spread(&self) -> (f64, f64) {
        if self.count < QUARTILES_FROM {
            (self.min, self.max)
        } else {
            (self.quartile_low, self.quartile_high)
        }
    }
}

/// The `q`-quantile of sorted samples, linear between neighbours. `None` without samples.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let low = sorted[at.floor() as usize];
    let high = sorted[at.ceil() as usize];
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[7.0]).unwrap().median, 7.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [0.0, 10.0, 20.0, 30.0, 40.0];
        assert_eq!(quantile(&sorted, 0.0), Some(0.0));
        assert_eq!(quantile(&sorted, 0.99), Some(39.6));
        assert_eq!(quantile(&sorted, 1.0), Some(40.0));
        assert_eq!(quantile(&sorted, 7.0), Some(40.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_spread_of_few_is_their_range_and_of_many_the_middle_half() {
        let few = Summary::of(&[5.0, 1.0, 3.0]).unwrap();
        assert_eq!(few.spread(), (1.0, 5.0));
        let many: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(Summary::of(&many).unwrap().spread(), (25.0, 75.0));
    }
}
