//! The types of a tensor's items: kind and bits in Elixir, one name on the wire.

use crate::atoms;
use rustler::Atom;

/// The protocol's name of a tensor type and the bytes of one item.
pub fn dtype_name(kind: Atom, bits: u32) -> Option<(&'static str, u64)> {
    DTYPES.iter().find(|(k, b, _)| *b == bits && k() == kind).map(|(_, b, name)| (*name, u64::from(*b / 8)))
}

/// A tensor type: kind and bits in Elixir, name on the wire.
pub type Dtype = (fn() -> Atom, u32, &'static str);

/// All of them.
pub const DTYPES: [Dtype; 15] = [
    (atoms::bool, 8, "bool"),
    (atoms::u, 8, "u8"),
    (atoms::u, 16, "u16"),
    (atoms::u, 32, "u32"),
    (atoms::u, 64, "u64"),
    (atoms::s, 8, "s8"),
    (atoms::s, 16, "s16"),
    (atoms::s, 32, "s32"),
    (atoms::s, 64, "s64"),
    (atoms::f, 16, "f16"),
    (atoms::bf, 16, "bf16"),
    (atoms::f, 32, "f32"),
    (atoms::f, 64, "f64"),
    (atoms::c, 64, "c64"),
    (atoms::c, 128, "c128"),
];
