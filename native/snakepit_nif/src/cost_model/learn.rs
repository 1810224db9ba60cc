//! Probes and calibrations, and the rules it decides by.

use super::*;

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
pub(super) type Transfer = (terms::Direction, terms::Way, terms::Type, bool, u64);

pub(super) fn transfer((to, by, what, warm, size): Transfer) -> (Direction, Leg) {
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
