//! The functions a call goes through: a term becomes a frame, a frame becomes a term.

use crate::arenas::refused;
use crate::atoms;
use crate::chunk::{self, Chunk};
use crate::decode::{Decoder, Failure};
use crate::encode::{Encoder as TermEncoder, Refusal};
use crate::memory::{Outbound, OutboundArc, Piece, Worker, WorkerArc};
use crate::slot::{self, Collection, End, Slot};
use rustler::{Binary, Encoder, Env, NewBinary, NifResult, Term};
use snakepit_core::cost_model::Kind as What;
use snakepit_core::frame::{self, Kind, Place, Reply, Request, Table, Way};
use std::sync::atomic::{AtomicU64, Ordering};

/// More bytes than this are copied, or decoded, on a dirty scheduler: about 100 µs of work.
const CLEAN_COPY: u64 = 1 << 20;
const CLEAN_DECODE: usize = 64 * 1024;

/// As `native/PROTOCOL.md` has them.
const CALL_KIND: u8 = 1;
const STREAM_FLAG: u8 = 2;

static CALL: AtomicU64 = AtomicU64::new(1);

/// A path as a user reads it: `args["items"][3].x`.
fn path_text(root: &str, steps: &[String]) -> String {
    steps.iter().rev().fold(root.to_owned(), |text, step| text + step)
}

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
    e.out.str(std::str::from_utf8(command.as_slice()).unwrap_or("?"));
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
            let kind = e.kind.unwrap_or(What::Mixed) as u8;
            (atoms::ok(), envelope, buffers, (e.buffer_bytes, e.fresh_bytes, kind)).encode(env)
        }
        Some((_, Refusal::Dirty)) => atoms::dirty().encode(env),
        Some((_, Refusal::Convert)) => atoms::convert().encode(env),
        Some((root, Refusal::Term { path, reason, detail })) => {
            (atoms::error(), path_text(root, &path), reason, detail).encode(env)
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

/// `(kind, way, reply mask, flags, timeout ms, lane)`
type Head = (u8, u8, u8, u8, u32, u32);

/// Where each buffer of a zero_copy request goes.
enum Target {
    /// It lies in a chunk already.
    There(std::sync::Arc<Slot>, u64),
    Copy(Piece),
}

/// What a request's way into memory may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    /// On a normal scheduler.
    Little,
    /// On a dirty one.
    ToCopy,
    ToMakeRoom,
}

fn write_request<'a>(
    env: Env<'a>,
    worker: &Worker,
    arena: &Outbound,
    head: Head,
    envelope: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    time: Time,
) -> NifResult<Term<'a>> {
    let (kind, way, reply_mask, flags, timeout_ms, lane) = head;
    let way = Way::from_u8(way).ok_or(rustler::Error::BadArg)?;
    let call_id = CALL.fetch_add(1, Ordering::Relaxed);
    let request = Request { kind, way, reply_mask, flags, call_id, timeout_ms, lane };
    let lens: Vec<u64> = buffers.iter().map(|b| b.len() as u64).collect();

    let mut places: Vec<Place> = Vec::new();
    let mut tell: Vec<u64> = Vec::new();
    let mut copied = 0;
    if way == Way::ZeroCopy {
        let found: Vec<_> = buffers.iter().map(|b| Chunk::find(b.as_slice())).collect();
        let missing: Vec<u64> = lens.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(l, _)| *l).collect();
        copied = missing.iter().sum();
        if time == Time::Little && copied > CLEAN_COPY {
            return Ok(atoms::dirty().encode(env));
        }
        let mut targets = Vec::with_capacity(buffers.len());
        for (found, len) in found.into_iter().zip(&lens) {
            match found.map(|(slot, offset)| Target::There(slot, offset)) {
                Some(there) => targets.push(there),
                None => {
                    let piece = match time {
                        Time::ToMakeRoom => arena.alloc_or_grow(*len),
                        Time::Little | Time::ToCopy => Ok(arena.alloc(*len)),
                    };
                    // Pieces allocated so far go back as they are dropped.
                    match piece {
                        Ok(Some(piece)) => targets.push(Target::Copy(piece)),
                        Ok(None) => return Ok((atoms::cold(), missing).encode(env)),
                        Err(error) => return Ok(refused(env, error)),
                    }
                }
            }
        }
        for (target, buffer) in targets.into_iter().zip(&buffers) {
            let (slot, offset) = match target {
                Target::There(slot, offset) => (slot, offset),
                Target::Copy(piece) => {
                    piece.fill(buffer.as_slice());
                    let slot = piece.into_slot(false);
                    let offset = slot.offset();
                    (slot, offset)
                }
            };
            let id = slot.chunk().id();
            if worker.needs_chunk(id) {
                tell.push(id);
            }
            places.push(worker.hold(slot, offset, buffer.len() as u64));
        }
    }

    // A request by gRPC may turn out not to be sendable: its tokens go by the control socket, which returns each once.
    let freed = if way == Way::Grpc { Vec::new() } else { worker.take_freed() };
    let mut out =
        Vec::with_capacity(frame::HEADER + places.len() * 32 + lens.len() * 8 + freed.len() * 8 + envelope.len());
    request.write(&mut out, envelope.len(), &lens, &places, &freed);
    out.extend_from_slice(envelope.as_slice());
    let written = out.len();
    let first: Term = NewBinary::from_slice(env, &out).into();
    let frame = if way == Way::Inline && !buffers.is_empty() {
        let mut parts = vec![first];
        let mut position = written;
        for buffer in &buffers {
            let gap = frame::padding(position);
            if gap > 0 {
                parts.push(NewBinary::from_slice(env, &[0; frame::INLINE_ALIGN][..gap]).into());
            }
            parts.push(buffer.to_term(env));
            position += gap + buffer.len();
        }
        parts.encode(env)
    } else {
        first
    };
    if kind == CALL_KIND {
        worker.issue(lane, call_id, flags & STREAM_FLAG != 0, envelope.as_slice());
    }
    Ok((atoms::ok(), call_id, frame, tell, copied).encode(env))
}

