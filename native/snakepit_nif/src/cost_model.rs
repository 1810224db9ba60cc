//! A pool's cost model: its table of decisions, read without a lock, and what it learns from, behind one.
//!
//! Calls decide and record; both are a few loads and stores. Everything else is for the processes that tend the cost
//! model, and runs on dirty schedulers, where it may wait for the lock.
//!
//! Elixir passes names (`terms.rs`), never numbers: `Snakepit.Performance.Model` is the only module that calls this.

mod terms;

use crate::atoms;
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Binary, Encoder, Env, Error, NewBinary, NifResult, Resource, ResourceArc, Term};
use snakepit_core::cost_model::cost::Weights;
use snakepit_core::cost_model::drift::{self, Drift};
use snakepit_core::cost_model::histogram::Histogram;
use snakepit_core::cost_model::line::READY;
use snakepit_core::cost_model::model::{Leg, Model};
use snakepit_core::cost_model::outcomes::Outcomes;
use snakepit_core::cost_model::ring::Ring;
use snakepit_core::cost_model::table::{self, Reason, Rules, Table, pack_ns, unpack_ns};
use snakepit_core::cost_model::{Direction, GRPC, INLINE, Kind, WAYS, ZERO_COPY, bins};
use snakepit_core::locks::locked;
use snakepit_core::sequential::means::{Two, Verdict};
use snakepit_core::sequential::page_hinkley::Shift;
use std::cell::Cell;
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
    outcomes: Outcomes,
    /// Looks for shifts of the costs; what it found since somebody asked last.
    drift: Option<Drift>,
    drifted: Vec<drift::Event>,
    /// Calls for which the rules would choose another way than was learned: logarithms of what they took over what the
    /// learned way was predicted to take. First those that went the learned way, second those that went by the rules.
    compared: Two,
    /// The windows of the running second, minute (or whatever the user aggregates by) and hour.
    windows: [Window; WINDOWS],
}

impl Slow {
    fn learn(&mut self, request: Leg, reply: Leg, ns: f64) {
        let Some(drift) = &mut self.drift else { return self.model.learn(request, reply, ns) };
        if let Some(event) = drift.learn(&mut self.model, request, reply, ns)
            && self.drifted.len() < DRIFTED
        {
            self.drifted.push(event);
        }
    }

    /// The present model was measured, or read from a file: it is the one that calls are compared with.
    fn is_good(&mut self) {
        self.drift = self.drift.is_some().then(|| Drift::new(&self.model));
        self.compared = Two::default();
    }
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

/// Events of drift that are kept until somebody asks; they are rare.
const DRIFTED: usize = 64;

pub struct CostModel {
    table: Table,
    /// The same by the rules alone: for the holdout.
    ruled: Table,
    /// How many of 2^32 decisions are held out.
    holdout: AtomicU32,
    ring: Ring,
    /// The resources that are scarce: see `terms::load`.
    load: AtomicU8,
    /// How often a way that costs little more is tried, of 2^32 decisions.
    exploration: AtomicU32,
    /// The ways there are for this pool, a bit for each.
    allowed: AtomicU8,
    /// The model's, when the table was compiled.
    version: AtomicU64,
    /// The model's drift factor, as the bits of an f64, when it last learned.
    drift_factor: AtomicU64,
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
        self.ruled.compile(&slow.model, &slow.rules.without_measurements());
        self.version.store(slow.model.version, Ordering::Relaxed);
    }

    /// Makes known how slow the machine is at present.
    fn learned(&self, slow: &Slow) {
        self.drift_factor.store(slow.model.drift_factor().to_bits(), Ordering::Relaxed);
    }

    fn load(&self) -> u8 {
        self.load.load(Ordering::Relaxed)
    }

