//! The lines of one pool, and what they say of a transfer.

use super::cost::{Goal, Weights, bytes_held};
use super::line::{Estimate, Line, READY};
use super::{Direction, GRPC, INLINE, Kind, WAYS, ZERO_COPY, bins};
use serde::{Deserialize, Serialize};

/// For all kinds together: what a kind is judged by at sizes that it was not observed at.
const POOLED: usize = Kind::COUNT;

/// The assumed costs of a way that was never measured: nanoseconds, and nanoseconds a byte. Only gRPC is seldom
/// measured; calibration measures the others.
const ASSUMED: [(f64, f64); WAYS] = [(15_000.0, 0.25), (17_000.0, 0.08), (150_000.0, 2.0)];
/// As `READY`, of fresh memory: each of these takes milliseconds, and differs by them from the others.
const READY_COLD: u64 = 6;
/// How fast the drift factor follows, and how much of it is left after one more call.
const DRIFT_RATE: f64 = 0.1;
const DRIFT_DECAY: f64 = 0.98;
/// No drift factor is worse than three times as long.
const MAX_DRIFT: f64 = 1.1;
/// Fresh pages.
const ASSUMED_COLD: (f64, f64) = (40_000.0, 1.0);

/// One direction of a call, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leg {
    pub way: usize,
    pub kind: Kind,
    pub warm: bool,
    pub size: u64,
}

/// The cost of one transfer by one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    pub latency: Estimate,
    pub cpu_ns: f64,
    pub bytes_held: f64,
    pub cost: f64,
    /// Whether the estimate rests on measurements enough.
    pub ready: bool,
}

/// From which size on shared memory is the cheapest way, with a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossover {
    pub size: u64,
    pub low: u64,
    pub high: u64,
}

/// The learned costs of one pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// By direction, way, warmth, kind.
    lines: Vec<Line>,
    /// CPU time of both sides, by direction and way. Only calibration measures it.
    cpu: Vec<Line>,
    /// The logarithm of what calls take lately over what the lines say: the drift factor of the machine. All ways share it, so that
    /// it changes no choice, and the lines do not learn it.
    #[serde(skip)]
    drift_factor: f64,
    /// How often it was changed.
    pub version: u64,
}

impl Default for Model {
    fn default() -> Self {
        let mut lines = Vec::new();
        for _direction in Direction::ALL {
            for (way, (a, b)) in ASSUMED.iter().enumerate() {
                for warm in [false, true] {
                    let (a, b) = if way == ZERO_COPY && !warm { ASSUMED_COLD } else { (*a, *b) };
                    lines.extend((0..=Kind::COUNT).map(|_| Line::assumed(a, b)));
                }
            }
        }
        Self { lines, cpu: vec![Line::default(); 2 * WAYS], drift_factor: 0.0, version: 0 }
    }
}

fn index(direction: Direction, way: usize, warm: bool, kind: usize) -> usize {
    // Only shared memory knows warm and cold.
    let warm = warm || way != ZERO_COPY;
    ((direction as usize * WAYS + way) * 2 + usize::from(warm)) * (Kind::COUNT + 1) + kind
}

