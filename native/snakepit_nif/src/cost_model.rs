//! A pool's cost_model: its table of decisions, read without a lock, and what it learns from, behind one.
//!
//! Calls decide and record; both are a few loads and stores. Everything else is for the processes that tend the cost model, and
//! runs on dirty schedulers, where it may wait for the lock.

use crate::atoms;
use rustler::{Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Resource, ResourceArc, Term};
use snakepit_core::cost_model::cost::{Goal, Weights};
use snakepit_core::cost_model::histogram::Histogram;
use snakepit_core::cost_model::model::{Leg, Model};
use snakepit_core::cost_model::ring::Ring;
use snakepit_core::cost_model::table::{Cell, Rules, Table};
use snakepit_core::cost_model::{Direction, GRPC, INLINE, Kind, WAYS, ZERO_COPY, bins};
use snakepit_core::locks::locked;
use std::cell::Cell as ThreadCell;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Records kept until they are drained; a power of two.
const RING: usize = 1 << 14;

struct Slow {
    model: Model,
    rules: Rules,
    /// Records of the ring that were learned from.
    taken: u64,
    latencies: Histogram,
    /// |actual − predicted| / actual, in thousandths.
    errors: Histogram,
    /// Of the second, the minute (or whatever the user aggregates by) and the hour that run.
    windows: [Window; WINDOWS],
}

const WINDOWS: usize = 3;

/// The calls of some time.
#[derive(Default)]
struct Window {
    latencies: Histogram,
    sum_ns: u64,
    sum_bytes: u64,
    failed: u64,
}

impl Window {
    fn add(&mut self, work_ns: u64, bytes: u64, ok: bool) {
        self.latencies.add(work_ns);
        self.sum_ns = self.sum_ns.saturating_add(work_ns);
        self.sum_bytes = self.sum_bytes.saturating_add(bytes);
        self.failed += u64::from(!ok);
    }

    fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.sum_bytes = self.sum_bytes.saturating_add(other.sum_bytes);
        self.failed += other.failed;
    }
}

pub struct CostModel {
    table: Table,
    ring: Ring,
    /// Bits of `cost::CPU_PRESSURE` and its like.
    load: AtomicU8,
    /// How often a way that costs little more is tried, of 2^32 decisions.
    exploration: AtomicU32,
    /// The ways there are for this pool, a bit for each.
    allowed: AtomicU8,
    /// By kind, in bytes: what decides where nothing was measured.
    thresholds: [AtomicU64; Kind::COUNT],
    /// The model's, when the table was compiled.
    version: AtomicU64,
    decisions: AtomicU64,
    explored: AtomicU64,
    slow: Mutex<Slow>,
}

#[rustler::resource_impl]
impl Resource for CostModel {}

type CostModelArc = ResourceArc<CostModel>;

impl CostModel {
    /// Not held on the way of a call.
    fn slow(&self) -> MutexGuard<'_, Slow> {
        locked(&self.slow)
    }

    fn compile(&self, slow: &Slow) {
        self.table.compile(&slow.model, &slow.rules);
        self.version.store(slow.model.version, Ordering::Relaxed);
    }

    fn cell(&self, to: u8, what: u8, warm: bool, size: u64, load: Option<u8>) -> NifResult<Cell> {
        let load = load.unwrap_or_else(|| self.load.load(Ordering::Relaxed));
        Ok(self.table.look_up(direction(to)?, kind(what)?, warm, load, size))
    }

    /// Counts a decision, and whether its second way is tried instead, with what probability:
    /// `order | explored << 3 | reason << 4 | propensity << 7`, the propensity of what was decided in 1/65,535.
    fn decide(&self, cell: Cell) -> u64 {
        self.decisions.fetch_add(1, Ordering::Relaxed);
        let rate = if cell.explorable() { self.exploration.load(Ordering::Relaxed) } else { 0 };
        let explored = rate != 0 && random() < rate;
        if explored {
            self.explored.fetch_add(1, Ordering::Relaxed);
        }
        let propensity = u64::from(if explored { rate >> 16 } else { 0xFFFF - (rate >> 16) });
        cell.0 & 7 | u64::from(explored) << 3 | (cell.0 >> 3 & 7) << 4 | propensity << 7
    }
}

