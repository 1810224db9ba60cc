//! Which way the bytes of a call should go: what each way costs, learned from measurements, compiled to a table that is
//! read in one load.
//!
//! ```text
//! observations ─ ring ─▶ line (one per direction, way, kind, warmth) ─ cost ─▶ table ─▶ a decision
//! ```
//!
//! No clock, no I/O, no BEAM: times are given in nanoseconds, sizes in bytes.

pub mod bins;
pub mod cost;
pub mod drift;
pub mod histogram;
pub mod line;
pub mod model;
pub mod outcomes;
pub mod ring;
pub mod table;

/// The direction of bytes: a request's are the arguments of a call, a reply's are its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    Request = 0,
    Reply = 1,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Request, Self::Reply];

    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(n as usize).copied()
    }
}

/// The type of the bytes. The BEAM and the worker use the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Binary = 0,
    Text = 1,
    Tensor = 2,
    Table = 3,
    /// Several of these in one value, or none.
    Mixed = 4,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Binary, Self::Text, Self::Tensor, Self::Table, Self::Mixed];
    pub const COUNT: usize = Self::ALL.len();

    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.get(n as usize).copied()
    }
}

/// The ways there are; `frame::Way` numbers them alike.
pub const WAYS: usize = 3;
pub const INLINE: usize = 0;
pub const ZERO_COPY: usize = 1;
pub const GRPC: usize = 2;
