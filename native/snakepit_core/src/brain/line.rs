//! What one way costs, as a line over the size: nanoseconds = a + b · bytes, times a correction per doubling.
//!
//! Recursive weighted least squares. A residual counts relative to what was predicted, so that a microsecond matters at
//! 10 µs and not at 10 ms; it is clipped, so that one stall does not move the line; the past is forgotten, toward what
//! calibration found and not toward nothing, so that a pool which sends one size only keeps its slope. Coefficients are
//! never negative: a way that costs less the more it carries is a way that was not measured.

use serde::{Deserialize, Serialize};

/// Samples after which a line is taken at its word.
pub const READY: u64 = 20;

/// Samples near a size after which the line is taken at its word there, whatever it says of others.
const SEEN: f64 = 5.0;
/// Clipping begins after so many: before, nobody knows what is usual.
const CLIPPED_FROM: u64 = 8;
/// How many of the latest samples count.
const MEMORY: f64 = 500.0;
/// As how many samples the calibration counts for ever.
const PRIOR: f64 = 25.0;
/// One at every power of two, up to 2^41.
const CORRECTIONS: usize = 42;
/// A correction's memory, and how many samples it takes to be half believed.
const CORRECTION_MEMORY: f32 = 50.0;
const CORRECTION_DOUBT: f32 = 1.0;
/// Bytes of one unit of x: keeps the sums of squares in a range where they lose nothing.
const UNIT: f64 = 65_536.0;
const Z95: f64 = 1.96;

/// Weighted sums of 1, x, x², y, xy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    one: f64,
    x: f64,
    xx: f64,
    y: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, x: f64, y: f64, weight: f64) {
        self.one += weight;
        self.x += weight * x;
        self.xx += weight * x * x;
        self.y += weight * y;
        self.xy += weight * x * y;
    }

    fn blend(&mut self, keep: f64, other: &Sums, share: f64) {
        self.one = self.one * keep + other.one * share;
        self.x = self.x * keep + other.x * share;
        self.xx = self.xx * keep + other.xx * share;
        self.y = self.y * keep + other.y * share;
        self.xy = self.xy * keep + other.xy * share;
    }

    fn determinant(&self) -> f64 {
        self.one * self.xx - self.x * self.x
    }

    /// Whether the sizes differ enough to tell a slope.
    fn is_spread(&self) -> bool {
        self.determinant() > 1e-6 * self.one * self.xx
    }

    /// The best a and b that are not negative.
    fn solve(&self) -> (f64, f64) {
        if self.one <= 0.0 {
            return (0.0, 0.0);
        }
        if !self.is_spread() {
            // One size only: as good as any is the line through the origin.
            return if self.xx > 0.0 { (0.0, self.xy / self.xx) } else { (self.y / self.one, 0.0) };
        }
        let d = self.determinant();
        let (a, b) = ((self.xx * self.y - self.x * self.xy) / d, (self.one * self.xy - self.x * self.y) / d);
        if b < 0.0 {
            (self.y / self.one, 0.0)
        } else if a < 0.0 {
            (0.0, self.xy / self.xx)
        } else {
            (a, b)
        }
    }

    /// How uncertain the line is at x, in units of one sample's relative error times nanoseconds: φᵀ S⁻¹ φ.
    fn leverage(&self, x: f64) -> f64 {
        if !self.is_spread() {
            return if self.one > 0.0 { 1.0 / self.one } else { f64::INFINITY };
        }
        ((self.xx - 2.0 * self.x * x + self.one * x * x) / self.determinant()).max(0.0)
    }
}

/// What a transfer is expected to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub ns: f64,
    /// The 95 % interval of the typical time, not of a single transfer's.
    pub low: f64,
    pub high: f64,
    /// Samples that the line rests on.
    pub samples: u64,
}

impl Estimate {
    /// The standard error of the logarithm.
    pub fn log_error(&self) -> f64 {
        (self.high / self.low).ln() / (2.0 * Z95)
    }
}

