//! Simulated worlds whose truth is known: what each way takes, without noise, is a formula, so that a choice is right or
//! wrong, and by how much. The model that learns in them is the real one, with its table, its drift test and its holdout.
//!
//! Beside the formula there is noise of each call (its logarithm is normal), stalls of one call in a hundred, and what the
//! world is named for. It is a pool with 200 calls a second: once a second its table is made anew. Beside one call in fifty there
//! is a probe of the way that was not taken; where the drift test has given an alarm, beside each of the next hundred.

use rustler::{NifMap, NifUnitEnum};
use snakepit_core::cost_model::cost::Goal;
use snakepit_core::cost_model::drift::{Drift, NOTHING, Step};
use snakepit_core::cost_model::model::{Leg, Model};
use snakepit_core::cost_model::table::{Rules, Table, differ};
use snakepit_core::cost_model::{Direction, INLINE, Kind, ZERO_COPY};
use snakepit_core::sequential::means::{Two, Verdict};

/// Calls between two compilations of the table.
const EACH: u64 = 200;
/// So many probes of other ways follow an alarm.
const BURST: u64 = 100;
/// One call in so many is a probe.
const PROBE: u64 = 50;
const EXPLORATION: f64 = 0.05;
const HOLDOUT: f64 = 0.01;
const NOISE: f64 = 0.15;
/// The share of a cost within which two ways count as equal.
const TIE: f64 = 0.05;
const BASE_NS: f64 = 20_000.0;

#[derive(Clone, Copy, PartialEq, Eq, NifUnitEnum)]
enum World {
    Stationary,
    SlopeDoubles,
    OtherHardware,
    Load,
    TwoTenants,
    AdversarialSizes,
    /// Both ways take the same: whichever was learned is no worse.
    Equal,
}

/// A run: `calls` in all, the world changes at `change`.
#[derive(NifMap)]
struct Run {
    /// (time by the chosen ways − time by the best) / time by the best, over all calls, and over the 1,000 after the change, in
    /// percent.
    regret_percent: f64,
    regret_after_percent: f64,
    /// The share of right choices among those that were free, where the ways differ by more than the tie band.
    correct: f64,
    /// First alarms of the drift test before the change, and calls from the change to the first one after it.
    alarms_before: u64,
    delay: Option<u64>,
    restored: u64,
    /// Whether what was learned was found to be worse than the rules.
    rolled_back: bool,
}

/// xorshift64*.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A size, as likely in each doubling.
    fn size(&mut self, low: f64, high: f64) -> u64 {
        (low + (high - low) * self.uniform()).exp2() as u64
    }
}

struct Simulation {
    world: World,
    change: u64,
    at: u64,
    noise: Noise,
}

impl Simulation {
    /// Nanoseconds by a way: fixed ones, and for each byte.
    fn truth(&self, way: usize, size: u64) -> f64 {
        let changed = self.at >= self.change;
        let (inline, shared) = match self.world {
            World::SlopeDoubles if changed => ((12_000.0, 0.15), (15_000.0, 0.16)),
            World::OtherHardware if changed => ((30_000.0, 0.05), (9_000.0, 0.1)),
            World::Equal => ((13_000.0, 0.1), (13_000.0, 0.1)),
            _ => ((12_000.0, 0.15), (15_000.0, 0.05)),
        };
        let (fixed, each) = if way == INLINE { inline } else { shared };
        fixed + each * size as f64
    }

    /// The truth of a call at this moment, whose reply carries next to nothing.
    fn call(&self, way: usize, size: u64) -> f64 {
        // The machine is busy half of the time.
        let busy = self.world == World::Load && self.at / 700 % 2 == 1;
        (self.truth(way, size) + BASE_NS / 2.0) * if busy { 2.0 } else { 1.0 }
    }

    fn measured(&mut self, way: usize, size: u64) -> f64 {
        let stall = if self.noise.uniform() < 0.01 { 1.0 + 9.0 * self.noise.uniform() } else { 1.0 };
        self.call(way, size) * stall * (NOISE * self.noise.normal()).exp()
    }

    fn size(&mut self) -> u64 {
        match self.world {
            // One sends small values all the time, the other large ones in bursts.
            World::TwoTenants if self.at / 150 % 4 == 3 => self.noise.size(20.0, 25.0),
            World::TwoTenants => self.noise.size(11.0, 15.0),
            // Around the crossover, at both ends of its bins, and far away in between.
            World::AdversarialSizes => [28_000, 32_767, 32_768, 40_959, 40_960, 1 << 26, 256][(self.at % 7) as usize],
            _ => self.noise.size(10.0, 24.0),
        }
    }
}

fn leg(way: usize, size: u64) -> Leg {
    Leg { way, kind: Kind::Binary, warm: true, size }
}