fn direction(n: u8) -> NifResult<Direction> {
    Direction::from_u8(n).ok_or(Error::BadArg)
}

fn kind(n: u8) -> NifResult<Kind> {
    Kind::from_u8(n).ok_or(Error::BadArg)
}

fn goal(n: u8) -> NifResult<Goal> {
    Goal::from_u8(n).ok_or(Error::BadArg)
}

fn way(n: u8) -> NifResult<usize> {
    if (n as usize) < WAYS { Ok(n as usize) } else { Err(Error::BadArg) }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_new() -> CostModelArc {
    let model = Model::default();
    let rules = Rules {
        goal: Goal::Balanced,
        allowed: 0b111,
        minimum: None,
        maximum: None,
        thresholds: [u64::MAX; Kind::COUNT],
        overridden: [false; Kind::COUNT],
        tie: 0.05,
        bounded_loss: 0.25,
    };
    let table = Table::new(&model, &rules);
    let (latencies, errors) = (Histogram::default(), Histogram::default());
    ResourceArc::new(CostModel {
        table,
        ring: Ring::new(RING),
        load: AtomicU8::new(0),
        exploration: AtomicU32::new(0),
        allowed: AtomicU8::new(0b111),
        thresholds: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
        version: AtomicU64::new(0),
        decisions: AtomicU64::new(0),
        explored: AtomicU64::new(0),
        slow: Mutex::new(Slow { model, rules, taken: 0, latencies, errors, windows: Default::default() }),
    })
}

thread_local! {
    static RANDOM: ThreadCell<u64> = const { ThreadCell::new(0) };
}

/// xorshift64*: good enough to choose whom to explore, and a nanosecond.
fn random() -> u32 {
    RANDOM.with(|state| {
        let mut x = state.get();
        if x == 0 {
            x = (state as *const _ as u64) ^ 0x9E37_79B9_7F4A_7C15;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        (x.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    })
}

/// The decision of a call: see `CostModel::decide`.
#[rustler::nif]
fn cost_model_decide(cost_model: &CostModel, to: u8, what: u8, warm: bool, size: u64) -> NifResult<u64> {
    Ok(cost_model.decide(cost_model.cell(to, what, warm, size, None)?))
}

/// A decision, and what it rests on: `{decision, confidence, {ns, ns, ns}, threshold, model version}`.
#[rustler::nif]
#[allow(clippy::type_complexity, reason = "a tuple for Elixir")]
fn cost_model_consider(
    cost_model: &CostModel,
    to: u8,
    what: u8,
    warm: bool,
    size: u64,
) -> NifResult<(u64, f64, (u64, u64, u64), u64, u64)> {
    let cell = cost_model.cell(to, what, warm, size, None)?;
    let latencies = (cell.latency_ns(0), cell.latency_ns(1), cell.latency_ns(2));
    let threshold = cost_model.thresholds[what as usize].load(Ordering::Relaxed);
    Ok((cost_model.decide(cell), cell.confidence(), latencies, threshold, cost_model.version.load(Ordering::Relaxed)))
}

/// All a cell says, under a load (the present one without): `{order, reason, explorable?, confidence, {ns, ns, ns}}`.
#[rustler::nif]
#[allow(clippy::type_complexity, reason = "a tuple for Elixir")]
fn cost_model_cell(
    cost_model: &CostModel,
    to: u8,
    what: u8,
    warm: bool,
    size: u64,
    load: Option<u8>,
) -> NifResult<(u64, u64, bool, f64, (u64, u64, u64))> {
    let cell = cost_model.cell(to, what, warm, size, load)?;
    let latencies = (cell.latency_ns(0), cell.latency_ns(1), cell.latency_ns(2));
    Ok((cell.0 & 7, cell.0 >> 3 & 7, cell.explorable(), cell.confidence(), latencies))
}

const OK: u64 = 1 << 12;

/// What a call took beside its tool and its wait. `legs` is `request way | reply way << 2 | request kind << 4 |
/// reply kind << 7 | request warm << 10 | reply warm << 11 | ok << 12 | explored << 13 | propensity << 16`, the last two as
/// its decision has them; sizes are of what was carried: nothing, where it lay in shared memory already.
#[rustler::nif]
fn cost_model_record(cost_model: &CostModel, legs: u64, work_ns: u64, request_bytes: u64, reply_bytes: u64) -> Atom {
    cost_model.ring.add([legs, work_ns, request_bytes, reply_bytes]);
    atoms::ok()
}

fn legs(word: u64, request_bytes: u64, reply_bytes: u64) -> Option<(Leg, Leg)> {
    let leg = |way: u64, what: u64, warm: u64, size| {
        let way = (way & 3) as usize;
        (way < WAYS).then_some(Leg { way, kind: Kind::from_u8((what & 7) as u8)?, warm: warm & 1 == 1, size })
    };
    Some((leg(word, word >> 4, word >> 10, request_bytes)?, leg(word >> 2, word >> 7, word >> 11, reply_bytes)?))
}

/// A record as Elixir takes it: `{legs, ns beside tool and wait, request bytes, reply bytes, predicted ns}`.
type Row = (u64, u64, u64, u64, u64);

/// Counts the calls recorded since the last time, and learns from them if that is wanted: how many there were, how many of
/// them were learned from, and the latest of them.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_drain(cost_model: CostModelArc, learn: bool, most_rows: usize) -> (u64, u64, Vec<Row>) {
    let mut slow = cost_model.slow();
    let slow = &mut *slow;
    let (mut seen, mut learned) = (0, 0);
    let mut rows = std::collections::VecDeque::new();
    let mut drained = Window::default();
    slow.taken = cost_model.ring.take(slow.taken, |[word, work, request_bytes, reply_bytes]| {
        seen += 1;
        let Some((request, reply)) = legs(word, request_bytes, reply_bytes) else { return };
        let predicted = slow.model.predict(request, reply);
        drained.add(work, request_bytes.saturating_add(reply_bytes), word & OK != 0);
        if rows.len() == most_rows {
            rows.pop_front();
        }
        if most_rows > 0 {
            rows.push_back((word, work, request_bytes, reply_bytes, predicted as u64));
        }
        if word & OK == 0 || work == 0 {
            return;
        }
        slow.errors.add((1000.0 * (work as f64 - predicted).abs() / work as f64) as u64);
        if learn {
            slow.model.learn(request, reply, work as f64);
            learned += 1;
        }
    });
    if seen > 0 {
        slow.latencies.merge(&drained.latencies);
        slow.windows.iter_mut().for_each(|window| window.merge(&drained));
    }
    (seen, learned, rows.into())
}

/// `{count, failed, sum of ns, sum of bytes, percentiles}`
type Summary = (u64, u64, u64, u64, Vec<Option<u64>>);

/// The calls of a window (0: second, 1: minute, 2: hour): `{count, failed, sum of ns, sum of bytes, [p50, p95, p99, p99.9]}`.
/// With `over`, the next window begins.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_window(cost_model: CostModelArc, which: usize, over: bool) -> NifResult<Summary> {
    let mut slow = cost_model.slow();
    let window = slow.windows.get_mut(which).ok_or(Error::BadArg)?;
    let percentiles = [0.5, 0.95, 0.99, 0.999].map(|p| window.latencies.percentile(p)).to_vec();
    let said = (window.latencies.total(), window.failed, window.sum_ns, window.sum_bytes, percentiles);
    if over {
        *window = Window::default();
    }
    Ok(said)
}

/// Learns from a probe, which is nobody's call: it is not counted.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_probed(
    cost_model: CostModelArc,
    word: u64,
    work_ns: u64,
    request_bytes: u64,
    reply_bytes: u64,
) -> NifResult<Atom> {
    let (request, reply) = legs(word, request_bytes, reply_bytes).ok_or(Error::BadArg)?;
    cost_model.slow().model.learn(request, reply, work_ns as f64);
    Ok(atoms::ok())
}

