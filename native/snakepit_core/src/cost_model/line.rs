//! The cost of one way, as a line over the size: nanoseconds = a + b · bytes, corrected where it was observed.
//!
//! Recursive weighted least squares. A residual counts relative to what was predicted, so that a microsecond matters at
//! 10 µs and not at 10 ms; it is clipped, so that one stall does not move the line; the past is forgotten, toward what
//! calibration found and not toward nothing, so that a pool which sends one size only keeps its slope. Coefficients are
//! never negative: a way that costs less the more it carries is a way that was not measured.

use serde::{Deserialize, Serialize};

/// Samples after which a line is taken at its word.
pub const READY: u64 = 20;

/// Samples near a size after which the line is taken at its word there, whatever it says of others.
const SEEN: f64 = 2.0;
/// Clipping begins after so many: before, nobody knows what is usual.
const CLIPPED_FROM: u64 = 8;
/// How many of the latest samples count.
const MEMORY: f64 = 500.0;
/// As how many samples the calibration counts for ever.
const PRIOR: f64 = 25.0;
/// One at every power of two, up to 2^41.
const NODES: usize = 42;
/// A node's memory, and how many samples it takes to be half believed. Measured: machines have drifts that last for some
/// dozens of calls; a longer memory predicts worse, a shorter one no better.
const NODE_MEMORY: f64 = 10.0;
const NODE_DOUBT: f64 = 1.0;
/// How wrong the line may be, a doubling away from where it was observed; twice that anywhere beyond.
const FAR: f64 = 0.1;
/// How many doublings above anything observed the line still says something.
const FARTHEST: usize = 7;
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

/// The time that a transfer is expected to take.
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

/// The observations at a power of two, and, by their shares, at the sizes next to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Node {
    /// The logarithm of nanoseconds: not of a ratio to the line, which moves.
    ln_ns: f64,
    /// How many samples it rests on.
    n: f64,
}

/// The correction of the line at one size.
struct Correction {
    /// The logarithm of what was observed over the line.
    ln_ratio: f64,
    samples: f64,
    /// How far, in doublings, that was observed.
    distance: f64,
}

impl Correction {
    fn is_near(&self) -> bool {
        self.samples / (1.0 + self.distance).powi(2) >= SEEN
    }
}