/// As a pool is calibrated when it starts.
fn calibrate(simulation: &mut Simulation, model: &mut Model) {
    for (sizes, rounds) in [(12..20, 25), (20..22, 20), (22..24, 8), (24..25, 4)] {
        for size in sizes.step_by(2).map(|k| 1u64 << k) {
            for _ in 0..rounds {
                for way in [INLINE, ZERO_COPY] {
                    let there = simulation.measured(way, size);
                    model.calibrate(Direction::Request, leg(way, size), there, BASE_NS);
                    model.calibrate(Direction::Reply, leg(way, size), there, BASE_NS);
                }
            }
        }
    }
    for _ in 0..40 {
        for direction in Direction::ALL {
            model.calibrate(direction, NOTHING, BASE_NS, BASE_NS);
        }
    }
    model.anchor();
}

#[rustler::nif(schedule = "DirtyCpu")]
fn simulated(world: World, seed: u64, calls: u64, change: u64) -> Run {
    let noise = Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut simulation = Simulation { world, change, at: 0, noise };
    let rules = Rules {
        goal: Goal::MinimizeLatency,
        allowed: 0b011,
        minimum: None,
        maximum: None,
        thresholds: [10 << 20; Kind::COUNT],
        overridden: [false; Kind::COUNT],
        tie: TIE,
        bounded_loss: 0.25,
        bar: 0.0,
    };
    let mut model = Model::default();
    calibrate(&mut simulation, &mut model);
    let mut drift = Drift::new(&model);
    let (table, ruled) = (Table::new(&model, &rules), Table::new(&model, &rules.without_measurements()));
    let mut compared = Two::default();
    let (mut spent, mut best, mut after) = (0.0, 0.0, (0.0, 0.0));
    let (mut free, mut right) = (0u64, 0u64);
    let (mut alarmed, mut burst) = (false, 0u64);
    let mut run = Run {
        regret_percent: 0.0,
        regret_after_percent: 0.0,
        correct: 1.0,
        alarms_before: 0,
        delay: None,
        restored: 0,
        rolled_back: false,
    };
    for at in 0..calls {
        simulation.at = at;
        let size = simulation.size();
        let look = |table: &Table| table.look_up(Direction::Request, Kind::Binary, true, 0, size);
        let (cell, by_rules) = (look(&table), look(&ruled));
        let differs = differ(cell, by_rules, rules.allowed);
        let held_out = differs.is_some() && simulation.noise.uniform() < HOLDOUT;
        let explored = !held_out && cell.explorable() && simulation.noise.uniform() < EXPLORATION;
        let order = if held_out { by_rules.order() } else { cell.order() };
        let way = if explored { order[1] } else { order[0] };
        let ns = simulation.measured(way, size);
        let truths = [INLINE, ZERO_COPY].map(|way| simulation.call(way, size));
        let least = truths[0].min(truths[1]);
        spent += truths[way];
        best += least;
        if (change..change + 1_000).contains(&at) {
            after = (after.0 + truths[way], after.1 + least);
        }
        if !held_out && !explored && (truths[0] / truths[1]).ln().abs() > TIE {
            free += 1;
            right += u64::from(truths[way] <= least);
        }
        if let Some(learned) = differs.filter(|_| !explored) {
            let predicted =
                cell.latency_ns(learned) + table.look_up(Direction::Reply, Kind::Mixed, true, 0, 20).latency_ns(INLINE);
            let over = (ns / model.drift_factor() / predicted as f64).ln();
            if held_out { compared.second.add(over) } else { compared.first.add(over) }
        }
        let event = drift.learn(&mut model, leg(way, size), NOTHING, ns);
        if let Some(event) = event {
            match event.step {
                Step::Widened if at < change => run.alarms_before += 1,
                Step::Widened => run.delay = run.delay.or(Some(at - change)),
                Step::Restored => run.restored += 1,
                Step::Accepted => {}
            }
            alarmed |= event.step == Step::Widened;
        }
        if at % PROBE == PROBE - 1 || burst > 0 {
            burst = burst.saturating_sub(1);
            let other = if way == INLINE { ZERO_COPY } else { INLINE };
            let ns = simulation.measured(other, size);
            drift.learn(&mut model, leg(other, size), NOTHING, ns);
        }
        if at % EACH == EACH - 1 {
            if std::mem::take(&mut alarmed) {
                burst = BURST;
            }
            table.compile(&model, &rules);
            ruled.compile(&model, &rules.without_measurements());
            run.rolled_back |= compared.verdict(0.01) == Verdict::SecondIsLess;
        }
    }
    let percent = |spent: f64, best: f64| if best > 0.0 { 100.0 * (spent / best - 1.0) } else { 0.0 };
    run.regret_percent = percent(spent, best);
    run.regret_after_percent = percent(after.0, after.1);
    run.correct = if free > 0 { right as f64 / free as f64 } else { 1.0 };
    run
}
