//! A log-linear histogram: eight buckets to a doubling, so that a percentile is right within a sixteenth.

const SUB: usize = 8;
const BUCKETS: usize = 45 * SUB;

/// Counts of values from 0 to 2^46; larger ones count as the largest.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0 }
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let k = value.ilog2() as usize;
    ((k - 2) * SUB + ((value >> (k - 3)) as usize & (SUB - 1))).min(BUCKETS - 1)
}

fn start(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    ((SUB + bucket % SUB) as u64) << (bucket / SUB - 1)
}

fn middle(bucket: usize) -> u64 {
    (start(bucket) + start(bucket + 1) - 1) / 2
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// As if everything that was added to `other` had been added here.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// For each bucket that is not empty, the value in its middle and its count, in the order of the values.
    pub fn recorded(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(i, count)| (middle(i), *count))
    }

    /// The value that a share `p` (0..=1) of all values does not exceed, within half a bucket; `None` if there are none.
    pub fn percentile(&self, p: f64) -> Option<u64> {
        let wanted = ((self.total as f64 * p).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(middle(i));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_percentile() {
        assert_eq!(Histogram::default().percentile(0.5), None);
    }

    proptest! {
        #[test]
        fn is_within_a_sixteenth_of_the_sorted_list(mut values in prop::collection::vec(0u64..1 << 45, 1..300), p in 0.0f64..=1.0) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.add(*v));
            values.sort_unstable();
            let rank = ((values.len() as f64 * p).ceil() as usize).clamp(1, values.len());
            let (got, want) = (histogram.percentile(p).unwrap(), values[rank - 1]);
            prop_assert!(got.abs_diff(want) * 16 <= want.max(8), "{got} for {want}");
        }

        #[test]
        fn recorded_has_every_value_within_a_sixteenth(mut values in prop::collection::vec(0u64..1 << 45, 0..300)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.add(*v));
            values.sort_unstable();
            let recorded: Vec<u64> = histogram.recorded().flat_map(|(v, n)| std::iter::repeat_n(v, n as usize)).collect();
            prop_assert_eq!(recorded.len(), values.len());
            for (got, want) in recorded.iter().zip(&values) {
                prop_assert!(got.abs_diff(*want) * 16 <= (*want).max(8), "{} for {}", got, want);
            }
        }

        #[test]
        fn merged_is_as_if_added_to_one(a in prop::collection::vec(0u64..1 << 50, 0..100), b in prop::collection::vec(0u64..1 << 50, 1..100)) {
            let (mut x, mut y, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
            a.iter().for_each(|v| { x.add(*v); both.add(*v) });
            b.iter().for_each(|v| { y.add(*v); both.add(*v) });
            x.merge(&y);
            for p in [0.0, 0.5, 0.95, 0.999, 1.0] {
                prop_assert_eq!(x.percentile(p), both.percentile(p));
            }
            prop_assert_eq!(x.total(), both.total());
        }
    }
}
