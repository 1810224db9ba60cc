//! How much a function may do on an ordinary scheduler: about 100 µs of work, a tenth of what the VM asks of a NIF.
//!
//! A function whose work grows with its input comes as a pair. The clean one counts before it begins and answers `:dirty`
//! beyond these bounds; the other does the same on a dirty scheduler. All that is counted must be cheap to count: the
//! arity of a tuple, a number in a frame's header, or as many cells of a list as may still be looked at.

/// Values that are encoded, each with what it costs to look at it.
pub const VALUES: u32 = 4_000;
/// Bytes that are read and checked while a term is encoded.
pub const ENCODED_BYTES: usize = 512 * 1024;
/// Bytes of an envelope that is decoded: each value in it takes one at least.
pub const DECODED_BYTES: usize = 64 * 1024;
/// Bytes that are copied into memory that is warm.
pub const COPIED_BYTES: u64 = 1 << 20;
/// Buffers of a request or a reply: each is looked up among the chunks, and gets a slot, a place and a binary.
pub const BUFFERS: usize = 128;
/// Tokens that are given back, or named in a frame: each lets a slot go.
pub const TOKENS: usize = 1_024;
/// Slots that an allocation puts in order first.
pub const RETURNED_SLOTS: usize = 256;
