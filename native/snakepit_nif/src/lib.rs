//! Snakepit's main NIF library: each function decodes its arguments, calls what does the work, and encodes the answer.
//!
//! Nothing here blocks: locks are held for bookkeeping only, never across a copy or a system call, and what may take
//! more than a millisecond either runs on a dirty scheduler or answers `:dirty`, upon which `Snakepit.Native` calls its
//! dirty twin. The Elixir side of every function, with its contract, is in `lib/snakepit/native.ex`.

mod atoms;
mod chunk;
mod companion;
mod decode;
mod desk;
mod encode;
mod memory;
mod slot;

use chunk::Chunk;
use decode::{Decoder, Failure};
use encode::{Encoder as TermEncoder, Refusal};
use memory::{ChunkRef, GrowError, Outbound, OutboundArc, Watch, Worker, WorkerArc};
use rustler::types::map::MapIterator;
use rustler::types::tuple::get_tuple;
use rustler::{Binary, Encoder, Env, ListIterator, LocalPid, NewBinary, NifResult, ResourceArc, Term, TermType};
use slot::{End, Slot};
use snakepit_core::arena::Refused;
use snakepit_core::frame::{self, Kind, Place, Reply, Request, Table, Way};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// More bytes than this are copied, or decoded, on a dirty scheduler: about 100 µs of work.
const CLEAN_COPY: u64 = 1 << 20;
const CLEAN_DECODE: usize = 64 * 1024;

static CALL: AtomicU64 = AtomicU64::new(1);

/// A path as a user reads it: `args["items"][3].x`.
fn path_text(root: &str, steps: &[String]) -> String {
    steps.iter().rev().fold(root.to_owned(), |text, step| text + step)
}

// ---- encode ----------------------------------------------------------------------------------------------------

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
            (atoms::ok(), envelope, buffers, e.buffer_bytes).encode(env)
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

// ---- request ---------------------------------------------------------------------------------------------------

/// `(kind, way, reply mask, flags, timeout ms, lane)`
type Head = (u8, u8, u8, u8, u32, u32);

/// Where each buffer of a zero_copy request goes.
enum Target {
    /// It lies in a segment already.
    There(std::sync::Arc<Slot>, u64),
    Copy(memory::Piece),
}

fn write_request<'a>(
    env: Env<'a>,
    worker: &Worker,
    arena: &Outbound,
    head: Head,
    envelope: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    clean: bool,
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
        if clean && copied > CLEAN_COPY {
            return Ok(atoms::dirty().encode(env));
        }
        let mut targets = Vec::with_capacity(buffers.len());
        for (found, len) in found.into_iter().zip(&lens) {
            match found.map(|(slot, offset)| Target::There(slot, offset)) {
                Some(there) => targets.push(there),
                None => match arena.alloc(*len) {
                    Some(piece) => targets.push(Target::Copy(piece)),
                    // Pieces allocated so far go back as they are dropped.
                    None => return Ok((atoms::cold(), missing).encode(env)),
                },
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
            if worker.must_be_told(id) {
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
    write_request(env, &worker, &arena, head, envelope, buffers, true)
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
    write_request(env, &worker, &arena, head, envelope, buffers, false)
}

// ---- reply -----------------------------------------------------------------------------------------------------

fn protocol_error<'a>(env: Env<'a>, what: &str) -> Term<'a> {
    (atoms::error(), atoms::protocol(), what).encode(env)
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
    let mut spots = Vec::new();
    if let Table::ZeroCopy(places) = &reply.table {
        for place in places {
            match worker.chunk(place.chunk) {
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
    let term = if matches!(reply.kind, Kind::End | Kind::Fetch) {
        Ok(atoms::nil().to_term(env))
    } else {
        let decoder = Decoder { env, buffers: &buffers, empty_set, decimal };
        decoder.envelope(&bytes.as_slice()[reply.envelope.clone()])
    };
    match term {
        Ok(term) => {
            let meta = (reply.way as u8, size as u64 + buffer_bytes, reply.tool_ns, reply.starved);
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

// ---- control messages ------------------------------------------------------------------------------------------

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

// ---- outbound arena --------------------------------------------------------------------------------------------

#[rustler::nif]
fn arena_new(chunk_size: u64, quota: u64) -> (OutboundArc, u32) {
    let arena = Outbound::new(chunk_size, quota);
    let owner = arena.owner;
    (ResourceArc::new(arena), owner)
}

/// Makes sure that buffers of all these lengths find warm memory at once; `{:ok, ids of the chunks it took}`.
#[rustler::nif(schedule = "DirtyIo")]
fn arena_ensure<'a>(env: Env<'a>, arena: OutboundArc, lens: Vec<u64>) -> Term<'a> {
    chunk::bury();
    let mut made = Vec::new();
    // Held until all are there, and then given back, warm, for the caller's next try.
    let mut pieces = Vec::with_capacity(lens.len());
    for len in lens {
        loop {
            match arena.alloc(len) {
                Some(piece) => break pieces.push(piece),
                None => match arena.grow(len) {
                    Ok(chunk) => made.push(chunk.id()),
                    Err(error) => return refused(env, error),
                },
            }
        }
    }
    (atoms::ok(), made).encode(env)
}

/// Adds an ordinary chunk, wanted or not.
#[rustler::nif(schedule = "DirtyIo")]
fn arena_grow<'a>(env: Env<'a>, arena: OutboundArc) -> Term<'a> {
    match arena.grow(1) {
        Ok(chunk) => (atoms::ok(), vec![chunk.id()]).encode(env),
        Err(error) => refused(env, error),
    }
}

fn refused<'a>(env: Env<'a>, error: GrowError) -> Term<'a> {
    match error {
        GrowError::Refused(Refused::Quota { held, quota }) => {
            (atoms::error(), (atoms::quota(), held, quota)).encode(env)
        }
        GrowError::Refused(Refused::TooLarge) => (atoms::error(), atoms::too_large()).encode(env),
        GrowError::Chunk(error) => (atoms::error(), (atoms::errno(), error.to_string())).encode(env),
    }
}

