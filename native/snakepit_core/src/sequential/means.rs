//! Which of two streams has the smaller mean, with intervals that hold at all times at once: asymptotic confidence sequences
//! (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
//! sequences", Annals of Statistics 52, 2024, theorem 2.2).
//!
//! A test that looks after every sample for an ordinary interval that excludes the other mean finds a difference sooner or
//! later where there is none. These are wider, by as much as that takes.

/// Samples at which an interval is narrowest for its size.
const TUNED_FOR: f64 = 500.0;
/// Fewer samples say nothing: the theorem is of many.
pub const ENOUGH: u64 = 400;
/// A single sample counts for so much at most: a logarithm, of a factor of 50.
const MOST: f64 = 4.0;

/// A stream: how many samples, their mean, and the sum of squared differences from it (Welford).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    pub samples: u64,
    pub mean: f64,
    squares: f64,
}

impl Mean {
    /// Adds a sample; one that is not finite is ignored.
    pub fn add(&mut self, sample: f64) {
        if !sample.is_finite() {
            return;
        }
        let sample = sample.clamp(-MOST, MOST);
        self.samples += 1;
        let from = sample - self.mean;
        self.mean += from / self.samples as f64;
        self.squares += from * (sample - self.mean);
    }

    fn deviation(&self) -> f64 {
        (self.squares / self.samples.max(1) as f64).sqrt()
    }

    /// Half of the width of the interval that holds the mean at all times, but for a probability of `alpha`.
    fn half_width(&self, alpha: f64) -> f64 {
        if self.samples < ENOUGH {
            return f64::INFINITY;
        }
        let n = self.samples as f64;
        // The paper's ρ that is narrowest at a given n.
        let rho2 = (-2.0 * alpha.ln() + (-2.0 * alpha.ln() + 1.0).ln()) / TUNED_FOR;
        let t = n * rho2 + 1.0;
        self.deviation() * (2.0 * t / (n * n * rho2) * (t.sqrt() / alpha).ln()).sqrt()
    }
}

/// How two streams compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Open,
    FirstIsLess,
    SecondIsLess,
}

/// Two streams, of which somebody wants the one with the smaller mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Two {
    pub first: Mean,
    pub second: Mean,
}

impl Two {
    /// The difference of the means, second less first, with its interval: `(difference, low, high)`.
    pub fn difference(&self, alpha: f64) -> (f64, f64, f64) {
        let half = self.first.half_width(alpha / 2.0) + self.second.half_width(alpha / 2.0);
        let difference = self.second.mean - self.first.mean;
        (difference, difference - half, difference + half)
    }

    /// Wrong with a probability of at most `alpha`, however often it is asked.
    pub fn verdict(&self, alpha: f64) -> Verdict {
        match self.difference(alpha) {
            (_, low, _) if low > 0.0 => Verdict::FirstIsLess,
            (_, _, high) if high < 0.0 => Verdict::SecondIsLess,
            _ => Verdict::Open,
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Random numbers that are the same every time: xorshift64*.
    pub struct Noise(u64);

    impl Noise {
        pub fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
        }

        pub fn uniform(&mut self) -> f64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Box and Muller.
        pub fn normal(&mut self) -> f64 {
            let (u, v) = (1.0 - self.uniform(), self.uniform());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        }
    }

    /// The verdict on streams whose means differ by so much, one in fifty samples the second's, and after how many.
    fn judged(seed: u64, by: f64, most: u64, sample: impl Fn(&mut Noise) -> f64) -> (Verdict, u64) {
        let (mut noise, mut two) = (Noise::new(seed), Two::default());
        for n in 0..most {
            if noise.uniform() < 0.02 {
                two.second.add(sample(&mut noise) + by)
            } else {
                two.first.add(sample(&mut noise))
            }
            let verdict = two.verdict(0.01);
            if verdict != Verdict::Open {
                return (verdict, n);
            }
        }
        (Verdict::Open, most)
    }

    #[test]
    fn where_there_is_no_difference_none_is_found_however_often_it_is_asked() {
        let wrong = |sample: fn(&mut Noise) -> f64| {
            (0..400).filter(|seed| judged(*seed, 0.0, 50_000, sample).0 != Verdict::Open).count()
        };
        // One in a hundred is promised.
        let normal = wrong(|noise| 0.3 * noise.normal());
        // Latencies: most are usual, a few take many times as long.
        let skewed =
            wrong(|noise| 0.1 * noise.normal() + if noise.uniform() < 0.03 { 3.0 * noise.uniform() } else { 0.0 });
        assert!(normal <= 4 && skewed <= 4, "{normal} {skewed}");
    }

    #[test]
    fn a_difference_is_found_and_has_its_sign() {
        for (by, verdict) in [(0.3, Verdict::FirstIsLess), (-0.3, Verdict::SecondIsLess)] {
            for seed in 0..50 {
                let (found, after) = judged(seed, by, 200_000, |noise| 0.3 * noise.normal());
                assert!(found == verdict && after < 60_000, "{seed}: {found:?} after {after}");
            }
        }
    }

    #[test]
    fn the_interval_holds_the_difference_and_becomes_narrow() {
        let (mut noise, mut two) = (Noise::new(7), Two::default());
        let mut widths = Vec::new();
        for n in 0..100_000 {
            two.first.add(0.2 * noise.normal());
            two.second.add(0.2 * noise.normal() + 0.05);
            let (difference, low, high) = two.difference(0.05);
            assert!(low <= 0.05 && 0.05 <= high, "{n}: {low} {high}");
            if n == 1_000 || n == 99_999 {
                widths.push(high - low);
                assert!(low <= difference && difference <= high);
            }
        }
        assert!(widths[1] < 0.02 && widths[0] < 0.12, "{widths:?}");
    }

    #[test]
    fn few_samples_and_such_that_are_no_numbers_say_nothing() {
        let mut two = Two::default();
        for n in 1..ENOUGH {
            two.first.add(0.0);
            two.second.add(1.0);
            assert_eq!(two.verdict(0.01), Verdict::Open, "{n}");
        }
        let before = two;
        two.first.add(f64::NAN);
        two.second.add(f64::INFINITY);
        assert_eq!(two, before);
    }
}
