//! An envelope and its buffers become a request's frame; by zero_copy, buffers that lie in no chunk are copied into the
//! pool's arena.

use crate::atoms;
use crate::bounds;
use crate::memory::chunk::{self, Chunk};
use crate::memory::slot::Slot;
use crate::memory::{Outbound, OutboundArc, Piece, Worker, WorkerArc, refused};
use rustler::{Binary, Encoder, Env, Error, NewBinary, NifResult, Term};
use snakepit_core::frame::{self, Ask, FLAG_SPIN, FLAG_STREAM, Place, Request, Way};
use std::sync::atomic::{AtomicU64, Ordering};

/// An envelope of at most so many bytes is a part of the binary that its frame's head is.
const JOINED: usize = 8 * 1024;

static CALL: AtomicU64 = AtomicU64::new(1);

/// `(kind, way, reply mask, flags, timeout ms, lane)`
type Head = (u8, u8, u8, u8, u32, u16);

/// Where each buffer of a zero_copy request goes.
enum Target {
    /// It lies in a chunk already.
    There(std::sync::Arc<Slot>, u64),
    Copy(Piece),
}

/// How long writing a request may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    /// It runs on an ordinary scheduler.
    Little,
    /// It runs on a dirty one, and copies as much as there is.
    ToCopy,
    /// So it does, and it makes memory that is not there.
    ToMakeRoom,
}

/// The core that this thread runs on, counted from 1; 0 where it is not known. `sched_getcpu(3)` is no system call.
fn this_core() -> u16 {
    // SAFETY: it takes nothing and writes nowhere.
    let core = unsafe { libc::sched_getcpu() };
    u16::try_from(core + 1).unwrap_or(0)
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
    let (kind, way) = Ask::from_u8(kind).zip(Way::from_u8(way)).ok_or(Error::BadArg)?;
    let call_id = CALL.fetch_add(1, Ordering::Relaxed);
    // A dirty scheduler is not the one that waits for the reply.
    let core = if flags & FLAG_SPIN != 0 && time == Time::Little { this_core() } else { 0 };
    let request = Request { kind, way, reply_mask, flags, call_id, timeout_ms, lane, core };
    let lens: Vec<u64> = buffers.iter().map(|b| b.len() as u64).collect();

    let mut places: Vec<Place> = Vec::new();
    let mut unsent_chunks: Vec<u64> = Vec::new();
    let mut copied = 0;
    if way == Way::ZeroCopy {
        let found: Vec<_> = buffers.iter().map(|b| Chunk::find(b.as_slice())).collect();
        let missing: Vec<u64> = lens.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(l, _)| *l).collect();
        copied = missing.iter().sum();
        if time == Time::Little && copied > bounds::COPIED_BYTES {
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
                unsent_chunks.push(id);
            }
            places.push(worker.hold(slot, offset, buffer.len() as u64));
        }
    }

    // A request by gRPC may turn out not to be sendable: its tokens go by the control socket, which returns each once.
    let freed = if way == Way::Grpc { Vec::new() } else { worker.take_freed(bounds::TOKENS) };
    let head = frame::HEADER + lens.len() * frame::entry(way) + freed.len() * frame::TOKEN;
    // A large envelope is sent from where it lies; a small one is copied sooner than kept apart.
    let apart = way != Way::Grpc && envelope.len() > JOINED;
    let mut out = Vec::with_capacity(if apart { head } else { head + envelope.len() });
    request.write(&mut out, envelope.len(), &lens, &places, &freed);
    if !apart {
        out.extend_from_slice(envelope.as_slice());
    }
    let first: Term = NewBinary::from_slice(env, &out).into();
    let beside = if way == Way::Inline { &buffers[..] } else { &[] };
    let frame = if apart || !beside.is_empty() {
        let mut parts = vec![first];
        if apart {
            parts.push(envelope.to_term(env));
        }
        let mut position = head + envelope.len();
        for buffer in beside {
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
    if kind == Ask::Call {
        let holds = !places.is_empty() || !freed.is_empty();
        worker.calls.issue(lane.into(), call_id, flags & FLAG_STREAM != 0, holds, envelope.as_slice());
    }
    Ok((atoms::ok(), call_id, frame, unsent_chunks, copied).encode(env))
}

#[rustler::nif]
fn request_clean<'a>(
    env: Env<'a>,
    worker: WorkerArc,
    arena: OutboundArc,
    head: Head,
    envelope: Binary<'a>,
    buffers: Term<'a>,
) -> NifResult<Term<'a>> {
    if buffers.list_length()? > bounds::BUFFERS {
        return Ok(atoms::dirty().encode(env));
    }
    write_request(env, &worker, &arena, head, envelope, buffers.decode()?, Time::Little)
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
