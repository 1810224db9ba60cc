//! Questions to the model.

use super::learn::{Transfer, transfer};
use super::*;

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
        table_bytes: cost_model.table.bytes() + cost_model.ruled.bytes(),
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