impl Model {
    /// As bytes, for a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// The model from the bytes that `to_bytes` made; `None` for bytes that it cannot have made.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (model, rest): (Self, _) = postcard::take_from_bytes(bytes).ok()?;
        let same = |lines: &[Line], n| lines.len() == n && lines.iter().all(Line::is_sound);
        let whole = same(&model.lines, Self::default().lines.len()) && same(&model.cpu, 2 * WAYS) && rest.is_empty();
        whole.then_some(model)
    }

    /// The line a transfer is judged by. Nobody says what a result's data are, so that all results are judged alike.
    pub fn line(&self, direction: Direction, leg: Leg) -> &Line {
        let own = &self.lines[index(direction, leg.way, leg.warm, leg.kind as usize)];
        if direction == Direction::Request && own.has_seen(leg.size) {
            return own;
        }
        &self.lines[index(direction, leg.way, leg.warm, POOLED)]
    }

    fn observe(&mut self, direction: Direction, leg: Leg, ns: f64) {
        for kind in [leg.kind as usize, POOLED] {
            self.lines[index(direction, leg.way, leg.warm, kind)].observe(leg.size, ns);
        }
    }

    fn expected(&self, direction: Direction, leg: Leg) -> f64 {
        self.line(direction, leg).estimate(leg.size).ns
    }

    /// The time that a call is expected to take beside its tool and its wait for a lane.
    pub fn predict(&self, request: Leg, reply: Leg) -> f64 {
        self.usual(request, reply) * self.drift_factor()
    }

    /// The same, whatever the machine's present drift factor is.
    pub fn usual(&self, request: Leg, reply: Leg) -> f64 {
        self.expected(Direction::Request, request) + self.expected(Direction::Reply, reply)
    }

    /// Makes what is known of a way less certain: the variance of one call is so many times as large.
    pub fn widen(&mut self, direction: Direction, way: usize, factor: f64) {
        let first = index(direction, way, way != ZERO_COPY, 0);
        let lines = if way == ZERO_COPY { 2 * (Kind::COUNT + 1) } else { Kind::COUNT + 1 };
        self.lines[first..first + lines].iter_mut().for_each(|line| line.widen(factor));
    }

    /// A call took `ns` beside its tool and its wait. Only the sum is known: each direction gets its expected share.
    pub fn learn(&mut self, request: Leg, reply: Leg, ns: f64) {
        let (there, back) = (self.expected(Direction::Request, request), self.expected(Direction::Reply, reply));
        let share = there / (there + back);
        if !(ns.is_finite() && ns >= 1.0) {
            return;
        }
        let missed = (ns / ((there + back) * self.drift_factor())).ln().clamp(-0.7, 0.7);
        let ns = ns / self.drift_factor();
        self.drift_factor = ((self.drift_factor + DRIFT_RATE * missed) * DRIFT_DECAY).clamp(-MAX_DRIFT, MAX_DRIFT);
        self.observe(Direction::Request, request, ns * share);
        self.observe(Direction::Reply, reply, ns * (1.0 - share));
        self.version += 1;
    }

    /// As `learn`, where one direction carried next to nothing, and `base` is what a call takes where both do: the rest is
    /// the other direction's.
    pub fn calibrate(&mut self, direction: Direction, leg: Leg, ns: f64, base: f64) {
        self.observe(direction, leg, (ns - base / 2.0).max(base / 2.0));
        self.version += 1;
    }

    /// CPU time of a call of which one direction carried next to nothing.
    pub fn calibrate_cpu(&mut self, direction: Direction, way: usize, size: u64, ns: f64) {
        self.cpu[direction as usize * WAYS + way].observe(size, ns);
    }

    /// The end of a calibration, which was made in the machine's present drift factor.
    pub fn anchor(&mut self) {
        self.lines.iter_mut().for_each(Line::anchor);
        self.drift_factor = 0.0;
    }

    /// How many times as long as the lines say calls take at the moment.
    pub fn drift_factor(&self) -> f64 {
        self.drift_factor.exp()
    }

    /// The price of a way for one goal, under one load.
    pub fn price(&self, direction: Direction, leg: Leg, weights: &Weights) -> Price {
        let line = self.line(direction, leg);
        let latency = line.estimate(leg.size);
        let warm = Leg { warm: true, ..leg };
        let is_cold = leg.way == ZERO_COPY && !leg.warm;
        let cpu = &self.cpu[direction as usize * WAYS + leg.way];
        // Unmeasured, all of the time is taken for work.
        let cpu_ns = if cpu.samples() > 0 { cpu.estimate(leg.size).ns } else { latency.ns };
        // Making pages is work, nearly all of it.
        let making = if is_cold && cpu.samples() > 0 { latency.ns - self.expected(direction, warm) } else { 0.0 };
        let cpu_ns = cpu_ns + making.max(0.0);
        let bytes_held = bytes_held(leg.way, leg.size);
        let cost = weights.cost(latency.ns, cpu_ns, bytes_held);
        Price {
            latency,
            cpu_ns,
            bytes_held,
            cost,
            ready: line.is_ready(leg.size, if is_cold { READY_COLD } else { READY }),
        }
    }

    /// Where shared memory begins to be cheaper than every other of these ways, up to 1 GiB. `None` is no evidence: lines
    /// that are not ready, or that do not cross.
    pub fn crossover(&self, direction: Direction, kind: Kind, goal: Goal, mask: u8) -> Option<Crossover> {
        let weights = Weights::of(goal);
        let others: Vec<usize> = [INLINE, GRPC].into_iter().filter(|way| mask & (1 << way) != 0).collect();
        let wins = |bin: usize| -> Option<f64> {
            let price = |way| self.price(direction, Leg { way, kind, warm: true, size: bins::middle(bin) }, &weights);
            let ours = price(ZERO_COPY);
            let best =
                others.iter().map(|way| price(*way)).filter(|p| p.ready).min_by(|a, b| a.cost.total_cmp(&b.cost))?;
            (ours.ready && best.ready).then(|| {
                let error = ours.latency.log_error().hypot(best.latency.log_error()).max(1e-6);
                ((best.cost / ours.cost).ln()) / error
            })
        };
        let (first, last) = (bins::of(256), bins::of(1 << 30));
        let z: Vec<f64> = (first..=last).map(wins).collect::<Option<_>>()?;
        // The first bin from which on it holds, all the way.
        let from = |least: f64| z.iter().rposition(|z| *z < least).map_or(0, |at| at + 1);
        let (at, low, high) = (from(0.0), from(-1.96), from(1.96));
        // Lines that nowhere differ for certain are no evidence.
        (at > 0 && high < z.len()).then(|| Crossover {
            size: bins::start(first + at),
            low: bins::start(first + low),
            high: bins::start(first + high),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Leg = Leg { way: INLINE, kind: Kind::Mixed, warm: true, size: 20 };

    fn leg(way: usize, size: u64) -> Leg {
        Leg { way, kind: Kind::Binary, warm: true, size }
    }

    /// Inline 20 µs and 0.3 ns a byte, shared memory 26 µs and 0.1.
    fn truth(way: usize, size: u64) -> f64 {
        let (a, b) = [(20_000.0, 0.3), (26_000.0, 0.1), (300_000.0, 1.0)][way];
        a + b * size as f64
    }

    fn calibrated() -> Model {
        let mut model = Model::default();
        let base = 40_000.0;
        for round in 0..8 {
            for k in (12..=24).step_by(2) {
                for way in [INLINE, ZERO_COPY] {
                    let jitter = 1.0 + 0.02 * f64::from((round * 7 + k) % 5 - 2);
                    for direction in Direction::ALL {
                        let ns = truth(way, 1 << k) * jitter + base / 2.0;
                        model.calibrate(direction, leg(way, 1 << k), ns, base);
                    }
                }
            }
        }
        model.anchor();
        model
    }

    #[test]
    fn the_lines_cross_where_the_truth_does() {
        let model = calibrated();
        let found = model.crossover(Direction::Request, Kind::Binary, Goal::MinimizeLatency, 0b111).unwrap();
        // 6 µs more, 0.2 ns a byte less: 30,000 bytes.
        assert!(found.low <= 30_000 && 30_000 <= found.high && found.low <= found.size, "{found:?}");
        assert!(found.size.abs_diff(30_000) < 8_000, "{found:?}");
        // A kind never seen is judged by all of them.
        assert_eq!(model.crossover(Direction::Request, Kind::Table, Goal::MinimizeLatency, 0b111), Some(found));
    }

    #[test]
    fn survives_a_file_and_refuses_a_broken_one() {
        let model = calibrated();
        let bytes = model.to_bytes();
        assert_eq!(Model::from_bytes(&bytes), Some(model));
        for cut in 0..bytes.len().min(3_000) {
            assert_eq!(Model::from_bytes(&bytes[..cut]), None);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Model::from_bytes(&longer), None);
        // Whatever a file says, what is taken from it is sound.
        for at in 0..bytes.len().min(3_000) {
            let mut broken = bytes.clone();
            broken[at] ^= 0xFF;
            if let Some(model) = Model::from_bytes(&broken) {
                let price = model.price(Direction::Request, leg(ZERO_COPY, 1 << 20), &Weights::of(Goal::Balanced));
                assert!(price.cost.is_finite() && price.latency.low <= price.latency.high);
            }
        }
    }

    #[test]
    fn no_evidence_is_no_crossover() {
        assert_eq!(Model::default().crossover(Direction::Request, Kind::Binary, Goal::Balanced, 0b111), None);
        // Parallel lines.
        let mut model = Model::default();
        for n in 0..200u64 {
            for way in [INLINE, ZERO_COPY] {
                let size = 1 << (12 + n % 12);
                model.calibrate(Direction::Reply, leg(way, size), 30_000.0 + size as f64 * 0.2, 20_000.0);
            }
        }
        assert_eq!(model.crossover(Direction::Reply, Kind::Binary, Goal::MinimizeLatency, 0b011), None);
        // Nearly parallel ones, and noise; and shared memory that is cheaper from nothing on.
        for (b, a) in [(0.199, 30_200.0), (0.1, 20_000.0)] {
            let mut model = Model::default();
            for n in 0..400u64 {
                let size = 1 << (12 + n % 12);
                let noise = 1.0 + 0.2 * ((n * 7919 % 101) as f64 / 100.0 - 0.5);
                for (way, a, b) in [(INLINE, 30_000.0, 0.2), (ZERO_COPY, a, b)] {
                    model.calibrate(
                        Direction::Reply,
                        leg(way, size),
                        (a + size as f64 * b) * noise + 10_000.0,
                        20_000.0,
                    );
                }
            }
            assert_eq!(model.crossover(Direction::Reply, Kind::Binary, Goal::MinimizeLatency, 0b011), None, "{b}");
        }
        // Nothing to compare with.
        assert_eq!(calibrated().crossover(Direction::Reply, Kind::Binary, Goal::Balanced, 0b010), None);
    }

    #[test]
    fn learns_both_directions_from_sums() {
        let mut model = calibrated();
        // The world became slower by half.
        for n in 0..4_000u64 {
            let (way, size) = ([INLINE, ZERO_COPY][(n % 2) as usize], 1 << (12 + n % 11));
            let (there, back) = if n % 3 == 0 { (leg(way, size), SMALL) } else { (SMALL, leg(way, size)) };
            let ns = 1.5 * (truth(there.way, there.size) + truth(back.way, back.size));
            model.learn(there, back, ns);
        }
        for k in [13, 16, 20] {
            let got = model.predict(leg(ZERO_COPY, 1 << k), SMALL);
            let want = 1.5 * (truth(ZERO_COPY, 1 << k) + truth(INLINE, 20));
            assert!((got / want).ln().abs() < 0.15, "2^{k}: {got} for {want}");
        }
    }

    #[test]
    fn calls_that_carry_nothing_say_nothing_of_those_that_do() {
        let mut model = calibrated();
        let nothing = Leg { way: INLINE, kind: Kind::Mixed, warm: true, size: 0 };
        for _ in 0..2_000 {
            model.learn(nothing, SMALL, 40_000.0);
        }
        let large = Leg { size: 1 << 22, ..nothing };
        let got = model.predict(large, SMALL);
        let want = truth(INLINE, 1 << 22) + 20_000.0;
        assert!((got / want).ln().abs() < 0.15, "{got} for {want}");
        // Without a calibration there is no slope to go by, and so no evidence.
        let mut model = Model::default();
        for _ in 0..2_000 {
            model.learn(nothing, SMALL, 40_000.0);
        }
        let ready = |size| model.price(Direction::Request, Leg { size, ..nothing }, &Weights::of(Goal::Balanced)).ready;
        assert!(ready(0) && !ready(1 << 22));
    }

    #[test]
    fn a_drift_of_all_ways_is_followed_and_does_not_change_choices() {
        let mut model = calibrated();
        let before = model.crossover(Direction::Request, Kind::Binary, Goal::MinimizeLatency, 0b011).unwrap();
        // Everything takes half as long again, and only inline is observed.
        for n in 0..30u64 {
            let size = 1 << (12 + n % 8);
            model.learn(leg(INLINE, size), SMALL, 1.5 * (truth(INLINE, size) + truth(INLINE, 20)));
        }
        let got = model.predict(leg(ZERO_COPY, 1 << 18), SMALL);
        let want = 1.5 * (truth(ZERO_COPY, 1 << 18) + truth(INLINE, 20));
        assert!((got / want).ln().abs() < 0.2, "{got} for {want}");
        let after = model.crossover(Direction::Request, Kind::Binary, Goal::MinimizeLatency, 0b011).unwrap();
        assert!(after.size * 2 >= before.size && after.size <= before.size * 2, "{before:?} {after:?}");
    }

    #[test]
    fn fresh_memory_is_priced_with_the_work_of_making_it() {
        let mut model = calibrated();
        let weights = Weights::of(Goal::MaximizeThroughput);
        for k in [20, 24, 25] {
            for _ in 0..3 {
                let cold = Leg { warm: false, ..leg(ZERO_COPY, 1 << k) };
                model.calibrate(Direction::Request, cold, 6e6 + truth(ZERO_COPY, 1 << k), 40_000.0);
                model.calibrate_cpu(Direction::Request, ZERO_COPY, 1 << k, truth(ZERO_COPY, 1 << k));
            }
        }
        let price = |warm| model.price(Direction::Request, Leg { warm, ..leg(ZERO_COPY, 1 << 24) }, &weights);
        assert!(price(false).ready);
        let more = price(false).cpu_ns - price(true).cpu_ns;
        assert!((4e6..8e6).contains(&more), "{more}");
    }

    #[test]
    fn goals_weigh_the_same_terms_differently() {
        let model = calibrated();
        let price = |way, goal| model.price(Direction::Request, leg(way, 1 << 24), &Weights::of(goal)).cost;
        assert!(price(GRPC, Goal::MinimizeMemory) > 2.0 * price(ZERO_COPY, Goal::MinimizeMemory));
        let calm = Weights::of(Goal::MinimizeLatency);
        assert_eq!(calm.under(0), calm);
        let pressed = calm.under(super::super::cost::MEMORY_PRESSURE);
        let leg = leg(GRPC, 1 << 24);
        assert!(model.price(Direction::Reply, leg, &pressed).cost > model.price(Direction::Reply, leg, &calm).cost);
    }
}
