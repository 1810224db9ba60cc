//! Decisions compiled to a table: one word for each direction, kind, warmth, load and bin of sizes.
//!
//! A word says all there is to say of its bin: the ways in order, why, and what each is expected to take. It is read by
//! one load, so that no reader sees half of an update; writers replace words one by one.

use super::cost::{CPU_PRESSURE, Goal, LOADS, MEMORY_PRESSURE, Weights};
use super::model::{Leg, Model, Price};
use super::{Direction, GRPC, INLINE, Kind, WAYS, ZERO_COPY, bins};
use crate::sync::{AtomicU64, Ordering};

const CELLS: usize = 2 * Kind::COUNT * 2 * LOADS * bins::COUNT;

/// Why a way is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Nothing was measured: the threshold decides.
    Rule = 0,
    BelowMinimum = 1,
    AboveMaximum = 2,
    /// A threshold that somebody set.
    Override = 3,
    /// The least cost.
    Cheapest = 4,
    /// The cost is about the same, and this way the simplest.
    Tie = 5,
}

impl Reason {
    fn from_bits(bits: u64) -> Self {
        [Self::Rule, Self::BelowMinimum, Self::AboveMaximum, Self::Override, Self::Cheapest, Self::Tie]
            [bits as usize % 6]
    }
}

/// The rules of the user, or of spec/003, besides the measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub goal: Goal,
    /// The ways there are for this pool, a bit for each.
    pub allowed: u8,
    /// Below it never shared memory, from it on always; `None`: measurements decide.
    pub minimum: Option<u64>,
    pub maximum: Option<u64>,
    /// By kind: from which size on shared memory, until measurements say otherwise.
    pub thresholds: [u64; Kind::COUNT],
    /// By kind: whether that threshold holds whatever is measured.
    pub overridden: [bool; Kind::COUNT],
    /// The cheaper way must be cheaper by this share, or the simpler one is taken.
    pub tie: f64,
    /// At most this share dearer than the first, a way may be explored.
    pub bounded_loss: f64,
    /// Measurements decide where the first way is the best with at least this probability; elsewhere the thresholds do. 0:
    /// wherever something was measured; above 1: nowhere.
    pub bar: f64,
}

impl Rules {
    /// The same, where nothing is measured.
    pub fn without_measurements(&self) -> Self {
        Self { bar: f64::INFINITY, ..self.clone() }
    }
}

/// The way that was learned, where the rules choose another one that is not expected to take more than twice as long: a
/// comparison shall cost no more.
pub fn differ(learned: Cell, ruled: Cell, allowed: u8) -> Option<usize> {
    let first = |cell: Cell| cell.order().into_iter().find(|way| allowed & (1 << way) != 0);
    let (best, other) = (first(learned)?, first(ruled)?);
    (best != other && learned.latency_ns(other) <= 2 * learned.latency_ns(best)).then_some(best)
}

/// One bin's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell(pub u64);

const ORDERS: [[usize; WAYS]; 6] = [
    [INLINE, ZERO_COPY, GRPC],
    [ZERO_COPY, INLINE, GRPC],
    [INLINE, GRPC, ZERO_COPY],
    [ZERO_COPY, GRPC, INLINE],
    [GRPC, INLINE, ZERO_COPY],
    [GRPC, ZERO_COPY, INLINE],
];

/// A bit of a cell, behind those of its latencies: the rules' threshold lies inside of its bin, and decides.
const SPLIT: u64 = 1 << 61;
/// A bound of the rules lies inside of its bin. (Bit 62 is free.)
const BOUND: u64 = 1 << 63;

/// The order where nothing is compared: shared memory, or the simplest of the others.
fn shared_first(shared: bool, allowed: u8) -> usize {
    match (shared, allowed & (1 << INLINE) != 0) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 5,
    }
}

/// A threshold that nobody set, where resources are scarce: with little memory, shared memory is used for larger values only;
/// with little CPU, for smaller ones too, since it copies once where a frame is copied twice.
pub fn under(threshold: u64, load: u8) -> u64 {
    if load & MEMORY_PRESSURE != 0 {
        threshold.saturating_mul(4)
    } else if load & CPU_PRESSURE != 0 {
        threshold / 2
    } else {
        threshold
    }
}