/// One way's cost, as it was observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    sums: Sums,
    prior: Sums,
    a: f64,
    b: f64,
    /// Of one sample's relative residual.
    variance: f64,
    /// At every power of two: the logarithm of observed over the line, and how many samples it rests on. Between them it
    /// is interpolated, so that a sample moves the two it lies between.
    corrections: Vec<(f32, f32)>,
    samples: u64,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            sums: Sums::default(),
            prior: Sums::default(),
            a: 0.0,
            b: 0.0,
            variance: 0.04,
            corrections: vec![(0.0, 0.0); CORRECTIONS],
            samples: 0,
        }
    }
}

impl Line {
    /// Nothing is known but what somebody assumed: `a` ns, and `b` ns a byte.
    pub fn assumed(a: f64, b: f64) -> Self {
        Self { a, b: b * UNIT, ..Self::default() }
    }

    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Whether it could have come about by observing: for one that was read from a file.
    pub fn is_sound(&self) -> bool {
        let sums = |s: &Sums| [s.one, s.x, s.xx, s.y, s.xy].iter().all(|v| v.is_finite() && *v >= 0.0);
        sums(&self.sums)
            && sums(&self.prior)
            && [self.a, self.b, self.variance].iter().all(|v| v.is_finite() && (0.0..1e18).contains(v))
            && self.corrections.len() == CORRECTIONS
            && self
                .corrections
                .iter()
                .all(|(correction, n)| correction.abs() < 50.0 && (0.0..=CORRECTION_MEMORY).contains(n))
    }

    /// Whether it says something of this size: samples of one size alone have no slope.
    pub fn is_ready(&self, size: u64) -> bool {
        self.samples >= READY && (self.sums.is_spread() || self.has_seen(size))
    }

    /// Whether it was observed about there.
    pub fn has_seen(&self, size: u64) -> bool {
        self.samples >= READY && self.correction(size).1 >= SEEN
    }

    /// Nanoseconds, and nanoseconds a byte.
    pub fn coefficients(&self) -> (f64, f64) {
        (self.a, self.b / UNIT)
    }

    fn plain(&self, size: u64) -> f64 {
        self.a + self.b * size as f64 / UNIT
    }

    /// One transfer of `size` bytes took `ns`. What is no time is not heard.
    pub fn observe(&mut self, size: u64, ns: f64) {
        if !(ns.is_finite() && ns >= 1.0) {
            return;
        }
        let x = size as f64 / UNIT;
        let known = self.samples >= 1 && self.plain(size) >= 1.0;
        let expected = if known { self.estimate_ns(size) } else { ns };
        let residual = (ns - expected) / expected;
        let usual = 3.0 * self.variance.sqrt().max(0.02);
        let residual = if self.samples < CLIPPED_FROM { residual.min(4.0) } else { residual.clamp(-usual, usual) };
        let clipped = (expected * (1.0 + residual)).max(1.0);

        let keep = 1.0 - 1.0 / MEMORY;
        let prior = self.prior;
        self.sums.blend(keep, &prior, 1.0 - keep);
        self.sums.add(x, clipped, 1.0 / (expected * expected));
        (self.a, self.b) = self.sums.solve();

        self.samples += 1;
        let share = (1.0 / self.samples as f64).max(1.0 / 50.0);
        self.variance += share * (residual * residual - self.variance);
        self.correct(size, clipped);
    }

    fn correct(&mut self, size: u64, ns: f64) {
        let line = self.plain(size);
        if line < 1.0 {
            return;
        }
        let (low, share) = between(size);
        let nodes = [(low, 1.0 - share), (low + 1, share)];
        let believed = nodes.map(|(i, weight)| self.corrections[i].0 * weight);
        let missed = (ns / line).ln() as f32 - believed[0] - believed[1];
        for (i, weight) in nodes {
            let (correction, n) = &mut self.corrections[i];
            *n = (*n + weight).min(CORRECTION_MEMORY);
            if weight > 0.0 {
                *correction += missed * weight / *n;
            }
        }
    }