/// Drops chunks that have been idle, unmaps what nobody refers to any more; `{dropped ids, wants a spare chunk?}`.
#[rustler::nif(schedule = "DirtyIo")]
fn arena_tend(arena: OutboundArc, idle_ms: u64) -> (Vec<u64>, bool) {
    let dropped = arena.drop_idle(idle_ms);
    chunk::bury();
    (dropped, arena.wants_spare())
}

#[rustler::nif]
fn arena_chunks(arena: OutboundArc) -> Vec<(u64, u64)> {
    arena.chunks()
}

#[rustler::nif]
fn arena_usage<'a>(env: Env<'a>, arena: OutboundArc) -> Term<'a> {
    let usage = arena.usage();
    let fields = [
        (atoms::chunks(), usage.chunks),
        (atoms::held_bytes(), usage.held_bytes),
        (atoms::live_slots(), usage.live_slots),
        (atoms::live_bytes(), usage.live_bytes),
    ];
    fields.iter().fold(rustler::types::map::map_new(env), |map, (k, v)| map.map_put(*k, *v).unwrap_or(map))
}

#[rustler::nif]
fn arena_leases(arena: OutboundArc) -> Vec<(LocalPid, u64)> {
    slot::leases_of(arena.owner)
}

/// Copies a binary into the arena; the answer is the same bytes, living there.
#[rustler::nif(schedule = "DirtyCpu")]
fn arena_share<'a>(env: Env<'a>, arena: OutboundArc, binary: Binary<'a>) -> Term<'a> {
    match arena.alloc(binary.len() as u64) {
        None => (atoms::cold(), vec![binary.len()]).encode(env),
        Some(piece) => {
            piece.fill(binary.as_slice());
            (atoms::ok(), slot::binary(env, piece.into_slot(true)).to_term(env)).encode(env)
        }
    }
}

// ---- workers ---------------------------------------------------------------------------------------------------

#[rustler::nif]
fn worker_new(arena: OutboundArc) -> (WorkerArc, u32) {
    let worker = Worker::new(arena.owner);
    let owner = worker.owner;
    (ResourceArc::new(worker), owner)
}