/// What calls of such legs are expected to take beside tool and wait, in nanoseconds.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_predict(cost_model: CostModelArc, word: u64, request_bytes: u64, reply_bytes: u64) -> NifResult<f64> {
    let (request, reply) = legs(word, request_bytes, reply_bytes).ok_or(Error::BadArg)?;
    Ok(cost_model.slow().model.predict(request, reply))
}

/// How many times as long as usual calls take at the moment.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_drift_factor(cost_model: CostModelArc) -> f64 {
    cost_model.slow().model.drift_factor()
}

/// Compiles the table anew from what was learned.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_compile(cost_model: CostModelArc) -> Atom {
    cost_model.compile(&cost_model.slow());
    atoms::ok()
}

/// What the user has to say; the table is compiled with it.
#[rustler::nif(schedule = "DirtyCpu")]
#[allow(clippy::too_many_arguments, reason = "one for each field of `Rules`")]
fn cost_model_rules(
    cost_model: CostModelArc,
    aim: u8,
    allowed: u8,
    minimum: Option<u64>,
    maximum: Option<u64>,
    thresholds: Vec<u64>,
    overridden: Vec<bool>,
    tie: f64,
    bounded_loss: f64,
    exploration: f64,
) -> NifResult<Atom> {
    let thresholds: [u64; Kind::COUNT] = thresholds.try_into().map_err(|_| Error::BadArg)?;
    let overridden: [bool; Kind::COUNT] = overridden.try_into().map_err(|_| Error::BadArg)?;
    let mut slow = cost_model.slow();
    slow.rules = Rules { goal: goal(aim)?, allowed, minimum, maximum, thresholds, overridden, tie, bounded_loss };
    for (shown, threshold) in cost_model.thresholds.iter().zip(thresholds) {
        shown.store(threshold, Ordering::Relaxed);
    }
    cost_model.allowed.store(allowed, Ordering::Relaxed);
    cost_model.exploration.store((exploration.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32, Ordering::Relaxed);
    cost_model.compile(&slow);
    Ok(atoms::ok())
}

/// One measured call of which one direction carried `size` bytes, and the other next to nothing.
#[rustler::nif(schedule = "DirtyCpu")]
#[allow(clippy::too_many_arguments, reason = "a leg and its times")]
fn cost_model_calibrate(
    cost_model: CostModelArc,
    to: u8,
    by: u8,
    what: u8,
    warm: bool,
    size: u64,
    ns: f64,
    base_ns: f64,
) -> NifResult<Atom> {
    let leg = Leg { way: way(by)?, kind: kind(what)?, warm, size };
    cost_model.slow().model.calibrate(direction(to)?, leg, ns, base_ns);
    Ok(atoms::ok())
}

#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_calibrate_cpu(cost_model: CostModelArc, to: u8, by: u8, size: u64, ns: f64) -> NifResult<Atom> {
    cost_model.slow().model.calibrate_cpu(direction(to)?, way(by)?, size, ns);
    Ok(atoms::ok())
}