impl Cell {
    fn new(order: usize, reason: Reason, explorable: bool, confidence: f64, latencies: [f64; WAYS]) -> Self {
        let mut word = order as u64
            | (reason as u64) << 3
            | u64::from(explorable) << 6
            | ((confidence.clamp(0.0, 1.0) * 63.0).round() as u64) << 7;
        for (way, ns) in latencies.into_iter().enumerate() {
            word |= u64::from(pack_ns(ns)) << (13 + 16 * way);
        }
        Self(word)
    }

    /// The ways, best first.
    pub fn order(self) -> [usize; WAYS] {
        ORDERS[(self.0 & 7) as usize % 6]
    }

    pub fn reason(self) -> Reason {
        Reason::from_bits(self.0 >> 3 & 7)
    }

    /// The same with another order and reason, which nothing is explored from.
    fn with(self, order: usize, reason: Reason) -> Self {
        Self(self.0 & !(0x7F | SPLIT | BOUND) | order as u64 | (reason as u64) << 3)
    }

    /// Whether trying the second way costs little.
    pub fn explorable(self) -> bool {
        self.0 >> 6 & 1 == 1
    }

    /// How likely the first way is the best.
    pub fn confidence(self) -> f64 {
        (self.0 >> 7 & 63) as f64 / 63.0
    }

    /// Nanoseconds that a way is expected to take for the size in the middle of the bin.
    pub fn latency_ns(self, way: usize) -> u64 {
        unpack_ns((self.0 >> (13 + 16 * way)) as u16)
    }
}

/// A number with six bits of exponent and ten of mantissa: right within a thousandth.
pub fn pack_ns(ns: f64) -> u16 {
    let ns = (ns as u64).clamp(1, 1 << 50);
    let k = ns.ilog2();
    let mantissa = if k >= 10 { ns >> (k - 10) } else { ns << (10 - k) } & 1023;
    (k << 10) as u16 | mantissa as u16
}

/// The nanoseconds that `pack_ns` packed.
pub fn unpack_ns(packed: u16) -> u64 {
    let (k, mantissa) = (u32::from(packed >> 10), u64::from(packed & 1023) | 1024);
    if k >= 10 { mantissa << (k - 10) } else { mantissa >> (10 - k) }
}

/// No value is as large.
pub const NEVER: u64 = 1 << 60;

/// From which size on shared memory comes first, and why at that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    pub size: u64,
    pub reason: Reason,
}

impl Threshold {
    /// In one word, which is read by one load.
    fn word(self) -> u64 {
        self.size << 3 | self.reason as u64
    }

    fn of(word: u64) -> Self {
        Self { size: word >> 3, reason: Reason::from_bits(word & 7) }
    }
}

/// The table of one pool.
pub struct Table {
    cells: Box<[AtomicU64]>,
    borders: Borders,
    /// What `threshold` says, by direction, kind and load: see `Threshold::word`.
    thresholds: [AtomicU64; 2 * Kind::COUNT * LOADS],
}

/// Those sizes of the rules that may lie inside of a bin: looked at where a cell says so.
struct Borders {
    minimum: AtomicU64,
    maximum: AtomicU64,
    thresholds: [AtomicU64; Kind::COUNT],
    allowed: AtomicU64,
}

impl Table {
    pub fn new(model: &Model, rules: &Rules) -> Self {
        let zero = || AtomicU64::new(0);
        let thresholds = std::array::from_fn(|_| zero());
        let borders = Borders { minimum: zero(), maximum: zero(), thresholds, allowed: zero() };
        let cells = std::iter::repeat_with(zero).take(CELLS).collect();
        let table = Self { cells, borders, thresholds: std::array::from_fn(|_| zero()) };
        table.compile(model, rules);
        table
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.cells.len() * 8
    }

    /// Replaces every cell. Meant for one writer at a time.
    pub fn compile(&self, model: &Model, rules: &Rules) {
        // Relaxed: a cell stands for itself, and a border that is a moment older or newer is one that the rules had.
        let borders = &self.borders;
        borders.minimum.store(rules.minimum.unwrap_or(0), Ordering::Relaxed);
        borders.maximum.store(rules.maximum.unwrap_or(u64::MAX), Ordering::Relaxed);
        borders.allowed.store(rules.allowed.into(), Ordering::Relaxed);
        for (border, threshold) in borders.thresholds.iter().zip(rules.thresholds) {
            border.store(threshold, Ordering::Relaxed);
        }
        for direction in Direction::ALL {
            for kind in Kind::ALL {
                for warm in [false, true] {
                    for load in 0..LOADS as u8 {
                        for bin in 0..bins::COUNT {
                            let cell = decide(model, rules, direction, kind, warm, load, bins::middle(bin));
                            self.cells[at(direction, kind, warm, load, bin)].store(cell.0, Ordering::Relaxed);
                        }
                    }
                }
                for load in 0..LOADS as u8 {
                    let word = self.found(direction, kind, load).word();
                    self.thresholds[threshold_at(direction, kind, load)].store(word, Ordering::Relaxed);
                }
            }
        }
    }

