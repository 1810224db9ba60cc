//! Decisions, and the table that they are read from.

use super::*;

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

/// Stores which resources are scarce. True if that changed.
#[rustler::nif]
fn cost_model_load(cost_model: &CostModel, load: terms::Load) -> bool {
    let load = terms::load(load);
    cost_model.load.swap(load, Ordering::Relaxed) != load
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