/// The end of a calibration: to this the past is forgotten.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_anchor(cost_model: CostModelArc) -> Atom {
    cost_model.slow().model.anchor();
    atoms::ok()
}

/// Bits: 1 CPU, 2 memory is scarce. Whether they are others than before.
#[rustler::nif]
fn cost_model_load(cost_model: &CostModel, bits: u8) -> bool {
    cost_model.load.swap(bits, Ordering::Relaxed) != bits
}

/// What each way usually costs: `[{{ns, low, high, samples}, {cpu ns, bytes held, cost, ready?}}]`, by number of the way.
#[rustler::nif(schedule = "DirtyCpu")]
#[allow(clippy::type_complexity, reason = "a tuple for Elixir")]
fn cost_model_prices(
    cost_model: CostModelArc,
    to: u8,
    what: u8,
    warm: bool,
    size: u64,
    aim: u8,
    load: u8,
) -> NifResult<Vec<((f64, f64, f64, u64), (f64, f64, f64, bool))>> {
    let (to, what, weights) = (direction(to)?, kind(what)?, Weights::of(goal(aim)?).under(load));
    let slow = cost_model.slow();
    Ok((0..WAYS)
        .map(|way| {
            let p = slow.model.price(to, Leg { way, kind: what, warm, size }, &weights);
            let l = p.latency;
            ((l.ns, l.low, l.high, l.samples), (p.cpu_ns, p.bytes_held, p.cost, p.ready))
        })
        .collect())
}