    /// Adds a call to the comparison of what was learned with the rules, if the two differ for it.
    fn compare(&self, compared: &mut Two, drift_factor: f64, request: Leg, reply: Leg, word: u64, ns: f64) {
        let (kind, warm, size) = (request.kind, request.warm, request.size);
        let allowed = self.allowed.load(Ordering::Relaxed);
        let at = |table: &Table| table.look_up(Direction::Request, kind, warm, self.load(), size);
        let learned = at(&self.table);
        let Some(best) = table::differ(learned, at(&self.ruled), allowed) else { return };
        let predicted = learned.latency_ns(best) + self.latency_ns(Direction::Reply, reply);
        let over = (ns / drift_factor / predicted as f64).ln();
        if word & HELD_OUT != 0 {
            compared.second.add(over);
        } else if request.way == best {
            compared.first.add(over);
        }
    }

    fn latency_ns(&self, direction: Direction, leg: Leg) -> u64 {
        self.table.look_up(direction, leg.kind, leg.warm, 0, leg.size).latency_ns(leg.way)
    }
}

/// Bytes of a result that carries nothing.
const NOTHING: u64 = 20;

#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_new(rules: terms::Rules) -> NifResult<CostModelArc> {
    let (exploration, holdout, watched) = (rules.exploration, rules.holdout, rules.drift);
    let rules = rules.decoded()?;
    let model = Model::default();
    let (table, by_rules) = (Table::new(&model, &rules), Table::new(&model, &rules.without_measurements()));
    let (latencies, errors) = (Histogram::default(), Histogram::default());
    let cost_model = ResourceArc::new(CostModel {
        table,
        ruled: by_rules,
        holdout: AtomicU32::new(0),
        ring: Ring::new(RING),
        load: AtomicU8::new(0),
        exploration: AtomicU32::new(0),
        allowed: AtomicU8::new(0),
        version: AtomicU64::new(0),
        drift_factor: AtomicU64::new(1f64.to_bits()),
        decisions: AtomicU64::new(0),
        explored: AtomicU64::new(0),
        slow: Mutex::new(Slow {
            model,
            rules: rules.clone(),
            taken: 0,
            latencies,
            errors,
            outcomes: Outcomes::default(),
            drift: watched.then(Drift::default),
            drifted: Vec::new(),
            compared: Two::default(),
            windows: Default::default(),
        }),
    });
    cost_model.show(&rules, exploration, holdout);
    Ok(cost_model)
}

impl CostModel {
    /// Sets the values that are read without the lock.
    fn show(&self, rules: &Rules, exploration: f64, holdout: f64) {
        let share = |of: f64| (of.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        self.allowed.store(rules.allowed, Ordering::Relaxed);
        self.exploration.store(share(exploration), Ordering::Relaxed);
        self.holdout.store(share(holdout), Ordering::Relaxed);
    }
}

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(0) };
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

