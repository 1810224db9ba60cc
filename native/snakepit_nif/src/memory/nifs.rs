//! The functions of Elixir for shared memory: a pool's arena, what is known of a worker's memory, and chunks.

use super::chunk::{self, Chunk};
use super::slot;
use super::{AdoptError, ChunkRef, GrowError, Outbound, OutboundArc, Watch, Worker, WorkerArc};
use crate::atoms;
use crate::bounds::TOKENS;
use rustler::types::map::MapIterator;
use rustler::types::tuple::get_tuple;
use rustler::{Binary, Encoder, Env, ListIterator, LocalPid, NifResult, ResourceArc, Term, TermType};
use snakepit_core::arena::Refused;
use std::os::fd::{FromRawFd, OwnedFd};

/// The arena is closed when the calling process ends.
#[rustler::nif]
fn arena_new(env: Env, chunk_size: u64, quota: u64) -> (OutboundArc, u32) {
    let arena = ResourceArc::new(Outbound::new(chunk_size, quota));
    env.monitor(&arena, &env.pid());
    let owner = arena.owner;
    (arena, owner)
}

/// Makes sure that buffers of all these lengths find warm memory at once; `{:ok, ids of the chunks it took}`.
#[rustler::nif(schedule = "DirtyIo")]
fn arena_ensure<'a>(env: Env<'a>, arena: OutboundArc, lens: Vec<u64>) -> Term<'a> {
    chunk::unmap_unused();
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

pub fn refused<'a>(env: Env<'a>, error: GrowError) -> Term<'a> {
    match error {
        GrowError::Closed => (atoms::error(), atoms::closed()).encode(env),
        GrowError::Refused(Refused::Quota { held, quota }) => {
            (atoms::error(), (atoms::quota(), held, quota)).encode(env)
        }
        GrowError::Refused(Refused::TooLarge) => (atoms::error(), atoms::too_large()).encode(env),
        GrowError::Chunk(error) => (atoms::error(), (atoms::errno(), error.to_string())).encode(env),
    }
}

/// Drops chunks that have been idle, unmaps what nobody refers to any more. Whether it wants a spare chunk.
#[rustler::nif(schedule = "DirtyIo")]
fn arena_tend(arena: OutboundArc, idle_ms: u64) -> bool {
    arena.drop_idle(idle_ms);
    chunk::unmap_unused();
    arena.wants_spare()
}

#[rustler::nif]
fn arena_chunks(arena: OutboundArc) -> Vec<(u64, u64)> {
    arena.chunks()
}

#[rustler::nif(schedule = "DirtyCpu")]
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

#[rustler::nif(schedule = "DirtyCpu")]
fn arena_leases(arena: OutboundArc) -> Vec<(LocalPid, u64)> {
    slot::leases_of(arena.owner)
}

/// Copies a binary into the arena, where memory that is not there is made; the answer is the same bytes, living there.
#[rustler::nif(schedule = "DirtyIo")]
fn arena_share<'a>(env: Env<'a>, arena: OutboundArc, binary: Binary<'a>) -> Term<'a> {
    chunk::unmap_unused();
    match arena.alloc_or_grow(binary.len() as u64) {
        Ok(Some(piece)) => {
            piece.fill(binary.as_slice());
            (atoms::ok(), slot::binary(env, piece.into_slot(true)).to_term(env)).encode(env)
        }
        Ok(None) => (atoms::error(), atoms::taken()).encode(env),
        Err(error) => refused(env, error),
    }
}

/// The worker's chunks are forgotten when the calling process ends.
#[rustler::nif]
fn worker_new(env: Env, arena: OutboundArc, quota: u64) -> (WorkerArc, u32) {
    let worker = ResourceArc::new(Worker::new(arena.owner, quota));
    env.monitor(&worker, &env.pid());
    let owner = worker.owner;
    (worker, owner)
}