/// Nanoseconds, and nanoseconds a byte, and samples of the line by which such transfers are judged.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_line(
    cost_model: CostModelArc,
    to: u8,
    by: u8,
    what: u8,
    warm: bool,
    size: u64,
) -> NifResult<(f64, f64, u64)> {
    let leg = Leg { way: way(by)?, kind: kind(what)?, warm, size };
    let slow = cost_model.slow();
    let line = slow.model.line(direction(to)?, leg);
    let (a, b) = line.coefficients();
    Ok((a, b, line.samples()))
}

/// From which size on shared memory is the cheapest of the ways in `mask`: `{size, low, high}`, or nil.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_crossover(
    cost_model: CostModelArc,
    to: u8,
    what: u8,
    aim: u8,
    mask: u8,
) -> NifResult<Option<(u64, u64, u64)>> {
    let found = cost_model.slow().model.crossover(direction(to)?, kind(what)?, goal(aim)?, mask);
    Ok(found.map(|c| (c.size, c.low, c.high)))
}

/// The table of replies as a worker reads it: for each kind a byte per bin, 1 where shared memory that is warm comes
/// before the frame, or before gRPC where the frame is not allowed.
#[rustler::nif]
fn cost_model_reply_table<'a>(env: Env<'a>, cost_model: CostModelArc) -> Binary<'a> {
    let load = cost_model.load.load(Ordering::Relaxed);
    let other = if cost_model.allowed.load(Ordering::Relaxed) & (1 << INLINE) != 0 { INLINE } else { GRPC };
    let mut out = NewBinary::new(env, Kind::COUNT * bins::COUNT);
    for (i, byte) in out.as_mut_slice().iter_mut().enumerate() {
        let (what, bin) = (Kind::ALL[i / bins::COUNT], i % bins::COUNT);
        let order = cost_model.table.look_up(Direction::Reply, what, true, load, bins::start(bin)).order();
        let place = |way: usize| order.iter().position(|w| *w == way);
        *byte = u8::from(place(ZERO_COPY) < place(other));
    }
    out.into()
}

/// `{decisions, explored, recorded, dropped, model version, table bytes}`
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_counts(cost_model: CostModelArc) -> (u64, u64, u64, u64, u64, usize) {
    let (recorded, dropped) = cost_model.ring.counts();
    let version = cost_model.slow().model.version;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    (count(&cost_model.decisions), count(&cost_model.explored), recorded, dropped, version, cost_model.table.bytes())
}

/// Percentiles (0..1) of latencies in nanoseconds, and of the relative errors of predictions, in thousandths.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_percentiles(cost_model: CostModelArc, which: Vec<f64>) -> (Vec<Option<u64>>, Vec<Option<u64>>) {
    let slow = cost_model.slow();
    let of = |histogram: &Histogram| which.iter().map(|p| histogram.percentile(*p)).collect();
    (of(&slow.latencies), of(&slow.errors))
}

/// What was learned, for a file.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_export<'a>(env: Env<'a>, cost_model: CostModelArc) -> Binary<'a> {
    let bytes = cost_model.slow().model.to_bytes();
    let mut out = NewBinary::new(env, bytes.len());
    out.as_mut_slice().copy_from_slice(&bytes);
    out.into()
}

/// False for what `cost_model_export` cannot have made: nothing is changed then.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_import(cost_model: CostModelArc, bytes: Binary) -> bool {
    let Some(model) = Model::from_bytes(bytes.as_slice()) else { return false };
    let mut slow = cost_model.slow();
    slow.model = model;
    cost_model.compile(&slow);
    true
}

/// CPU time in nanoseconds of a process of ours, by `clock_getcpuclockid(3)`; nil if it is gone.
#[rustler::nif]
fn cpu_time<'a>(env: Env<'a>, pid: i32) -> Term<'a> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both are given places of their own to write to.
    let read = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
    if read { (time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64).encode(env) } else { atoms::nil().encode(env) }
}
