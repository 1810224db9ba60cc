//! Control messages: an envelope's format, without buffers beside it. And the frame's layout, for tests.

use crate::atoms;
use crate::bounds;
use crate::terms::decode::{Decoder, Failure};
use crate::terms::encode::{Encoder as TermEncoder, Refusal};
use rustler::{Binary, Encoder, Env, NewBinary, Term};
use snakepit_core::frame::LAYOUT;

fn packed<'a>(env: Env<'a>, term: Term<'a>, clean: bool) -> Term<'a> {
    let mut e = TermEncoder::new(env, usize::MAX, clean);
    match e.term(term, 0) {
        Ok(()) => (atoms::ok(), Term::from(NewBinary::from_slice(env, e.out.as_slice()))).encode(env),
        Err(Refusal::Dirty) => atoms::dirty().encode(env),
        Err(_) => atoms::error().encode(env),
    }
}

#[rustler::nif]
fn pack_clean<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    packed(env, term, true)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn pack_dirty<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    packed(env, term, false)
}

fn unpacked<'a>(env: Env<'a>, bytes: Binary<'a>, empty_set: Term<'a>) -> Term<'a> {
    let decoder = Decoder { env, buffers: &[], empty_set, decimal: false };
    match decoder.envelope(bytes.as_slice()) {
        Ok(term) => (atoms::ok(), term).encode(env),
        Err(Failure::Protocol(what)) => (atoms::error(), what).encode(env),
        Err(Failure::Value { detail, .. }) => (atoms::error(), detail).encode(env),
    }
}

#[rustler::nif]
fn unpack_clean<'a>(env: Env<'a>, bytes: Binary<'a>, empty_set: Term<'a>) -> Term<'a> {
    if bytes.len() > bounds::DECODED_BYTES {
        return atoms::dirty().encode(env);
    }
    unpacked(env, bytes, empty_set)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn unpack_dirty<'a>(env: Env<'a>, bytes: Binary<'a>, empty_set: Term<'a>) -> Term<'a> {
    unpacked(env, bytes, empty_set)
}

/// The name of a section, and the names of its entries with their numbers.
type Section = (&'static str, Vec<(&'static str, Vec<u64>)>);

/// Kinds, flags and fields of a frame as `snakepit_core::frame` has them: `[{section, [{name, numbers}]}]`.
#[rustler::nif]
fn frame_layout() -> Vec<Section> {
    let entries = |entries: &'static [(&'static str, &'static [u64])]| {
        entries.iter().map(|(name, numbers)| (*name, numbers.to_vec())).collect()
    };
    LAYOUT.iter().map(|(section, all)| (*section, entries(all))).collect()
}
