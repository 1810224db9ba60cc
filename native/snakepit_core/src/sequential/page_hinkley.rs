//! Whether the mean of a stream has moved: the Page-Hinkley test (Page, "Continuous inspection schemes", Biometrika 41, 1954;
//! Hinkley, "Inference about the change-point from cumulative sum tests", Biometrika 58, 1971), for both directions.
//!
//! Samples are standardized: mean 0 and deviation 1 as long as nothing moves.

/// A mean that moves by less than this many deviations is no change: noise that hangs together for a while looks so.
const TOLERATED: f64 = 1.0;
/// The sum of what exceeds it at which the alarm is given. Normal noise reaches it once in 10^17 samples (Siegmund's
/// approximation), noise that hangs together over some samples once in many millions; a mean that moves by three deviations
/// after ten.
const THRESHOLD: f64 = 20.0;
/// A single sample counts for so many deviations at most.
const MOST: f64 = 4.0;

/// Where the mean went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    Up,
    Down,
}

/// The sums so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PageHinkley {
    up: f64,
    down: f64,
}

impl PageHinkley {
    /// Adds a sample; one that is not finite is ignored. After an alarm the test begins anew.
    pub fn add(&mut self, sample: f64) -> Option<Shift> {
        if !sample.is_finite() {
            return None;
        }
        let sample = sample.clamp(-MOST, MOST);
        // The sum above its least value so far, which is all the test looks at.
        self.up = (self.up + sample - TOLERATED).max(0.0);
        self.down = (self.down - sample - TOLERATED).max(0.0);
        let shift = if self.up > THRESHOLD {
            Shift::Up
        } else if self.down > THRESHOLD {
            Shift::Down
        } else {
            return None;
        };
        *self = Self::default();
        Some(shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequential::means::tests::Noise;

    /// The first alarm among so many samples, and where it is.
    fn first(mut test: PageHinkley, samples: impl Iterator<Item = f64>) -> Option<(usize, Shift)> {
        samples.enumerate().find_map(|(n, x)| test.add(x).map(|shift| (n, shift)))
    }

    #[test]
    fn noise_is_no_alarm() {
        let mut noise = Noise::new(1);
        assert_eq!(first(PageHinkley::default(), (0..2_000_000).map(|_| noise.normal())), None);
        // One sample in fifty is a stall, of up to a hundred deviations.
        let mut noise = Noise::new(2);
        let stalls = |noise: &mut Noise| if noise.uniform() < 0.02 { 100.0 * noise.uniform() } else { noise.normal() };
        assert_eq!(first(PageHinkley::default(), (0..2_000_000).map(|_| stalls(&mut noise))), None);
        // Noise that hangs together over some samples.
        let (mut noise, mut last) = (Noise::new(3), 0.0);
        let tied = (0..2_000_000).map(|_| {
            last = 0.7 * last + 0.714 * noise.normal();
            0.7 * last
        });
        assert_eq!(first(PageHinkley::default(), tied), None);
    }

    #[test]
    fn a_mean_that_moves_is_found_soon_and_in_its_direction() {
        for (by, shift) in [(2.3, Shift::Up), (-2.3, Shift::Down), (1.5, Shift::Up)] {
            let worst = (0..500).map(|seed| {
                let mut noise = Noise::new(seed);
                let (at, found) = first(PageHinkley::default(), (0..1_000).map(|_| noise.normal() + by)).unwrap();
                assert_eq!(found, shift);
                at
            });
            assert!(worst.max().unwrap() < 200, "{by}");
        }
    }

    #[test]
    fn samples_that_are_no_numbers_are_ignored_and_an_alarm_begins_anew() {
        let mut test = PageHinkley::default();
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(test.add(bad), None);
        }
        assert_eq!(test, PageHinkley::default());
        while test.add(3.0).is_none() {}
        assert_eq!(test, PageHinkley::default());
    }
}