    /// The decision for a transfer of this size.
    pub fn look_up(&self, direction: Direction, kind: Kind, warm: bool, load: u8, size: u64) -> Cell {
        let cell = Cell(self.cells[at(direction, kind, warm, load, bins::of(size))].load(Ordering::Relaxed));
        if cell.0 & (SPLIT | BOUND) == 0 { cell } else { self.beside_border(cell, kind, load, size) }
    }

    /// The decision for a size in a bin that a border lies in.
    #[cold]
    fn beside_border(&self, cell: Cell, kind: Kind, load: u8, size: u64) -> Cell {
        let first = |shared, reason| {
            cell.with(shared_first(shared, self.borders.allowed.load(Ordering::Relaxed) as u8), reason)
        };
        if size < self.borders.minimum.load(Ordering::Relaxed) {
            return first(false, Reason::BelowMinimum);
        }
        if size >= self.borders.maximum.load(Ordering::Relaxed) {
            return first(true, Reason::AboveMaximum);
        }
        if cell.0 & SPLIT == 0 {
            return cell;
        }
        let threshold = self.threshold_of(kind);
        let threshold = if cell.reason() == Reason::Rule { under(threshold, load) } else { threshold };
        first(size >= threshold, cell.reason())
    }

    /// The rules' threshold for this kind.
    fn threshold_of(&self, kind: Kind) -> u64 {
        self.borders.thresholds[kind as usize].load(Ordering::Relaxed)
    }

    /// From which size on, up to 1 GiB, shared memory that is warm comes before the other ways: what calls do. [`NEVER`] if it
    /// does not at 1 GiB, and why.
    pub fn threshold(&self, direction: Direction, kind: Kind, load: u8) -> Threshold {
        Threshold::of(self.thresholds[threshold_at(direction, kind, load)].load(Ordering::Relaxed))
    }

    fn found(&self, direction: Direction, kind: Kind, load: u8) -> Threshold {
        let at = |size| self.look_up(direction, kind, true, load, size);
        let may_share = self.borders.allowed.load(Ordering::Relaxed) & (1 << ZERO_COPY) != 0;
        let is_shared = |size| may_share && at(size).order()[0] == ZERO_COPY;
        let last = |bin| bins::start(bin + 1) - 1;
        let Some(bin) = (0..=bins::of(1 << 30)).rev().take_while(|bin| is_shared(last(*bin))).last() else {
            return Threshold { size: NEVER, reason: at(1 << 30).reason() };
        };
        let threshold = self.threshold_of(kind);
        let (minimum, maximum) = (&self.borders.minimum, &self.borders.maximum);
        let inside =
            [threshold, under(threshold, load), minimum.load(Ordering::Relaxed), maximum.load(Ordering::Relaxed)];
        let inside = inside.into_iter().filter(|size| bins::of(*size) == bin);
        let size = inside.chain([bins::start(bin)]).filter(|size| is_shared(*size)).min().unwrap_or(last(bin));
        Threshold { size, reason: at(size).reason() }
    }
}

fn threshold_at(direction: Direction, kind: Kind, load: u8) -> usize {
    (direction as usize * Kind::COUNT + kind as usize) * LOADS + load as usize % LOADS
}

fn at(direction: Direction, kind: Kind, warm: bool, load: u8, bin: usize) -> usize {
    (((direction as usize * Kind::COUNT + kind as usize) * 2 + usize::from(warm)) * LOADS + (load as usize % LOADS))
        * bins::COUNT
        + bin
}