/// Maps a chunk of the worker. Takes the descriptor over, whatever the answer.
#[rustler::nif(schedule = "DirtyIo")]
fn worker_adopt<'a>(env: Env<'a>, worker: WorkerArc, id: u64, size: u64, fd: i32) -> Term<'a> {
    if fd < 0 {
        return (atoms::error(), "no file descriptor came with the chunk").encode(env);
    }
    // SAFETY: the descriptor was received by the caller with SCM_RIGHTS and handed over to this function alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match worker.adopt(id, size, fd) {
        Ok(()) => atoms::ok().encode(env),
        Err(what) => (atoms::error(), what).encode(env),
    }
}

#[rustler::nif]
fn worker_forget(worker: WorkerArc, id: u64) -> bool {
    worker.forget(id)
}

#[rustler::nif]
fn worker_released(worker: WorkerArc, tokens: Vec<u64>) -> bool {
    worker.released(&tokens).is_ok()
}

#[rustler::nif]
fn worker_freed(worker: WorkerArc) -> Vec<u64> {
    worker.take_freed()
}

/// Whether the worker must be sent the descriptor of this chunk before it can use it; true once.
#[rustler::nif]
fn worker_must_be_told(worker: WorkerArc, id: u64) -> bool {
    worker.must_be_told(id)
}

#[rustler::nif]
fn worker_untell(worker: WorkerArc, id: u64) -> rustler::Atom {
    worker.untell(id);
    atoms::ok()
}

#[rustler::nif]
fn worker_held(worker: WorkerArc) -> usize {
    worker.held()
}

#[rustler::nif]
fn worker_close(worker: WorkerArc) -> rustler::Atom {
    worker.close();
    atoms::ok()
}

/// The descriptor of a chunk, and what keeps it open meanwhile.
#[rustler::nif]
fn chunk_fd<'a>(env: Env<'a>, id: u64) -> Term<'a> {
    match Chunk::by_id(id) {
        Some(chunk) => {
            let (fd, size) = (chunk.fd(), chunk.size());
            (atoms::ok(), fd, size, ResourceArc::new(ChunkRef(chunk))).encode(env)
        }
        None => atoms::error().encode(env),
    }
}

/// Closes a descriptor that was received and is of no use.
#[rustler::nif]
fn close_fd(fd: i32) -> rustler::Atom {
    if fd > 2 {
        // SAFETY: received with SCM_RIGHTS by the caller, who owns it and hands it over.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    atoms::ok()
}

// ---- leases ----------------------------------------------------------------------------------------------------

/// Remembers, without holding them, the slots that binaries in `term` point into.
#[rustler::nif(schedule = "DirtyCpu")]
fn watch<'a>(term: Term<'a>) -> ResourceArc<Watch> {
    let (mut slots, mut bytes) = (Vec::new(), Vec::new());
    let mut todo = vec![term];
    while let Some(term) = todo.pop() {
        match term.get_type() {
            TermType::Binary => {
                let found = Binary::from_term(term).ok().and_then(|b| Chunk::find(b.as_slice()));
                if let Some((slot, _)) = found {
                    bytes.push(slot.len());
                    slots.push(std::sync::Arc::downgrade(&slot));
                }
            }
            TermType::List => todo.extend(term.decode::<ListIterator>().into_iter().flatten()),
            TermType::Tuple => todo.extend(get_tuple(term).unwrap_or_default()),
            TermType::Map => {
                todo.extend(MapIterator::new(term).into_iter().flatten().flat_map(|(k, v)| [k, v]));
            }
            _ => {}
        }
    }
    ResourceArc::new(Watch(slots, bytes))
}

#[rustler::nif]
fn watch_freed(watch: ResourceArc<Watch>) -> u64 {
    watch.freed()
}

/// Whether a binary lies in a segment.
#[rustler::nif]
fn in_segment(binary: Binary) -> bool {
    Chunk::find(binary.as_slice()).is_some()
}

/// memcpy between two warm buffers made here: nanoseconds of each round. A bench's floor.
#[rustler::nif(schedule = "DirtyCpu")]
fn memcpy_floor(len: usize, rounds: usize) -> Vec<u64> {
    let from = vec![7u8; len];
    let mut to = vec![1u8; len];
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = std::time::Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
        times.push(start.elapsed().as_nanos() as u64);
    }
    times
}

rustler::init!("Elixir.Snakepit.Native");