#[rustler::nif]
fn request_clean<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    arena: OutboundArc,
    head: Head,
    envelope: Binary<'a>,
    buffers: Vec<Binary<'a>>,
) -> NifResult<Term<'a>> {
    write_request(env, &worker, &arena, head, envelope, buffers, Time::Little)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn request_dirty<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    arena: OutboundArc,
    head: Head,
    envelope: Binary<'a>,
    buffers: Vec<Binary<'a>>,
) -> NifResult<Term<'a>> {
    write_request(env, &worker, &arena, head, envelope, buffers, Time::ToCopy)
}

#[rustler::nif(schedule = "DirtyIo")]
fn request_making_room<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    arena: OutboundArc,
    head: Head,
    envelope: Binary<'a>,
    buffers: Vec<Binary<'a>>,
) -> NifResult<Term<'a>> {
    chunk::unmap_unused();
    write_request(env, &worker, &arena, head, envelope, buffers, Time::ToMakeRoom)
}

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
    if clean && (size > CLEAN_DECODE || (copy && buffer_bytes > CLEAN_COPY)) {
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
        let list = worker.freed_list();
        places.iter().for_each(|place| list.push(place.token));
        if matches!(reply.kind, Kind::Result | Kind::Error | Kind::End) {
            worker.finish(call_id);
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
            let list = worker.freed_list();
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
    if matches!(reply.kind, Kind::Result | Kind::Error | Kind::End) {
        worker.finish(call_id);
    }
    match term {
        Ok(term) => {
            let flags = reply.flags | collection(env, worker, &reply);
            let meta = (reply.way as u8, size as u64 + buffer_bytes, reply.tool_ns, flags);
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

#[rustler::nif]
fn reply_clean<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    call_id: u64,
    bytes: Binary<'a>,
    beside: Vec<Term<'a>>,
    options: (bool, bool, Term<'a>),
) -> Term<'a> {
    read_reply(env, &worker, call_id, bytes, beside, options, true)
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

/// Control messages carry no buffers and use the envelope's own format.
#[rustler::nif]
fn pack<'a>(env: Env<'a>, term: Term<'a>) -> Term<'a> {
    let mut e = TermEncoder::new(env, usize::MAX, false);
    match e.term(term, 0) {
        Ok(()) => (atoms::ok(), Term::from(NewBinary::from_slice(env, e.out.as_slice()))).encode(env),
        Err(_) => atoms::error().encode(env),
    }
}

#[rustler::nif]
fn unpack<'a>(env: Env<'a>, bytes: Binary<'a>, empty_set: Term<'a>) -> Term<'a> {
    let decoder = Decoder { env, buffers: &[], empty_set, decimal: false };
    match decoder.envelope(bytes.as_slice()) {
        Ok(term) => (atoms::ok(), term).encode(env),
        Err(Failure::Protocol(what)) => (atoms::error(), what).encode(env),
        Err(Failure::Value { detail, .. }) => (atoms::error(), detail).encode(env),
    }
}