/// The decision for one size. The simplest way first: inline, shared memory, gRPC.
pub fn decide(model: &Model, rules: &Rules, direction: Direction, kind: Kind, warm: bool, load: u8, size: u64) -> Cell {
    let weights = Weights::of(rules.goal).under(load);
    let prices: [Price; WAYS] =
        std::array::from_fn(|way| model.price(direction, Leg { way, kind, warm, size }, &weights));
    let latencies = prices.map(|price| price.latency.ns);
    let is_allowed = |way: usize| rules.allowed & (1 << way) != 0;
    let bin = bins::of(size);
    let (start, end) = (bins::start(bin), bins::start(bin + 1));
    let is_inside = |border: u64| start < border && border < end;
    let bound = [rules.minimum, rules.maximum].into_iter().flatten().any(is_inside);
    let flags = if bound { BOUND } else { 0 };
    let cell = |shared, reason, confidence| {
        Cell(Cell::new(shared_first(shared, rules.allowed), reason, false, confidence, latencies).0 | flags)
    };
    if rules.minimum.is_some_and(|minimum| end <= minimum) {
        return cell(false, Reason::BelowMinimum, 1.0);
    }
    if rules.maximum.is_some_and(|maximum| start >= maximum) {
        return cell(true, Reason::AboveMaximum, 1.0);
    }
    let by_threshold = |threshold: u64, reason, confidence| {
        let split = if is_inside(threshold) { SPLIT } else { 0 };
        Cell(cell(start >= threshold, reason, confidence).0 | split)
    };
    let threshold = rules.thresholds[kind as usize];
    if rules.overridden[kind as usize] {
        return by_threshold(threshold, Reason::Override, 1.0);
    }
    let other_is_ready = [INLINE, GRPC].into_iter().any(|way| is_allowed(way) && prices[way].ready);
    if !(is_allowed(ZERO_COPY) && prices[ZERO_COPY].ready && other_is_ready) {
        // When fresh memory pays is not known.
        return if warm {
            by_threshold(under(threshold, load), Reason::Rule, 0.0)
        } else {
            cell(false, Reason::Rule, 0.0)
        };
    }
    // An assumed cost is never preferred to a measured one.
    let mut prices = prices;
    for (way, price) in prices.iter_mut().enumerate().filter(|(way, price)| !(is_allowed(*way) && price.ready)) {
        // Those that are allowed before those that are not.
        price.cost = if is_allowed(way) { f64::MAX } else { f64::INFINITY };
    }
    let cheapest = prices.iter().map(|price| price.cost).fold(f64::INFINITY, f64::min);
    let mut order: [usize; WAYS] = [INLINE, ZERO_COPY, GRPC];
    // Those within the tie band count as equal; the sort is stable, so that the simpler one stays first.
    let rank = |way: usize| if prices[way].cost <= cheapest * (1.0 + rules.tie) { 0.0 } else { prices[way].cost };
    order.sort_by(|a, b| rank(*a).total_cmp(&rank(*b)));
    let (first, second) = (&prices[order[0]], &prices[order[1]]);
    let reason = if first.cost > cheapest || second.cost <= cheapest * (1.0 + rules.tie) {
        Reason::Tie
    } else {
        Reason::Cheapest
    };
    let error = first.latency.log_error().hypot(second.latency.log_error()).max(1e-6);
    let confidence = normal((second.cost / first.cost).ln() / error);
    if confidence < rules.bar {
        return if warm {
            by_threshold(under(threshold, load), Reason::Rule, confidence)
        } else {
            cell(false, Reason::Rule, confidence)
        };
    }
    let explorable = load == 0 && second.cost <= first.cost * (1.0 + rules.bounded_loss);
    let order = ORDERS.iter().position(|o| *o == order).unwrap_or(0);
    Cell(Cell::new(order, reason, explorable, confidence, latencies).0 | flags)
}

