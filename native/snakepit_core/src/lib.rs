//! The plain heart of Snakepit: the layout of frames and chunks, the codec and the allocator.
//!
//! Nothing here knows the BEAM, opens a file or maps memory, so that everything can be tested against naive
//! models. `native/PROTOCOL.md` is the contract these modules implement.

pub mod arena;
pub mod call;
pub mod class;
pub mod companion;
pub mod copy;
pub mod cost_model;
pub mod decimal;
pub mod frame;
pub mod holds;
pub mod lanes;
pub mod locks;
pub mod reader;
pub mod room;
pub mod sequential;
pub mod spin;
mod sync;
pub mod writer;

/// Containers and extensions nested deeper than this are refused, on both sides.
pub const MAX_DEPTH: u32 = 128;

/// More values than this in one envelope are refused, on both sides.
pub const MAX_VALUES: u32 = 1 << 26;

/// A tensor may have this many dimensions (numpy's own limit).
pub const MAX_DIMS: usize = 64;

/// `bytes` as text, if they are UTF-8; vectorized.
#[inline]
pub fn utf8(bytes: &[u8]) -> Option<&str> {
    // Most short strings are ASCII, which is known without a call.
    if bytes.len() < 64 && bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    simdutf8::basic::from_utf8(bytes).ok()
}
