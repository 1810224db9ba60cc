//! Decisions compiled to a table: one word for each direction, kind, warmth, load and bin of sizes.
//!
//! A word says all there is to say of its bin: the ways in order, why, and what each is expected to take. It is read by
//! one load, so that no reader sees half of an update; writers replace words one by one.

use super::cost::{Goal, LOADS, Weights};
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

/// The table of one pool.
pub struct Table {
    cells: Box<[AtomicU64]>,
}

impl Table {
    pub fn new(model: &Model, rules: &Rules) -> Self {
        let table = Self { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect() };
        table.compile(model, rules);
        table
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.cells.len() * 8
    }

    /// Replaces every cell. Meant for one writer at a time.
    pub fn compile(&self, model: &Model, rules: &Rules) {
        for direction in Direction::ALL {
            for kind in Kind::ALL {
                for warm in [false, true] {
                    for load in 0..LOADS as u8 {
                        for bin in 0..bins::COUNT {
                            let cell = decide(model, rules, direction, kind, warm, load, bins::middle(bin));
                            // Relaxed: a cell stands for itself.
                            self.cells[at(direction, kind, warm, load, bin)].store(cell.0, Ordering::Relaxed);
                        }
                    }
                }
            }
        }
    }

    /// The decision for a transfer of this size.
    pub fn look_up(&self, direction: Direction, kind: Kind, warm: bool, load: u8, size: u64) -> Cell {
        Cell(self.cells[at(direction, kind, warm, load, bins::of(size))].load(Ordering::Relaxed))
    }
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
    // Where nothing is compared: shared memory, or the simplest of the others.
    let shared_first = |shared| match (shared, is_allowed(INLINE)) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 5,
    };
    let fixed = |shared: bool, reason| Cell::new(shared_first(shared), reason, false, 1.0, latencies);

    if rules.minimum.is_some_and(|minimum| size < minimum) {
        return fixed(false, Reason::BelowMinimum);
    }
    if rules.maximum.is_some_and(|maximum| size >= maximum) {
        return fixed(true, Reason::AboveMaximum);
    }
    let threshold = rules.thresholds[kind as usize];
    if rules.overridden[kind as usize] {
        return fixed(size >= threshold, Reason::Override);
    }
    let other_is_ready = [INLINE, GRPC].into_iter().any(|way| is_allowed(way) && prices[way].ready);
    if !(is_allowed(ZERO_COPY) && prices[ZERO_COPY].ready && other_is_ready) {
        // Nobody knows when fresh memory pays.
        return Cell::new(shared_first(warm && size >= threshold), Reason::Rule, false, 0.0, latencies);
    }
    // Nobody's assumption beats a measurement.
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
    let explorable = load == 0 && second.cost <= first.cost * (1.0 + rules.bounded_loss);
    let order = ORDERS.iter().position(|o| *o == order).unwrap_or(0);
    Cell::new(order, reason, explorable, confidence, latencies)
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