/// The ways a transfer may take, best first, and what that rests on:
/// `{ways, reason, explored?, propensity, {ns, ns, ns}, confidence, threshold, model version, make memory?}`.
///
/// `allowed` is a mask of ways. A `preferred` way that is allowed comes first, and nothing is explored. `make memory?`:
/// shared memory is the cheapest of the allowed ways even if it has to be made first. `threshold`: from which size on shared
/// memory comes first now, 2^60 if it does not at 1 GiB.
#[rustler::nif]
#[allow(clippy::too_many_arguments, reason = "read on the way of every call: decoding a struct would cost more")]
fn cost_model_decide<'a>(
    env: Env<'a>,
    cost_model: &CostModel,
    to: terms::Direction,
    what: terms::Type,
    warm: bool,
    size: u64,
    allowed: u8,
    preferred: Option<terms::Way>,
    mode: terms::Mode,
) -> Term<'a> {
    let (direction, kind, load) = (to.into(), what.into(), cost_model.load());
    let cell = cost_model.table.look_up(direction, kind, warm, load, size);
    let is_allowed = |way: usize| allowed & (1 << way) != 0;
    let preferred = preferred.map(usize::from).filter(|way| is_allowed(*way));
    let held_out =
        if mode == terms::Mode::Look || preferred.is_some() { 0 } else { cost_model.holdout.load(Ordering::Relaxed) };
    if held_out != 0 && random() < held_out {
        let ruled = cost_model.ruled.look_up(direction, kind, warm, load, size);
        if table::differ(cell, ruled, allowed).is_some() {
            cost_model.decisions.fetch_add(1, Ordering::Relaxed);
            let share = f64::from(held_out) / f64::from(u32::MAX);
            return decision(
                env,
                cost_model,
                to,
                what,
                size,
                ruled,
                ruled.order(),
                allowed,
                terms::Reason::Holdout,
                (false, share),
            );
        }
    }
    let mut order = cell.order();
    // Only between the two ways that the table compared.
    let is_open = preferred.is_none() && cell.explorable() && is_allowed(order[0]) && is_allowed(order[1]);
    let rate = if is_open && mode != terms::Mode::Look { cost_model.exploration.load(Ordering::Relaxed) } else { 0 };
    let explored = rate != 0 && random() < rate;
    let share = f64::from(rate) / f64::from(u32::MAX);
    let propensity = if explored { share } else { 1.0 - share };
    if let Some(at) = preferred.and_then(|way| order.iter().position(|other| *other == way)) {
        order[..=at].rotate_right(1);
    }
    if explored {
        order.swap(0, 1);
    }
    // Whether it explored is counted once that was carried out: see `cost_model_record`.
    if mode != terms::Mode::Look {
        cost_model.decisions.fetch_add(1, Ordering::Relaxed);
    }
    let reason = if preferred.is_some() { terms::Reason::CustomRule } else { cell.reason().into() };
    decision(env, cost_model, to, what, size, cell, order, allowed, reason, (explored, propensity))
}

#[expect(clippy::too_many_arguments, reason = "everything of a decision")]
fn decision<'a>(
    env: Env<'a>,
    cost_model: &CostModel,
    to: terms::Direction,
    what: terms::Type,
    size: u64,
    cell: table::Cell,
    order: [usize; WAYS],
    allowed: u8,
    reason: terms::Reason,
    (explored, propensity): (bool, f64),
) -> Term<'a> {
    let (direction, kind, load) = (to.into(), what.into(), cost_model.load());
    let is_allowed = |way: usize| allowed & (1 << way) != 0;
    let cold = cost_model.table.look_up(direction, kind, false, load, size);
    let make = matches!(cold.reason(), Reason::Cheapest | Reason::Tie)
        && cold.order().into_iter().find(|way| is_allowed(*way)) == Some(ZERO_COPY);
    let threshold = cost_model.table.threshold(direction, kind, load);
    let mut ways = Term::list_new_empty(env);
    for way in order.into_iter().rev().filter(|way| is_allowed(*way)) {
        ways = ways.list_prepend(terms::Way::from(way).encode(env));
    }
    make_tuple(
        env,
        &[
            ways,
            reason.encode(env),
            explored.encode(env),
            propensity.encode(env),
            (cell.latency_ns(INLINE), cell.latency_ns(ZERO_COPY), cell.latency_ns(GRPC)).encode(env),
            cell.confidence().encode(env),
            threshold.size.encode(env),
            cost_model.version.load(Ordering::Relaxed).encode(env),
            make.encode(env),
        ],
    )
}

/// The cell of the table for a transfer under a load (the present one without).
#[rustler::nif]
fn cost_model_cell(
    cost_model: &CostModel,
    to: terms::Direction,
    what: terms::Type,
    warm: bool,
    size: u64,
    load: Option<terms::Load>,
) -> terms::Cell {
    let load = load.map_or_else(|| cost_model.load(), terms::load);
    cost_model.table.look_up(to.into(), what.into(), warm, load, size).into()
}

/// From which size on shared memory that is warm comes first under a load (the present one without), and why; 2^60 if it
/// does not at 1 GiB.
#[rustler::nif]
fn cost_model_threshold(
    cost_model: &CostModel,
    to: terms::Direction,
    what: terms::Type,
    load: Option<terms::Load>,
) -> (u64, terms::Reason) {
    let load = load.map_or_else(|| cost_model.load(), terms::load);
    let found = cost_model.table.threshold(to.into(), what.into(), load);
    (found.size, found.reason.into())
}