    /// What was observed so far is where the past is forgotten to: the end of a calibration.
    pub fn anchor(&mut self) {
        let mut prior = Sums::default();
        prior.blend(0.0, &self.sums, PRIOR / (self.samples.max(1) as f64));
        self.prior = prior;
    }

    /// The correction at this size, between the nearest that were ever seen, and how many samples it rests on: the fewer, the
    /// farther those are.
    fn correction(&self, size: u64) -> (f64, f64) {
        let (low, share) = between(size);
        let at = low as f64 + f64::from(share);
        let of = |i: usize| {
            let (correction, n) = self.corrections[i];
            (i as f64, f64::from(correction * n / (n + CORRECTION_DOUBT)), f64::from(n))
        };
        let is_seen = |i: &usize| self.corrections[*i].1 > 0.0;
        let below = (0..=low).rev().find(is_seen).map(of);
        let above = (low + 1..CORRECTIONS).find(is_seen).map(of);
        match (below, above) {
            (Some((i0, c0, n0)), Some((i1, c1, n1))) => {
                let share = (at - i0) / (i1 - i0);
                (c0 + (c1 - c0) * share, (n0 + (n1 - n0) * share) / (i1 - i0))
            }
            (Some((i, c, n)), None) | (None, Some((i, c, n))) => (c, n / (1.0 + (at - i).abs())),
            (None, None) => (0.0, 0.0),
        }
    }

    fn estimate_ns(&self, size: u64) -> f64 {
        (self.plain(size) * self.correction(size).0.exp()).max(1.0)
    }

    /// What a transfer of this size takes.
    pub fn estimate(&self, size: u64) -> Estimate {
        let (correction, seen) = self.correction(size);
        let plain = self.plain(size).max(1.0);
        let ns = (plain * correction.exp()).max(1.0);
        let relative = if self.samples == 0 {
            // An assumption: within a factor of three.
            (3.0f64.ln() / Z95).powi(2)
        } else {
            let line = self.variance * self.sums.leverage(size as f64 / UNIT) / (plain * plain);
            // What the correction of a size that was never seen might be.
            line.min(1.0) + (self.variance + if seen < 1.0 { 0.04 } else { 0.0 }) / (seen + 1.0)
        };
        let spread = (Z95 * relative.sqrt()).exp();
        Estimate { ns, low: ns / spread, high: ns * spread, samples: self.samples }
    }
}

