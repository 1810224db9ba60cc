//! A reply's frame becomes a term, and binaries over the memory its buffers lie in.

use super::path_text;
use crate::atoms;
use crate::bounds;
use crate::memory::slot::{self, Collection, End, Slot};
use crate::memory::{Worker, WorkerArc};
use crate::terms::decode::{Decoder, Failure};
use rustler::{Binary, Encoder, Env, NewBinary, NifResult, Term};
use snakepit_core::frame::{Counts, Kind, Reply, Table, Way, wait_ns};

fn protocol_error<'a>(env: Env<'a>, what: &str) -> Term<'a> {
    (atoms::error(), atoms::protocol(), what).encode(env)
}

/// Beside the flags of a frame, which are the two lower bits: the calling process should collect its garbage.
const COLLECT_MINOR: u8 = 1 << 2;
const COLLECT_MAJOR: u8 = 1 << 3;

fn collection(env: Env, worker: &Worker, reply: &Reply) -> u8 {
    if !matches!(reply.table, Table::ZeroCopy(_)) {
        return 0;
    }
    match slot::collection((worker.pool, env.pid()), worker.quota) {
        Collection::None => 0,
        Collection::Minor => COLLECT_MINOR,
        Collection::Major => COLLECT_MAJOR,
    }
}

/// `options`: `{copy?, Decimal loaded?, %MapSet{}}`; `beside`: the buffers that came with the frame by gRPC.
fn read_reply<'a>(
    env: Env<'a>,
    worker: &Worker,
    call_id: u64,
    bytes: Binary<'a>,
    beside: Vec<Term<'a>>,
    options: (bool, bool, Term<'a>),
    clean: bool,
) -> Term<'a> {
    let (copy, decimal, empty_set) = options;
    let reply = match Reply::read(bytes.as_slice()) {
        Ok(reply) => reply,
        Err(bad) => return protocol_error(env, bad.0),
    };
    if reply.call_id != call_id {
        return protocol_error(env, "the reply is to another call");
    }
    let size = reply.envelope.len();
    let buffer_bytes: u64 = match &reply.table {
        Table::Inline(ranges) => ranges.iter().map(|r| r.len() as u64).sum(),
        Table::ZeroCopy(places) => places.iter().map(|p| p.len).fold(0, u64::saturating_add),
        Table::Grpc(lens) => lens.iter().copied().fold(0, u64::saturating_add),
    };
    if clean && copy && buffer_bytes > bounds::COPIED_BYTES {
        return atoms::dirty().encode(env);
    }

    // First what may have to be tried again: a chunk that was announced, and not yet mapped.
    let (mut spots, mut refused) = (Vec::new(), false);
    if let Table::ZeroCopy(places) = &reply.table {
        for place in places {
            match worker.chunk(place.chunk) {
                None if worker.is_refused(place.chunk) => refused = true,
                None => return (atoms::error(), atoms::unknown_chunk(), place.chunk).encode(env),
                Some(chunk) if chunk.bytes(place.offset, place.len).is_none() => {
                    return protocol_error(env, "a buffer lies outside its chunk");
                }
                Some(chunk) => spots.push(chunk),
            }
        }
    }
    if worker.released(&reply.released).is_err() {
        return protocol_error(env, "the worker returned a token it was not given, or returned it twice");
    }
    if let (true, Table::ZeroCopy(places)) = (refused, &reply.table) {
        // The worker may use the places again.
        let list = worker.freed();
        places.iter().for_each(|place| list.push(place.token));
        if reply.kind.is_last() {
            worker.calls.finish(call_id);
        }
        let what = "lies in shared memory that this VM could not map";
        return (atoms::error(), atoms::value(), "result", atoms::no_memory(), what).encode(env);
    }

    let buffers: Vec<Term<'a>> = match &reply.table {
        Table::Inline(ranges) => {
            let part = |r: &std::ops::Range<usize>| bytes.make_subbinary(r.start, r.len()).map(|b| b.to_term(env));
            match ranges.iter().map(part).collect() {
                Ok(buffers) => buffers,
                Err(_) => return protocol_error(env, "a buffer lies outside its frame"),
            }
        }
        Table::ZeroCopy(places) => {
            let lease = Some((worker.pool, env.pid()));
            let list = worker.freed();
            let each = places.iter().zip(spots);
            each.map(|(place, chunk)| {
                let end = End::Worker(list.clone(), place.token);
                slot::binary(env, Slot::visible(chunk, place.offset, place.len, end, lease)).to_term(env)
            })
            .collect()
        }
        Table::Grpc(lens) => {
            let actual = beside.iter().map(|b| Binary::from_term(*b).map_or(u64::MAX, |b| b.len() as u64));
            if !lens.iter().copied().eq(actual) {
                return protocol_error(env, "the buffers beside the frame are not those of its table");
            }
            beside
        }
    };
    let buffers =
        if copy && reply.way != Way::Grpc { buffers.into_iter().map(|b| copied(env, b)).collect() } else { buffers };

    let kind = match reply.kind {
        Kind::Result => atoms::result(),
        Kind::Error => atoms::error(),
        Kind::Item => atoms::item(),
        Kind::End => atoms::end_(),
        Kind::Fetch => atoms::fetch(),
    };
    let term = if matches!(reply.kind, Kind::Fetch) {
        Ok(atoms::nil().to_term(env))
    } else {
        let decoder = Decoder { env, buffers: &buffers, empty_set, decimal };
        decoder.envelope(&bytes.as_slice()[reply.envelope.clone()])
    };
    if reply.kind.is_last() {
        worker.calls.finish(call_id);
    }
    match term {
        Ok(term) => {
            let flags = reply.flags | collection(env, worker, &reply);
            let meta = (reply.way as u8, size as u64 + buffer_bytes, reply.tool_ns, wait_ns(reply.gil), flags);
            (atoms::ok(), kind, term, meta).encode(env)
        }
        Err(Failure::Protocol(what)) => protocol_error(env, what),
        Err(Failure::Value { path, reason, detail }) => {
            (atoms::error(), atoms::value(), path_text("result", &path), reason, detail).encode(env)
        }
    }
}

fn copied<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    Binary::from_term(term).map_or(term, |b| NewBinary::from_slice(env, b.as_slice()).into())
}

/// Whether a reply is too much for an ordinary scheduler, by its header alone.
fn is_long(frame: &[u8], beside: usize) -> bool {
    let counts = Counts::read(frame);
    beside > bounds::BUFFERS
        || counts.is_some_and(|counts| {
            counts.envelope > bounds::DECODED_BYTES
                || counts.buffers > bounds::BUFFERS
                || counts.released > bounds::TOKENS
        })
}

#[rustler::nif]
fn reply_clean<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    call_id: u64,
    bytes: Binary<'a>,
    beside: Term<'a>,
    options: (bool, bool, Term<'a>),
) -> NifResult<Term<'a>> {
    if is_long(bytes.as_slice(), beside.list_length()?) {
        return Ok(atoms::dirty().encode(env));
    }
    Ok(read_reply(env, &worker, call_id, bytes, beside.decode()?, options, true))
}

#[rustler::nif(schedule = "DirtyCpu")]
fn reply_dirty<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    call_id: u64,
    bytes: Binary<'a>,
    beside: Vec<Term<'a>>,
    options: (bool, bool, Term<'a>),
) -> Term<'a> {
    read_reply(env, &worker, call_id, bytes, beside, options, false)
}
