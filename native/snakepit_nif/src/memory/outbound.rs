//! The memory a pool's callers write requests into, and its life from a piece to a slot.

use super::chunk::Chunk;
use super::new_owner;
use super::slot::{End, Slot};
use crate::bounds::RETURNED_SLOTS;
use crossbeam_queue::SegQueue;
use rustler::{Env, LocalPid, Monitor, Resource};
use snakepit_core::arena::{self, Arena, Refused, Usage};
use snakepit_core::locks::locked;
use snakepit_memfd::ChunkError;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Instant;

/// How often memory is made for a piece that others take.
const TRIES: usize = 12;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64
}

fn chunk_id(owner: u32, number: u32) -> u64 {
    u64::from(owner) << 32 | u64::from(number)
}

struct State {
    arena: Arena,
    chunks: HashMap<u32, Arc<Chunk>>,
    /// Its pool is gone: nothing is given out any more.
    closed: bool,
}

impl State {
    fn drop_idle(&mut self, idle_ms: u64) {
        for number in self.arena.drop_idle(now_ms(), idle_ms) {
            self.chunks.remove(&number);
        }
    }
}

/// The memory a pool's callers write requests into.
pub struct Outbound {
    pub owner: u32,
    state: Mutex<State>,
    /// Slots that came back, from destructors that must not wait, and are not in order yet. The arena hands out first what
    /// it put in order last, which is the warmest.
    returned: Arc<SegQueue<arena::Slot>>,
}

#[rustler::resource_impl]
impl Resource for Outbound {
    /// The pool's process ended, in whatever way. Its handle may lie on the heaps of other processes for as long as these do
    /// not collect; memory does not wait for that.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.close();
    }
}

/// Why a chunk could not be added.
pub enum GrowError {
    /// The pool is gone.
    Closed,
    Refused(Refused),
    Chunk(ChunkError),
}

impl Outbound {
    pub fn new(chunk_size: u64, quota: u64) -> Self {
        Self {
            owner: new_owner(),
            state: Mutex::new(State { arena: Arena::new(chunk_size, quota), chunks: HashMap::new(), closed: false }),
            returned: Arc::default(),
        }
    }

    /// Bookkeeping only happens under this lock: never a copy, never a system call. At most `most` slots that came back are
    /// put in order first.
    fn lock(&self, most: usize) -> MutexGuard<'_, State> {
        let mut state = locked(&self.state);
        (0..most).map_while(|_| self.returned.pop()).for_each(|slot| state.arena.free(slot));
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.lock(usize::MAX)
    }

    /// Warm memory for `len` bytes, if there is any; it is the caller's alone.
    pub fn alloc(&self, len: u64) -> Option<Piece> {
        loop {
            let mut state = self.lock(RETURNED_SLOTS);
            if state.closed {
                return None;
            }
            match state.arena.alloc(len, now_ms()) {
                Some(slot) => {
                    let chunk = state.chunks.get(&slot.chunk)?.clone();
                    return Some(Piece { chunk, slot, len, list: Some(self.returned.clone()) });
                }
                None if self.returned.is_empty() => return None,
                // One of the slots that came back may serve.
                None => {}
            }
        }
    }

    /// As [`Outbound::alloc`], but memory that is not there is made. `None`: others took it as fast as it was made.
    pub fn alloc_or_grow(&self, len: u64) -> Result<Option<Piece>, GrowError> {
        for _ in 0..TRIES {
            match self.alloc(len) {
                Some(piece) => return Ok(Some(piece)),
                None => self.grow(len)?,
            };
        }
        Ok(self.alloc(len))
    }

    /// Adds a chunk that can serve `len` bytes. Slow: every page of it is made.
    pub fn grow(&self, len: u64) -> Result<Arc<Chunk>, GrowError> {
        let reserved = {
            let mut state = self.state();
            if state.closed {
                return Err(GrowError::Closed);
            }
            // Chunks nobody uses stand back for one that somebody wants.
            state.arena.reserve(len).or_else(|_| {
                state.drop_idle(0);
                state.arena.reserve(len)
            })
        };
        let (number, size) = reserved.map_err(GrowError::Refused)?;
        match Chunk::create(chunk_id(self.owner, number), size) {
            Ok(chunk) => {
                let mut state = self.state();
                if state.closed {
                    return Err(GrowError::Closed);
                }
                state.chunks.insert(number, chunk.clone());
                state.arena.commit(number, now_ms());
                Ok(chunk)
            }
            Err(error) => {
                self.state().arena.cancel(number);
                Err(GrowError::Chunk(error))
            }
        }
    }

    /// Lets go of all chunks. Those that a binary or a worker still looks at live until it does not.
    fn close(&self) {
        let chunks = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.chunks)
        };
        drop(chunks);
    }

    /// Ids and sizes of all chunks, for a worker that is new.
    pub fn chunks(&self) -> Vec<(u64, u64)> {
        self.state().chunks.values().map(|c| (c.id(), c.size())).collect()
    }

    /// Drops chunks idle for `idle_ms`. [`super::Worker::stale`] then names them, for each worker that has them.
    pub fn drop_idle(&self, idle_ms: u64) {
        self.state().drop_idle(idle_ms);
    }

    pub fn wants_spare(&self) -> bool {
        self.state().arena.wants_spare()
    }

    pub fn usage(&self) -> Usage {
        self.state().arena.usage()
    }
}

/// Memory allocated but not yet visible to anybody: goes back unless it becomes a slot.
pub struct Piece {
    chunk: Arc<Chunk>,
    slot: arena::Slot,
    len: u64,
    /// Gone once the piece became a slot.
    list: Option<Arc<SegQueue<arena::Slot>>>,
}

impl Piece {
    /// Copies `bytes` (as many as were asked for) into the piece.
    pub fn fill(&self, bytes: &[u8]) {
        assert_eq!(bytes.len() as u64, self.len);
        // SAFETY: outbound chunks are created, not adopted; the allocator gave this slot to this piece alone, and
        // nothing refers to it before it becomes a `Slot`.
        unsafe { self.chunk.write(self.slot.offset, bytes) }
    }

    /// The piece as a slot; `visible` if a binary will point into it.
    pub fn into_slot(mut self, visible: bool) -> Arc<Slot> {
        let list = self.list.take().expect("taken once");
        let (chunk, offset, len) = (self.chunk.clone(), self.slot.offset, self.len);
        let end = End::Arena(list, self.slot);
        if visible { Slot::visible(chunk, offset, len, end, None) } else { Slot::hidden(chunk, offset, len, end) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(list) = self.list.take() {
            list.push(self.slot);
        }
    }
}
