//! A call's command, arguments and caller become an envelope, and large binaries beside it.

use super::path_text;
use crate::atoms;
use crate::terms::encode::{Encoder as TermEncoder, Refusal};
use rustler::{Binary, Encoder, Env, NewBinary, Term};
use snakepit_core::cost_model::Kind;

fn encode_request<'a>(
    env: Env<'a>,
    command: Binary<'a>,
    arguments: Term<'a>,
    session: Term<'a>,
    inline_limit: usize,
    clean: bool,
) -> Term<'a> {
    let mut e = TermEncoder::new(env, inline_limit, clean);
    e.out.array(3);
    if !e.out.text(command.as_slice()) {
        e.out.str("?");
    }
    let refusal = match e.term(arguments, 1) {
        Ok(()) => None,
        Err(refusal) => Some(("args", refusal)),
    };
    match refusal.or_else(|| e.term(session, 1).err().map(|r| ("session_id", r))) {
        None if e.out.len() > u32::MAX as usize => {
            (atoms::error(), "args", atoms::too_large(), "an envelope above 4 GiB").encode(env)
        }
        None => {
            let envelope: Term = NewBinary::from_slice(env, e.out.as_slice()).into();
            let buffers: Vec<Term> = e.buffers.iter().map(|b| b.to_term(env)).collect();
            let kind = e.kind.unwrap_or(Kind::Mixed) as u8;
            (atoms::ok(), envelope, buffers, (e.buffer_bytes, e.fresh_bytes, kind)).encode(env)
        }
        Some((_, Refusal::Dirty)) => atoms::dirty().encode(env),
        Some((_, Refusal::Convert)) => atoms::convert().encode(env),
        Some((root, Refusal::Term(bad))) => {
            (atoms::error(), path_text(root, &bad.path), bad.reason, bad.detail).encode(env)
        }
    }
}

#[rustler::nif]
fn encode_clean<'a>(
    env: Env<'a>,
    command: Binary<'a>,
    arguments: Term<'a>,
    session: Term<'a>,
    limit: usize,
) -> Term<'a> {
    encode_request(env, command, arguments, session, limit, true)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn encode_dirty<'a>(
    env: Env<'a>,
    command: Binary<'a>,
    arguments: Term<'a>,
    session: Term<'a>,
    limit: usize,
) -> Term<'a> {
    encode_request(env, command, arguments, session, limit, false)
}
