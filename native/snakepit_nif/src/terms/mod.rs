//! Terms to envelopes, and back.

pub mod decode;
mod dtypes;
pub mod encode;
mod shown;
mod structs;