/// Maps a chunk of the worker. Takes the descriptor over, whatever the answer.
#[rustler::nif(schedule = "DirtyIo")]
fn worker_adopt<'a>(env: Env<'a>, worker: WorkerArc, id: u64, size: u64, fd: i32) -> Term<'a> {
    if fd < 0 {
        return (atoms::error(), "no file descriptor came with the chunk").encode(env);
    }
    // SAFETY: the descriptor was received by the caller with SCM_RIGHTS and handed over to this function alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    adopted(env, worker.adopt(id, size, fd))
}

fn adopted<'a>(env: Env<'a>, answer: Result<(), AdoptError>) -> Term<'a> {
    match answer {
        Ok(()) => atoms::ok().encode(env),
        Err(AdoptError::Broken(what)) => (atoms::error(), what).encode(env),
        Err(AdoptError::Refused(what)) => (atoms::error(), (atoms::errno(), what)).encode(env),
    }
}

/// As if mapping this chunk of the worker had been refused: its descriptor was lost.
#[rustler::nif]
fn worker_refuse<'a>(env: Env<'a>, worker: WorkerArc, id: u64) -> Term<'a> {
    adopted(env, worker.refuse(id))
}

#[rustler::nif]
fn worker_forget(worker: WorkerArc, id: u64) -> bool {
    worker.forget(id)
}

/// `:dirty` if there are too many for an ordinary scheduler.
#[rustler::nif]
fn worker_released_clean<'a>(env: Env<'a>, worker: WorkerArc, tokens: Term<'a>) -> NifResult<Term<'a>> {
    if tokens.list_length()? > TOKENS {
        return Ok(atoms::dirty().encode(env));
    }
    Ok(worker.released(&tokens.decode::<Vec<u64>>()?).is_ok().encode(env))
}

#[rustler::nif(schedule = "DirtyCpu")]
fn worker_released_dirty(worker: WorkerArc, tokens: Vec<u64>) -> bool {
    worker.released(&tokens).is_ok()
}

/// At most [`TOKENS`] of them; the others are in the next answer.
#[rustler::nif]
fn worker_freed_some(worker: WorkerArc) -> Vec<u64> {
    worker.take_freed(TOKENS)
}

/// Whether the worker must be sent the descriptor of this chunk before it can use it; true once.
#[rustler::nif]
fn worker_needs_chunk(worker: WorkerArc, id: u64) -> bool {
    worker.needs_chunk(id)
}

/// The chunks the worker was sent that are gone by now, each once.
#[rustler::nif]
fn worker_stale(worker: WorkerArc) -> Vec<u64> {
    worker.stale()
}

/// The latest call that was written for a lane: `{id, stream?, holds?, read?}`, or nil.
#[rustler::nif]
fn worker_last_call(worker: WorkerArc, lane: u32) -> Option<(u64, bool, bool, bool)> {
    worker.calls.last(lane)
}

#[rustler::nif]
fn worker_unsent(worker: WorkerArc, lane: u32) -> rustler::Atom {
    worker.calls.unsent(lane);
    atoms::ok()
}

/// `[{lane, command, correlation id, ms}]`
#[rustler::nif]
fn worker_unanswered(worker: WorkerArc) -> Vec<(u32, String, Option<String>, u64)> {
    worker.calls.unanswered().into_iter().map(|call| (call.lane, call.command, call.correlation_id, call.ms)).collect()
}

#[rustler::nif]
fn worker_held(worker: WorkerArc) -> usize {
    worker.held()
}

/// Gives back all that the worker held.
#[rustler::nif(schedule = "DirtyCpu")]
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

/// The descriptor was sent. That this is called is what keeps the chunk, and so the descriptor, until then.
#[rustler::nif]
fn chunk_sent(_chunk: ResourceArc<ChunkRef>) -> rustler::Atom {
    atoms::ok()
}

/// Unmaps the chunks that nothing refers to any more.
#[rustler::nif(schedule = "DirtyIo")]
fn unmap_unused() -> rustler::Atom {
    chunk::unmap_unused();
    atoms::ok()
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

/// Whether a binary lies in a chunk.
#[rustler::nif]
fn in_chunk(binary: Binary) -> bool {
    Chunk::find(binary.as_slice()).is_some()
}