/// The bins of sizes from `first` to `last`: where each begins, and the next one.
#[rustler::nif]
fn cost_model_bins(first: u64, last: u64) -> Vec<(u64, u64)> {
    (bins::of(first)..bins::of(last)).map(|bin| (bins::start(bin), bins::start(bin + 1))).collect()
}

// A record's first word: `request way | reply way << 2 | request kind << 4 | reply kind << 7 | request warm << 10 |
// reply warm << 11 | ok << 12 | explored << 13 | held out << 14 | propensity << 16 | predicted << 32`, the propensity in 1/65,535, the
// prediction as `pack_ns` has it. Sizes are of what was carried: nothing, where it lay in shared memory already.
const REQUEST_WARM: u64 = 1 << 10;
const REPLY_WARM: u64 = 1 << 11;
const OK: u64 = 1 << 12;
const EXPLORED: u64 = 1 << 13;
const HELD_OUT: u64 = 1 << 14;

fn word(request: Leg, reply: Leg, ok: bool) -> u64 {
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    request.way as u64
        | (reply.way as u64) << 2
        | (request.kind as u64) << 4
        | (reply.kind as u64) << 7
        | flag(request.warm, REQUEST_WARM)
        | flag(reply.warm, REPLY_WARM)
        | flag(ok, OK)
}

fn legs(word: u64, request_bytes: u64, reply_bytes: u64) -> Option<(Leg, Leg)> {
    let leg = |way: u64, what: u64, warm: bool, size| {
        let way = (way & 3) as usize;
        (way < WAYS).then_some(Leg { way, kind: Kind::from_u8((what & 7) as u8)?, warm, size })
    };
    Some((
        leg(word, word >> 4, word & REQUEST_WARM != 0, request_bytes)?,
        leg(word >> 2, word >> 7, word & REPLY_WARM != 0, reply_bytes)?,
    ))
}

/// Records the time of a call beside its tool and its wait. `call` is `{request way, reply way, type, request warm?,
/// ok?}`; `choice` is `{explored?, propensity, what its decision predicted for the request's way in ns, held out?}`, nil where
/// nothing was decided. A prediction that is nil is read from the table. The type of a result's data is not known.
#[rustler::nif]
fn cost_model_record(
    cost_model: &CostModel,
    call: (terms::Way, terms::Way, terms::Type, bool, bool),
    choice: Option<(bool, f64, Option<u64>, bool)>,
    work_ns: u64,
    request_bytes: u64,
    reply_bytes: u64,
) -> Atom {
    let (there, back, what, warm, ok) = call;
    let request = Leg { way: there.into(), kind: what.into(), warm, size: request_bytes };
    let reply = Leg { way: back.into(), kind: Kind::Mixed, warm: true, size: reply_bytes };
    let (explored, propensity, expected, held_out) = choice.unwrap_or((false, 1.0, None, false));
    let expected = expected.unwrap_or_else(|| cost_model.latency_ns(Direction::Request, request));
    if explored {
        cost_model.explored.fetch_add(1, Ordering::Relaxed);
    }
    let drift_factor = f64::from_bits(cost_model.drift_factor.load(Ordering::Relaxed));
    let predicted = (expected + cost_model.latency_ns(Direction::Reply, reply)) as f64 * drift_factor;
    let word = word(request, reply, ok)
        | if explored { EXPLORED } else { 0 }
        | if held_out { HELD_OUT } else { 0 }
        | ((propensity.clamp(0.0, 1.0) * 65_535.0) as u64) << 16
        | u64::from(pack_ns(predicted)) << 32;
    cost_model.ring.add([word, work_ns, request_bytes, reply_bytes]);
    atoms::ok()
}

