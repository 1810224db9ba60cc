//! The operations that are measured: one for each step that every call passes through, on data like a call's. Both
//! the timings (`benches/core.rs`) and the counts of instructions (`examples/count.rs`) are of these.

use snakepit_core::arena::Arena;
use snakepit_core::cost_model::cost::Goal;
use snakepit_core::cost_model::histogram::Histogram;
use snakepit_core::cost_model::model::{Leg, Model};
use snakepit_core::cost_model::ring::Ring;
use snakepit_core::cost_model::table::{Rules, Table};
use snakepit_core::cost_model::{Direction, INLINE, Kind, ZERO_COPY};
use snakepit_core::frame::{Ask, Kind as ReplyKind, Place, Reply, Request, Way};
use snakepit_core::lanes::{Lanes, Want};
use std::hint::black_box;

/// An operation: what it is given counts up, so that no two are alike.
pub type Operation = Box<dyn FnMut(u64)>;

/// All of them, by name.
pub fn operations() -> Vec<(&'static str, Operation)> {
    vec![
        ("decision", decision()),
        ("encode_request", encode_request()),
        ("decode_reply", decode_reply()),
        ("lane", lane()),
        ("refusal", refusal()),
        ("allocate", allocate()),
        ("ring", ring()),
        ("histogram", histogram()),
    ]
}

/// A look into a calibrated table, and the word taken apart.
fn decision() -> Operation {
    let mut model = Model::default();
    for n in 0..400u64 {
        for (way, a, b) in [(INLINE, 20_000.0, 0.3), (ZERO_COPY, 26_000.0, 0.1)] {
            let size = 1 << (10 + n % 16);
            let leg = Leg { way, kind: Kind::Tensor, warm: true, size };
            model.calibrate(Direction::Request, leg, a + b * size as f64 + 10_000.0, 20_000.0);
        }
    }
    let rules = Rules {
        bar: 0.0,
        goal: Goal::MinimizeLatency,
        allowed: 0b111,
        minimum: None,
        maximum: None,
        thresholds: [10 << 20; Kind::COUNT],
        overridden: [false; Kind::COUNT],
        tie: 0.05,
        bounded_loss: 0.25,
    };
    let table = Table::new(&model, &rules);
    Box::new(move |n| {
        let cell = table.look_up(Direction::Request, Kind::Tensor, true, 0, 1 << (n % 40));
        black_box((cell.order(), cell.reason(), cell.explorable()));
    })
}

/// A request of one tensor that lies in shared memory, with two tokens to give back.
fn encode_request() -> Operation {
    let mut out = Vec::with_capacity(256);
    Box::new(move |n| {
        out.clear();
        let request = Request {
            kind: Ask::Call,
            way: Way::ZeroCopy,
            reply_mask: 3,
            flags: 0,
            call_id: n,
            timeout_ms: 60_000,
            lane: 0,
            core: 0,
        };
        let place = Place { chunk: 7, offset: n * 64, len: 1 << 20, token: n };
        request.write(&mut out, 40, &[], &[place], &[n, n + 1]);
        black_box(&out);
    })
}

/// A reply with one buffer in shared memory, as a worker writes it.
fn decode_reply() -> Operation {
    let mut frame = vec![ReplyKind::Result as u8, Way::ZeroCopy as u8, 0, 0];
    let envelope = b"\xc7\x05\x06tensor";
    frame.extend_from_slice(&(envelope.len() as u32).to_le_bytes());
    for n in [42u64, 12_345] {
        frame.extend_from_slice(&n.to_le_bytes());
    }
    for n in [1u32, 2] {
        frame.extend_from_slice(&n.to_le_bytes());
    }
    for n in [7u64, 4_096, 1 << 20, 99, 5, 6] {
        frame.extend_from_slice(&n.to_le_bytes());
    }
    frame.extend_from_slice(envelope);
    assert!(Reply::read(&frame).is_ok());
    Box::new(move |n| {
        frame[8..16].copy_from_slice(&n.to_le_bytes());
        black_box(Reply::read(black_box(&frame)).is_ok());
    })
}

/// A lane taken and given back, of two workers.
fn lane() -> Operation {
    let mut lanes: Lanes<u64> = Lanes::new(2, 1, 100);
    for worker in 0..2 {
        for lane in lanes.up(worker, 1) {
            lanes.offer(lane);
        }
    }
    Box::new(move |_| {
        use snakepit_core::lanes::CheckoutAnswer;
        if let CheckoutAnswer::Lane(lane) = lanes.checkout(Want::Any, || 0) {
            black_box(lanes.checkin(lane));
        }
    })
}

/// A call that a full queue refuses. Its count shows whether one looks at those who wait.
fn refusal() -> Operation {
    let mut lanes: Lanes<u64> = Lanes::new(2, 1, 10_000);
    for n in 0..10_000 {
        lanes.checkout(Want::Only((n % 2) as u32), || n);
    }
    Box::new(move |n| {
        black_box(lanes.checkout(Want::Any, || n));
    })
}

/// A slot of some size taken and given back.
fn allocate() -> Operation {
    let mut arena = Arena::new(16 << 20, 1 << 30);
    if let Ok((id, _)) = arena.reserve(1) {
        arena.commit(id, 0);
    }
    Box::new(move |n| {
        if let Some(slot) = arena.alloc(100 + (n % 64) * 1_000, n) {
            arena.free(black_box(slot));
        }
    })
}

/// A call's record.
fn ring() -> Operation {
    let ring = Ring::new(1 << 14);
    Box::new(move |n| ring.add([n, 40_000, 65_536, 20]))
}

fn histogram() -> Operation {
    let mut histogram = Histogram::default();
    Box::new(move |n| histogram.add(black_box(n * 37)))
}
