//! The frame as data, to be compared with what other languages have: `Snakepit.Native.frame_layout/0` shows it to Elixir,
//! `_native.frame_layout()` to Python.

use super::{Ask, FLAG_FORCED, FLAG_IN_PLACE, FLAG_RETURN, FLAG_SPIN, FLAG_STREAM, FLAG_WANTED_MEMORY, HEADER};
use super::{INLINE_ALIGN, Kind, LENGTH, MAX_BUFFERS, MAX_FRAME, PLACE, TOKEN, Way};

pub(super) const REPLY_ENVELOPE: usize = 4;
pub(super) const REPLY_BUFFERS: usize = 24;
pub(super) const REPLY_RELEASED: usize = 28;

/// Names and what they stand for: one number, or a field's offset and size.
pub type Section = (&'static str, &'static [(&'static str, &'static [u64])]);

/// Everything a frame's header is made of.
pub const LAYOUT: &[Section] = &[
    (
        "sizes",
        &[
            ("header", &[HEADER as u64]),
            ("place", &[PLACE as u64]),
            ("length", &[LENGTH as u64]),
            ("token", &[TOKEN as u64]),
            ("align", &[INLINE_ALIGN as u64]),
            ("max_buffers", &[MAX_BUFFERS as u64]),
            ("max_frame", &[MAX_FRAME as u64]),
        ],
    ),
    (
        "ways",
        &[("inline", &[Way::Inline as u64]), ("zero_copy", &[Way::ZeroCopy as u64]), ("grpc", &[Way::Grpc as u64])],
    ),
    (
        "request_kinds",
        &[("call", &[Ask::Call as u64]), ("fetch", &[Ask::Fetch as u64]), ("synchronize", &[Ask::Synchronize as u64])],
    ),
    (
        "request_flags",
        &[
            ("forced", &[FLAG_FORCED as u64]),
            ("stream", &[FLAG_STREAM as u64]),
            ("spin", &[FLAG_SPIN as u64]),
            ("return", &[FLAG_RETURN as u64]),
        ],
    ),
    (
        "reply_kinds",
        &[
            ("result", &[Kind::Result as u64]),
            ("error", &[Kind::Error as u64]),
            ("item", &[Kind::Item as u64]),
            ("end", &[Kind::End as u64]),
            ("fetch", &[Kind::Fetch as u64]),
        ],
    ),
    ("reply_flags", &[("wanted_memory", &[FLAG_WANTED_MEMORY as u64]), ("in_place", &[FLAG_IN_PLACE as u64])]),
    (
        "request",
        &[
            ("kind", &[0, 1]),
            ("way", &[1, 1]),
            ("reply_mask", &[2, 1]),
            ("flags", &[3, 1]),
            ("envelope", &[4, 4]),
            ("call_id", &[8, 8]),
            ("timeout_ms", &[16, 4]),
            ("buffers", &[20, 4]),
            ("freed", &[24, 4]),
            ("lane", &[28, 2]),
            ("core", &[30, 2]),
        ],
    ),
    (
        "reply",
        &[
            ("kind", &[0, 1]),
            ("way", &[1, 1]),
            ("flags", &[2, 1]),
            ("gil", &[3, 1]),
            ("envelope", &[REPLY_ENVELOPE as u64, 4]),
            ("call_id", &[8, 8]),
            ("tool_ns", &[16, 8]),
            ("buffers", &[REPLY_BUFFERS as u64, 4]),
            ("released", &[REPLY_RELEASED as u64, 4]),
        ],
    ),
];