/// The power of two at or below a size, and how far on the way to the next it lies, in doublings.
fn between(size: u64) -> (usize, f32) {
    let at = (size.max(1) as f32).log2().min((CORRECTIONS - 1) as f32);
    let low = (at as usize).min(CORRECTIONS - 2);
    (low, at - low as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reproducible noise: multiplicative, skewed, as latencies are.
    struct World(u64);

    impl World {
        fn uniform(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        fn noisy(&mut self, ns: f64) -> f64 {
            ns * (1.0 + 0.2 * (self.uniform() - 0.5))
        }

        /// Equally likely at every order of magnitude from 1 KiB to 64 MiB.
        fn size(&mut self) -> u64 {
            2f64.powf(10.0 + 16.0 * self.uniform()) as u64
        }
    }

    fn learn(line: &mut Line, world: &mut World, n: usize, truth: impl Fn(u64) -> f64) {
        for _ in 0..n {
            let size = world.size();
            line.observe(size, world.noisy(truth(size)));
        }
    }

    fn close(line: &Line, truth: impl Fn(u64) -> f64, tolerance: f64) {
        for k in 10..26 {
            let size = 1u64 << k;
            let (got, want) = (line.estimate(size).ns, truth(size));
            assert!((got / want).ln().abs() < tolerance, "2^{k}: {got} for {want}");
        }
    }

    const STRAIGHT: fn(u64) -> f64 = |size| 20_000.0 + 0.1 * size as f64;

    #[test]
    fn finds_a_line() {
        let (mut line, mut world) = (Line::default(), World(7));
        learn(&mut line, &mut world, 300, STRAIGHT);
        close(&line, STRAIGHT, 0.06);
        let (a, b) = line.coefficients();
        assert!((a - 20_000.0).abs() < 2_000.0 && (b - 0.1).abs() < 0.01, "{a} {b}");
    }

    #[test]
    fn corrects_where_the_world_is_no_line() {
        // Twice as dear beyond the cache.
        let truth = |size: u64| 5_000.0 + size as f64 * if size > 1 << 20 { 0.2 } else { 0.1 };
        let (mut line, mut world) = (Line::default(), World(3));
        learn(&mut line, &mut world, 600, truth);
        for k in [12, 14, 17, 22, 25] {
            let size = 3u64 << (k - 1);
            let (got, want) = (line.estimate(size).ns, truth(size));
            assert!((got / want).ln().abs() < 0.15, "{size}: {got} for {want}");
        }
    }

    #[test]
    fn follows_a_world_that_changes() {
        let (mut line, mut world) = (Line::default(), World(11));
        learn(&mut line, &mut world, 500, STRAIGHT);
        let slower = |size: u64| 40_000.0 + 0.3 * size as f64;
        learn(&mut line, &mut world, 2_000, slower);
        close(&line, slower, 0.15);
    }

    #[test]
    fn one_stall_in_ten_does_not_move_it() {
        let (mut line, mut world) = (Line::default(), World(5));
        learn(&mut line, &mut world, 200, STRAIGHT);
        for n in 0..1_000 {
            let size = world.size();
            let stall = if n % 10 == 0 { 50.0 } else { 1.0 };
            line.observe(size, world.noisy(STRAIGHT(size)) * stall);
        }
        close(&line, STRAIGHT, 0.25);
    }

    #[test]
    fn one_size_for_ever_leaves_the_slope_that_calibration_found() {
        let (mut line, mut world) = (Line::default(), World(9));
        learn(&mut line, &mut world, 60, STRAIGHT);
        line.anchor();
        for _ in 0..20_000 {
            line.observe(5_000, world.noisy(STRAIGHT(5_000)));
        }
        close(&line, STRAIGHT, 0.25);
    }

    #[test]
    fn the_interval_holds_the_truth_and_narrows() {
        let mut held = 0;
        for seed in 1..=200 {
            let (mut line, mut world) = (Line::default(), World(seed * 7919));
            learn(&mut line, &mut world, 200, STRAIGHT);
            let size = world.size();
            let estimate = line.estimate(size);
            held += u32::from(estimate.low <= STRAIGHT(size) && STRAIGHT(size) <= estimate.high);
        }
        assert!(held >= 180, "{held} of 200");
        let (mut line, mut world) = (Line::default(), World(1));
        let before = line.estimate(1 << 20).log_error();
        learn(&mut line, &mut world, 500, STRAIGHT);
        assert!(line.estimate(1 << 20).log_error() < before / 4.0);
    }

    proptest! {
        /// Whatever it is told, nothing is negative, infinite or no number.
        #[test]
        fn stays_sane(samples in prop::collection::vec((0u64..1 << 50, prop::num::f64::ANY), 0..200), size in 0u64..1 << 60) {
            let mut line = Line::default();
            for (n, (size, ns)) in samples.into_iter().enumerate() {
                line.observe(size, ns);
                if n == 50 {
                    line.anchor();
                }
            }
            let (a, b) = line.coefficients();
            prop_assert!(a >= 0.0 && b >= 0.0 && a.is_finite() && b.is_finite());
            let e = line.estimate(size);
            prop_assert!(e.ns >= 1.0 && e.low <= e.ns && e.ns <= e.high && e.high.is_finite(), "{e:?}");
        }
    }
}