/// Counts the calls recorded since the last time, and learns from them if that is wanted: how many there were, how many of
/// them were learned from, and the latest of them.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_drain(cost_model: CostModelArc, learn: bool, most_rows: usize) -> (u64, u64, Vec<terms::Row>) {
    let mut slow = cost_model.slow();
    let slow = &mut *slow;
    let (mut seen, mut learned) = (0, 0);
    let mut rows = std::collections::VecDeque::new();
    let mut drained = Window::default();
    slow.taken = cost_model.ring.take(slow.taken, |[word, work, request_bytes, reply_bytes]| {
        seen += 1;
        let Some((request, reply)) = legs(word, request_bytes, reply_bytes) else { return };
        let predicted = unpack_ns((word >> 32) as u16);
        drained.add(work, request_bytes.saturating_add(reply_bytes), word & OK != 0);
        if rows.len() == most_rows {
            rows.pop_front();
        }
        if most_rows > 0 {
            rows.push_back(terms::Row::new(word, request, reply, work, predicted));
        }
        if word & OK == 0 || work == 0 {
            return;
        }
        slow.outcomes.add(request.kind, request.size, work as f64 / slow.model.drift_factor());
        slow.errors.add((1000.0 * work.abs_diff(predicted) as f64 / work as f64) as u64);
        if word & EXPLORED == 0 {
            cost_model.compare(&mut slow.compared, slow.model.drift_factor(), request, reply, word, work as f64);
        }
        if learn {
            slow.learn(request, reply, work as f64);
            learned += 1;
        }
    });
    if seen > 0 {
        slow.latencies.merge(&drained.latencies);
        slow.windows.iter_mut().for_each(|window| window.merge(&drained));
    }
    if learned > 0 {
        cost_model.learned(slow);
    }
    (seen, learned, rows.into())
}

/// `{count, failed, sum of ns, sum of bytes, histogram}`
type Summary<'a> = (u64, u64, u64, u64, Binary<'a>);

/// The calls of a window (0: second, 1: minute, 2: hour): `{count, failed, sum of ns, sum of bytes, histogram}`.
/// The histogram is read by `Snakepit.Performance.Model.Histogram`. With `over`, the next window begins.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_window<'a>(env: Env<'a>, cost_model: CostModelArc, which: usize, over: bool) -> NifResult<Summary<'a>> {
    let mut slow = cost_model.slow();
    let window = slow.windows.get_mut(which).ok_or(Error::BadArg)?;
    let histogram = histogram(env, &window.latencies);
    let said = (window.latencies.total(), window.failed, window.sum_ns, window.sum_bytes, histogram);
    if over {
        *window = Window::default();
    }
    Ok(said)
}

/// The calls of a kind by bins of their arguments' size, since the pool began: `{where the bin begins, calls, sum of ln(ns), sum of
/// its squares}`, without the drift factor.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_outcomes(cost_model: CostModelArc, what: terms::Type) -> Vec<(u64, u64, f64, f64)> {
    let slow = cost_model.slow();
    slow.outcomes.seen(what.into()).map(|(start, o)| (start, o.calls, o.sum, o.squares)).collect()
}

/// A call of which one direction carried so much by this way, and the other next to nothing: a probe.
type Probe = (terms::Direction, terms::Way, terms::Type, u64);

fn probe_legs((to, by, what, size): Probe) -> (Leg, Leg) {
    let nothing = |size| Leg { way: INLINE, kind: Kind::Mixed, warm: true, size };
    let leg = |kind| Leg { way: by.into(), kind, warm: true, size };
    match to {
        terms::Direction::Request => (leg(what.into()), nothing(NOTHING)),
        terms::Direction::Reply => (nothing(0), leg(Kind::Mixed)),
    }
}

/// For each bucket that is not empty, its nanoseconds in 48 bits and its count in 32, which stops at the largest number.
fn histogram<'a>(env: Env<'a>, latencies: &Histogram) -> Binary<'a> {
    let mut bytes = Vec::new();
    for (ns, count) in latencies.recorded() {
        bytes.extend_from_slice(&ns.to_be_bytes()[2..]);
        bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    }
    let mut out = NewBinary::new(env, bytes.len());
    out.as_mut_slice().copy_from_slice(&bytes);
    out.into()
}