/// The standard normal distribution, within 1e-4 (the logistic approximation of Bowling et al., 2009).
fn normal(z: f64) -> f64 {
    1.0 / (1.0 + (-0.07056 * z.powi(3) - 1.5976 * z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules {
            goal: Goal::MinimizeLatency,
            allowed: 0b111,
            minimum: None,
            maximum: None,
            thresholds: [10 << 20; Kind::COUNT],
            overridden: [false; Kind::COUNT],
            tie: 0.05,
            bounded_loss: 0.25,
            bar: 0.0,
        }
    }

    /// Crosses at 30,000 bytes.
    fn model() -> Model {
        let mut model = Model::default();
        for n in 0..400u64 {
            for (way, a, b) in [(INLINE, 20_000.0, 0.3), (ZERO_COPY, 26_000.0, 0.1)] {
                let size = 1 << (10 + n % 16);
                for direction in Direction::ALL {
                    let leg = Leg { way, kind: Kind::Tensor, warm: true, size };
                    model.calibrate(direction, leg, a + b * size as f64 + 10_000.0, 20_000.0);
                }
            }
        }
        model
    }

    fn first(table: &Table, size: u64) -> (usize, Reason) {
        let cell = table.look_up(Direction::Request, Kind::Tensor, true, 0, size);
        (cell.order()[0], cell.reason())
    }

    #[test]
    fn without_measurements_the_threshold_decides() {
        let table = Table::new(&Model::default(), &rules());
        assert_eq!(first(&table, 1 << 20), (INLINE, Reason::Rule));
        assert_eq!(first(&table, 11 << 20), (ZERO_COPY, Reason::Rule));
        let cold = table.look_up(Direction::Request, Kind::Tensor, false, 0, 11 << 20);
        assert_eq!(cold.order()[0], INLINE);
    }

    #[test]
    fn with_measurements_the_cheapest_and_near_the_crossover_the_simpler() {
        let table = Table::new(&model(), &rules());
        assert_eq!(first(&table, 1_000), (INLINE, Reason::Cheapest));
        assert_eq!(first(&table, 30_500), (INLINE, Reason::Tie));
        assert_eq!(first(&table, 200_000), (ZERO_COPY, Reason::Cheapest));
        let near = table.look_up(Direction::Reply, Kind::Tensor, true, 0, 30_500);
        let far = table.look_up(Direction::Reply, Kind::Tensor, true, 0, 10 << 20);
        assert!(near.explorable() && !far.explorable() && near.confidence() < far.confidence());
        assert!(
            (far.latency_ns(ZERO_COPY) as f64 / (26_000.0 + 0.1 * bins::middle(bins::of(10 << 20)) as f64)).ln().abs()
                < 0.1
        );
        // A kind that was never seen is judged by the others.
        assert_eq!(table.look_up(Direction::Request, Kind::Text, true, 0, 1 << 20).order()[0], ZERO_COPY);
    }

    #[test]
    fn without_inline_shared_memory_is_weighed_against_grpc() {
        let mut set = rules();
        set.allowed = 0b110;
        set.minimum = Some(4096);
        let first = |table: &Table, size| {
            table.look_up(Direction::Request, Kind::Tensor, true, 0, size).order().into_iter().find(|w| *w != INLINE)
        };
        // By the threshold, and below the minimum.
        let table = Table::new(&Model::default(), &set);
        assert_eq!((first(&table, 1 << 20), first(&table, 11 << 20)), (Some(GRPC), Some(ZERO_COPY)));
        // gRPC is measured, and cheaper up to 100,000 bytes.
        let mut model = Model::default();
        for n in 0..400u64 {
            for (way, a, b) in [(GRPC, 30_000.0, 0.3), (ZERO_COPY, 50_000.0, 0.1)] {
                let leg = Leg { way, kind: Kind::Tensor, warm: true, size: 1 << (10 + n % 16) };
                model.calibrate(Direction::Request, leg, a + b * leg.size as f64 + 10_000.0, 20_000.0);
            }
        }
        let table = Table::new(&model, &set);
        assert_eq!((first(&table, 2048), first(&table, 40_000)), (Some(GRPC), Some(GRPC)));
        assert_eq!(first(&table, 1 << 20), Some(ZERO_COPY));
        assert_eq!(table.look_up(Direction::Request, Kind::Tensor, true, 0, 1 << 20).reason(), Reason::Cheapest);
    }

    #[test]
    fn what_the_user_set_comes_first() {
        let mut set = rules();
        set.minimum = Some(1 << 20);
        set.maximum = Some(1 << 30);
        let table = Table::new(&model(), &set);
        assert_eq!(first(&table, 200_000), (INLINE, Reason::BelowMinimum));
        assert_eq!(first(&table, 2 << 30), (ZERO_COPY, Reason::AboveMaximum));
        assert_eq!(first(&table, 5 << 20), (ZERO_COPY, Reason::Cheapest));
        let mut set = rules();
        set.overridden[Kind::Tensor as usize] = true;
        let table = Table::new(&model(), &set);
        assert_eq!(first(&table, 1 << 20), (INLINE, Reason::Override));
        assert_eq!(first(&table, 10 << 20), (ZERO_COPY, Reason::Override));
    }

    #[test]
    fn a_threshold_is_exact_and_the_table_says_it() {
        let exact = |threshold: u64, overridden| {
            let set = Rules { thresholds: [threshold; Kind::COUNT], overridden: [overridden; Kind::COUNT], ..rules() };
            let table = Table::new(&Model::default(), &set);
            let reason = if overridden { Reason::Override } else { Reason::Rule };
            for size in [threshold.saturating_sub(1), threshold, threshold + 1] {
                let way = if size >= threshold { ZERO_COPY } else { INLINE };
                assert_eq!(first(&table, size), (way, reason), "{size} with {threshold}");
            }
            let said = table.threshold(Direction::Request, Kind::Tensor, 0);
            assert_eq!(said, Threshold { size: threshold, reason });
            let cold = table.look_up(Direction::Request, Kind::Tensor, false, 0, threshold);
            assert_eq!(cold.order()[0] == ZERO_COPY, overridden);
        };
        for threshold in [1, 3, 4, 5_000, 65_536, 65_537, 300_000, (10 << 20) - 1, 10 << 20, 1 << 30] {
            exact(threshold, false);
            exact(threshold, true);
        }
        // Scarce resources move one that nobody set, and no other.
        for (load, size) in [(CPU_PRESSURE, 150_000), (MEMORY_PRESSURE, 1_200_000), (3, 1_200_000)] {
            let set = |overridden| Rules { thresholds: [300_000; 5], overridden: [overridden; 5], ..rules() };
            let at = |set| Table::new(&Model::default(), &set).threshold(Direction::Request, Kind::Tensor, load);
            assert_eq!(at(set(false)), Threshold { size, reason: Reason::Rule });
            assert_eq!(at(set(true)), Threshold { size: 300_000, reason: Reason::Override });
        }
        // Without inline, gRPC comes before it.
        let set = Rules { allowed: 0b110, thresholds: [300_000; Kind::COUNT], ..rules() };
        let table = Table::new(&Model::default(), &set);
        let order = |size| table.look_up(Direction::Request, Kind::Tensor, true, 0, size).order();
        assert_eq!((order(299_999)[0], order(300_000)[0]), (GRPC, ZERO_COPY));
    }

    #[test]
    fn bounds_are_exact() {
        let set = Rules { minimum: Some(300_001), maximum: Some(700_001), thresholds: [500_001; 5], ..rules() };
        let check = |table: &Table, below: Reason, between: Reason| {
            for (size, way, reason) in [
                (300_000, INLINE, Reason::BelowMinimum),
                (300_001, if between == Reason::Rule { INLINE } else { ZERO_COPY }, below),
                (500_001, ZERO_COPY, between),
                (700_000, ZERO_COPY, between),
                (700_001, ZERO_COPY, Reason::AboveMaximum),
            ] {
                assert_eq!(first(table, size), (way, reason), "{size}");
            }
        };
        check(&Table::new(&Model::default(), &set), Reason::Rule, Reason::Rule);
        let measured = Table::new(&model(), &set);
        check(&measured, Reason::Cheapest, Reason::Cheapest);
        let found = measured.threshold(Direction::Request, Kind::Tensor, 0);
        assert_eq!(found, Threshold { size: 300_001, reason: Reason::Cheapest });
    }

    #[test]
    fn a_measured_threshold_is_where_the_table_changes_its_mind() {
        let table = Table::new(&model(), &rules());
        let Threshold { size, reason } = table.threshold(Direction::Request, Kind::Tensor, 0);
        assert!((30_000..60_000).contains(&size) && reason == Reason::Cheapest, "{size} {reason:?}");
        assert_eq!((first(&table, size).0, first(&table, size - 1).0), (ZERO_COPY, INLINE));
        let below = Rules { minimum: Some(1 << 31), ..rules() };
        let never = |set| Table::new(&model(), &set).threshold(Direction::Request, Kind::Tensor, 0).size == NEVER;
        assert!(never(below) && never(Rules { allowed: 0b101, ..rules() }));
    }

    #[test]
    fn a_comparison_is_made_where_the_rules_choose_otherwise_and_not_far_dearer() {
        let (learned, ruled) = (Table::new(&model(), &rules()), Table::new(&model(), &rules().without_measurements()));
        let at = |table: &Table, size| table.look_up(Direction::Request, Kind::Tensor, true, 0, size);
        let found = |size, allowed| differ(at(&learned, size), at(&ruled, size), allowed);
        assert_eq!(found(60_000, 0b111), Some(ZERO_COPY));
        // They agree; it would take three times as long; there is no other way.
        assert_eq!((found(2_000, 0b111), found(5 << 20, 0b111), found(60_000, 0b010)), (None, None, None));
    }

    #[test]
    fn measurements_decide_where_they_are_certain_enough() {
        let at = |bar| Table::new(&model(), &Rules { bar, ..rules() });
        let (all, sure, none) = (at(0.0), at(0.9), at(1.1));
        assert_eq!((first(&all, 30_500).1, first(&sure, 30_500).1), (Reason::Tie, Reason::Rule));
        assert_eq!((first(&all, 200_000).0, first(&sure, 200_000).0), (ZERO_COPY, ZERO_COPY));
        assert_eq!(first(&none, 200_000), (INLINE, Reason::Rule));
        assert_eq!(
            none.threshold(Direction::Request, Kind::Tensor, 0),
            Threshold { size: 10 << 20, reason: Reason::Rule }
        );
    }

    #[test]
    fn pressure_moves_the_choice() {
        let mut model = model();
        for n in 0..100u64 {
            let size = 1 << (10 + n % 16);
            // Shared memory burns twice the CPU here.
            model.calibrate_cpu(Direction::Request, INLINE, size, 10_000.0 + 0.1 * size as f64);
            model.calibrate_cpu(Direction::Request, ZERO_COPY, size, 20_000.0 + 0.4 * size as f64);
        }
        let table = Table::new(&model, &rules());
        let calm = table.look_up(Direction::Request, Kind::Tensor, true, 0, 1 << 20);
        let busy = table.look_up(Direction::Request, Kind::Tensor, true, super::super::cost::CPU_PRESSURE, 1 << 20);
        assert_eq!((calm.order()[0], busy.order()[0]), (ZERO_COPY, INLINE));
        assert!(!busy.explorable());
    }

    #[test]
    fn who_reads_while_it_is_compiled_sees_the_one_or_the_other() {
        let (model, mut shared, mut inline) = (model(), rules(), rules());
        shared.thresholds = [0; Kind::COUNT];
        shared.overridden = [true; Kind::COUNT];
        inline.minimum = Some(u64::MAX);
        let (table, done) = (Table::new(&model, &shared), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..20).for_each(|n| table.compile(&model, if n % 2 == 0 { &inline } else { &shared }));
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            let mut seen = [false; 2];
            for n in 0u64.. {
                let cell = table.look_up(
                    Direction::ALL[n as usize % 2],
                    Kind::ALL[n as usize % 5],
                    n % 3 == 0,
                    n as u8,
                    1 << (n % 40),
                );
                match (cell.order()[0], cell.reason()) {
                    (ZERO_COPY, Reason::Override) => seen[0] = true,
                    (INLINE, Reason::BelowMinimum) => seen[1] = true,
                    torn => panic!("{torn:?}"),
                }
                if n > 1000 && done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
            assert_eq!(seen, [true; 2]);
        });
    }

    proptest! {
        #[test]
        fn a_time_survives_packing(ns in 1.0f64..1e15) {
            let back = unpack_ns(pack_ns(ns)) as f64;
            prop_assert!((back - ns).abs() <= ns / 500.0 + 1.0, "{back} for {ns}");
        }

        #[test]
        fn a_cell_says_what_it_was_made_of(order in 0usize..6, reason in 0u64..6, explorable: bool, confidence in 0.0f64..=1.0) {
            let reason = Reason::from_bits(reason);
            let cell = Cell::new(order, reason, explorable, confidence, [1e3, 1e6, 1e9]);
            prop_assert_eq!(cell.order(), ORDERS[order]);
            prop_assert_eq!((cell.reason(), cell.explorable()), (reason, explorable));
            prop_assert!((cell.confidence() - confidence).abs() < 0.01);
            prop_assert!((0..WAYS).all(|way| cell.latency_ns(way).abs_diff(1000u64.pow(way as u32 + 1)) * 500 < 1000u64.pow(way as u32 + 1)));
        }
    }
}