/// One way's cost, as it was observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    sums: Sums,
    prior: Sums,
    a: f64,
    b: f64,
    /// The variance of one sample's relative residual.
    variance: f64,
    nodes: Vec<Node>,
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
            nodes: vec![Node::default(); NODES],
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
            && self.nodes.len() == NODES
            && self.nodes.iter().all(|node| node.ln_ns.abs() < 50.0 && (0.0..=NODE_MEMORY).contains(&node.n))
    }

    /// Whether it says something of this size, after so many samples: where it was observed, and, if sizes differed enough
    /// for a slope, below that and some doublings above.
    pub fn is_ready(&self, size: u64, samples: u64) -> bool {
        let largest = self.nodes.iter().rposition(|node| node.n > 0.0).unwrap_or(0);
        let in_reach = size < 1 << (largest + FARTHEST).min(63);
        self.samples >= samples && (self.sums.is_spread() && in_reach || self.correction(size).is_near())
    }

    /// Whether it was observed about there, often enough.
    pub fn has_seen(&self, size: u64) -> bool {
        self.samples >= READY && self.correction(size).is_near()
    }

    /// Nanoseconds, and nanoseconds a byte.
    pub fn coefficients(&self) -> (f64, f64) {
        (self.a, self.b / UNIT)
    }

    fn plain(&self, size: u64) -> f64 {
        self.a + self.b * size as f64 / UNIT
    }

    /// One transfer of `size` bytes took `ns`. A number below 1, infinite or NaN is ignored.
    pub fn observe(&mut self, size: u64, ns: f64) {
        if !(ns.is_finite() && ns >= 1.0) {
            return;
        }
        let x = size as f64 / UNIT;
        let known = self.samples >= 1 && self.plain(size) >= 1.0;
        let expected = if known { self.estimate_ns(size) } else { ns };
        let residual = (ns - expected) / expected;
        // Where nothing was observed yet, nothing is unusual.
        let usual = 3.0 * self.variance.sqrt().max(0.02);
        let new = self.samples < CLIPPED_FROM || !self.correction(size).is_near();
        let residual = if new { residual.min(4.0) } else { residual.clamp(-usual, usual) };
        let clipped = (expected * (1.0 + residual)).max(1.0);

        let keep = 1.0 - 1.0 / MEMORY;
        let prior = self.prior;
        self.sums.blend(keep, &prior, 1.0 - keep);
        self.sums.add(x, clipped, 1.0 / (expected * expected));
        (self.a, self.b) = self.sums.solve();

        self.samples += 1;
        if !new {
            let share = (1.0 / self.samples as f64).max(1.0 / 50.0);
            self.variance += share * (residual * residual - self.variance);
        }
        self.correct(size, clipped);
    }

    /// Makes it less certain: the variance of one sample is so many times as large, up to that of a factor of e.
    pub fn widen(&mut self, factor: f64) {
        self.variance = (self.variance * factor).min(1.0);
    }

    fn correct(&mut self, size: u64, ns: f64) {
        if self.plain(size) < 1.0 {
            return;
        }
        let (low, share) = between(size);
        // Against what the nodes say, not against the part of it that is believed.
        let missed = ns.ln() - self.plain(size).ln() - self.between_nodes(size, 0.0).ln_ratio;
        for (i, weight) in [(low, 1.0 - share), (low + 1, share)] {
            if weight <= 0.0 {
                continue;
            }
            let fresh = self.plain(1 << i).max(1.0).ln() + self.between_nodes(1 << i, 0.0).ln_ratio;
            let node = &mut self.nodes[i];
            if node.n == 0.0 {
                node.ln_ns = fresh;
            }
            node.n = (node.n + weight).min(NODE_MEMORY);
            node.ln_ns += missed * weight / node.n;
        }
    }

    /// Ends a calibration: from now on the past is forgotten toward the observations so far.
    pub fn anchor(&mut self) {
        let mut prior = Sums::default();
        prior.blend(0.0, &self.sums, PRIOR / (self.samples.max(1) as f64));
        self.prior = prior;
    }

    /// The ratio of observations to the line, as far as that is to be believed.
    fn correction(&self, size: u64) -> Correction {
        self.between_nodes(size, NODE_DOUBT)
    }

    /// Between the nearest nodes that were ever seen.
    fn between_nodes(&self, size: u64, doubt: f64) -> Correction {
        let (low, share) = between(size);
        let at = low as f64 + share;
        let of = |i: usize| {
            let Node { ln_ns, n } = self.nodes[i];
            let believed = n / (n + doubt);
            let ln_ratio = (ln_ns - self.plain(1 << i).max(1.0).ln()) * believed;
            Correction { ln_ratio, samples: n, distance: (at - i as f64).abs() }
        };
        let is_seen = |i: &usize| self.nodes[*i].n > 0.0;
        let below = (0..=low).rev().find(is_seen).map(of);
        let above = (low + 1..NODES).find(is_seen).map(of);
        match (below, above) {
            (Some(below), Some(above)) => {
                let share = below.distance / (below.distance + above.distance);
                let mix = |a: f64, b: f64| a + (b - a) * share;
                Correction {
                    ln_ratio: mix(below.ln_ratio, above.ln_ratio),
                    samples: mix(below.samples, above.samples),
                    distance: below.distance.min(above.distance),
                }
            }
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => Correction { ln_ratio: 0.0, samples: 0.0, distance: f64::INFINITY },
        }
    }

    fn estimate_ns(&self, size: u64) -> f64 {
        (self.plain(size) * self.correction(size).ln_ratio.exp()).max(1.0)
    }

    /// The time that a transfer of this size takes.
    pub fn estimate(&self, size: u64) -> Estimate {
        let correction = self.correction(size);
        let plain = self.plain(size).max(1.0);
        let ns = (plain * correction.ln_ratio.exp()).max(1.0);
        let relative = if self.samples == 0 {
            // An assumption: within a factor of three.
            (3.0f64.ln() / Z95).powi(2)
        } else {
            let line = self.variance * self.sums.leverage(size as f64 / UNIT) / (plain * plain);
            let node = self.variance / (correction.samples + 1.0);
            line.min(1.0) + node + (FAR * correction.distance.min(2.0)).powi(2)
        };
        let spread = (Z95 * relative.sqrt()).exp();
        Estimate { ns, low: ns / spread, high: ns * spread, samples: self.samples }
    }
}

/// The power of two at or below a size, and how far on the way to the next it lies, in doublings.
fn between(size: u64) -> (usize, f64) {
    let at = (size.max(1) as f64).log2().min((NODES - 1) as f64);
    let low = (at as usize).min(NODES - 2);
    (low, at - low as f64)
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
        /// Whatever is observed, nothing is negative, infinite or no number.
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