/// Learns from a probe, which is nobody's call: it is not counted.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_probed(cost_model: CostModelArc, probe: Probe, work_ns: u64) -> Atom {
    let (request, reply) = probe_legs(probe);
    let mut slow = cost_model.slow();
    slow.learn(request, reply, work_ns as f64);
    cost_model.learned(&slow);
    atoms::ok()
}

/// The nanoseconds that such a probe is expected to take beside tool and wait.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_predict(cost_model: CostModelArc, probe: Probe) -> f64 {
    let (request, reply) = probe_legs(probe);
    cost_model.slow().model.predict(request, reply)
}

/// How many times as long as usual calls take at the moment.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_drift_factor(cost_model: CostModelArc) -> f64 {
    cost_model.slow().model.drift_factor()
}

/// `{first alarms so far, is one open?, [{step, direction, way, longer?}]}`: what was found since the last time.
type Drifted = (u64, bool, Vec<(terms::Step, terms::Direction, terms::Way, bool)>);

/// Shifts of the costs since somebody asked last.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_drift(cost_model: CostModelArc, take: bool) -> Drifted {
    let mut slow = cost_model.slow();
    let drift = slow.drift.as_ref();
    let (alarms, open) = (drift.map_or(0, Drift::alarms), drift.is_some_and(|drift| drift.open().is_some()));
    let events = if take { std::mem::take(&mut slow.drifted) } else { slow.drifted.clone() };
    let shown = |event: drift::Event| {
        let longer = event.shift == Shift::Up;
        (event.step.into(), event.direction.into(), event.way.into(), longer)
    };
    (alarms, open, events.into_iter().map(shown).collect())
}

/// How calls that went as was learned compare with those of the holdout, where the two differ.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_holdout(cost_model: CostModelArc, alpha: f64) -> terms::Holdout {
    let compared = cost_model.slow().compared;
    let (difference, low, high) = compared.difference(alpha);
    terms::Holdout {
        learned: compared.first.samples,
        held_out: compared.second.samples,
        ratio: difference.exp(),
        interval: high.is_finite().then(|| (low.exp(), high.exp())),
        worse: compared.verdict(alpha) == Verdict::SecondIsLess,
    }
}

/// Compiles the table anew from what was learned.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_compile(cost_model: CostModelArc) -> Atom {
    cost_model.compile(&cost_model.slow());
    atoms::ok()
}

/// Takes the user's rules; the table is compiled with them.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_rules(cost_model: CostModelArc, rules: terms::Rules) -> NifResult<Atom> {
    let (exploration, holdout, watched) = (rules.exploration, rules.holdout, rules.drift);
    let mut slow = cost_model.slow();
    slow.rules = rules.decoded()?;
    // The comparison begins anew: either side may be another one.
    slow.compared = Two::default();
    if watched != slow.drift.is_some() {
        slow.drift = watched.then(|| Drift::new(&slow.model));
    }
    cost_model.show(&slow.rules, exploration, holdout);
    cost_model.compile(&slow);
    Ok(atoms::ok())
}

/// `{direction, way, type, warm?, size}`
type Transfer = (terms::Direction, terms::Way, terms::Type, bool, u64);

fn transfer((to, by, what, warm, size): Transfer) -> (Direction, Leg) {
    (to.into(), Leg { way: by.into(), kind: what.into(), warm, size })
}

/// One measured call of which one direction carried this, and the other next to nothing.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_calibrate(cost_model: CostModelArc, carried: Transfer, ns: f64, base_ns: f64) -> Atom {
    let (direction, leg) = transfer(carried);
    cost_model.slow().model.calibrate(direction, leg, ns, base_ns);
    atoms::ok()
}

/// One measured call that carried nothing: half of it is each direction's.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_calibrate_empty(cost_model: CostModelArc, ns: f64, base_ns: f64) -> Atom {
    let mut slow = cost_model.slow();
    for direction in Direction::ALL {
        let leg = Leg { way: INLINE, kind: Kind::Binary, warm: true, size: NOTHING };
        slow.model.calibrate(direction, leg, ns, base_ns);
    }
    atoms::ok()
}

