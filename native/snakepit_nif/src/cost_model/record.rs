//! Records of calls, and the sums of them.

use super::*;

// A record's first word: `request way | reply way << 2 | request kind << 4 | reply kind << 7 | request warm << 10 |
// reply warm << 11 | ok << 12 | explored << 13 | held out << 14 | propensity << 16 | predicted << 32`, the propensity in 1/65,535, the
// prediction as `pack_ns` has it. Sizes are of what was carried: nothing, where it lay in shared memory already.
const REQUEST_WARM: u64 = 1 << 10;
const REPLY_WARM: u64 = 1 << 11;
pub(super) const OK: u64 = 1 << 12;
pub(super) const EXPLORED: u64 = 1 << 13;
pub(super) const HELD_OUT: u64 = 1 << 14;

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
