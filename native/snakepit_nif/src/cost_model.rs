//! A pool's cost model: its table of decisions, read without a lock, and what it learns from, behind one.
//!
//! Calls decide and record; both are a few loads and stores. Everything else is for the processes that tend the cost
//! model, and runs on dirty schedulers, where it may wait for the lock.
//!
//! Elixir passes names (`terms.rs`), never numbers: `Snakepit.Performance.Model` is the only module that calls this.

mod decide;
mod learn;
mod record;
mod shown;
mod terms;

use crate::atoms;
use record::HELD_OUT;
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

/// CPU time in nanoseconds of a process of ours, by `clock_getcpuclockid(3)`; nil if it is gone.
#[rustler::nif]
fn cpu_time<'a>(env: Env<'a>, pid: i32) -> Term<'a> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both are given places of their own to write to.
    let read = unsafe { libc::clock_getcpuclockid(pid, &mut clock) == 0 && libc::clock_gettime(clock, &mut time) == 0 };
    if read { (time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64).encode(env) } else { atoms::nil().encode(env) }
}