#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_calibrate_cpu(
    cost_model: CostModelArc,
    to: terms::Direction,
    by: terms::Way,
    size: u64,
    ns: f64,
) -> Atom {
    cost_model.slow().model.calibrate_cpu(to.into(), by.into(), size, ns);
    atoms::ok()
}

/// The end of a calibration: to this the past is forgotten.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_anchor(cost_model: CostModelArc) -> Atom {
    let mut slow = cost_model.slow();
    slow.model.anchor();
    slow.is_good();
    cost_model.learned(&slow);
    atoms::ok()
}

/// Stores which resources are scarce. True if that changed.
#[rustler::nif]
fn cost_model_load(cost_model: &CostModel, load: terms::Load) -> bool {
    let load = terms::load(load);
    cost_model.load.swap(load, Ordering::Relaxed) != load
}

/// The usual price of each way.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_prices(
    cost_model: CostModelArc,
    to: terms::Direction,
    what: terms::Type,
    warm: bool,
    size: u64,
    aim: terms::Goal,
    load: terms::Load,
) -> Vec<(terms::Way, terms::Price)> {
    let weights = Weights::of(aim.into()).under(terms::load(load));
    let slow = cost_model.slow();
    (0..WAYS)
        .map(|way| {
            let price = slow.model.price(to.into(), Leg { way, kind: what.into(), warm, size }, &weights);
            (way.into(), price.into())
        })
        .collect()
}

/// The line by which such a transfer is judged.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_line(cost_model: CostModelArc, carried: Transfer) -> terms::Line {
    let (direction, leg) = transfer(carried);
    let slow = cost_model.slow();
    let line = slow.model.line(direction, leg);
    let (fixed_ns, ns_per_byte) = line.coefficients();
    terms::Line { fixed_ns, ns_per_byte, samples: line.samples(), ready: line.samples() >= READY }
}

/// From which size on shared memory is the cheapest of the ways in `allowed`: `{size, low, high}`, or nil.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_crossover(
    cost_model: CostModelArc,
    to: terms::Direction,
    what: terms::Type,
    aim: terms::Goal,
    allowed: u8,
) -> Option<(u64, u64, u64)> {
    let found = cost_model.slow().model.crossover(to.into(), what.into(), aim.into(), allowed);
    found.map(|c| (c.size, c.low, c.high))
}

/// The kinds of data, in the order of their numbers.
#[rustler::nif]
fn cost_model_types() -> Vec<terms::Type> {
    Kind::ALL.into_iter().map(terms::Type::from).collect()
}

/// The table of replies as a worker reads it: for each kind a byte per bin, 1 where shared memory that is warm comes
/// before the frame, or before gRPC where the frame is not allowed.
#[rustler::nif]
fn cost_model_reply_table<'a>(env: Env<'a>, cost_model: CostModelArc) -> Binary<'a> {
    let load = cost_model.load();
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

#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_counts(cost_model: CostModelArc) -> terms::Counts {
    let (recorded, dropped) = cost_model.ring.counts();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    terms::Counts {
        decisions: count(&cost_model.decisions),
        explored: count(&cost_model.explored),
        recorded,
        dropped,
        version: cost_model.slow().model.version,
        table_bytes: cost_model.table.bytes(),
    }
}

/// Percentiles (0..1) of latencies in nanoseconds, and of the relative errors of predictions, in thousandths.
#[rustler::nif(schedule = "DirtyCpu")]
fn cost_model_percentiles(cost_model: CostModelArc, which: Vec<f64>) -> (Vec<Option<u64>>, Vec<Option<u64>>) {
    let slow = cost_model.slow();
    let of = |histogram: &Histogram| which.iter().map(|p| histogram.percentile(*p)).collect();
    (of(&slow.latencies), of(&slow.errors))
}

/// The learned model, as bytes for a file.
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
    slow.is_good();
    cost_model.learned(&slow);
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
