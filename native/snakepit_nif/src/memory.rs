//! The resources Elixir holds: a pool's outbound arena, and what is known of a worker's memory.

use crate::chunk::{Chunk, ChunkError};
use crate::slot::{End, Slot};
use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc};
use snakepit_core::arena::{self, Arena, Refused, Usage};
use snakepit_core::call;
use snakepit_core::frame::Place;
use snakepit_core::free_list::FreeList;
use snakepit_core::holds::{Holds, UnknownToken};
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Instant;

/// How often memory is made for a piece that others take.
const TRIES: usize = 12;

/// Owner ids are never used twice, so that a stale chunk id cannot name another owner's chunk.
static NEXT_OWNER: AtomicU32 = AtomicU32::new(1);
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
    returned: Arc<FreeList<arena::Slot>>,
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
            owner: NEXT_OWNER.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State { arena: Arena::new(chunk_size, quota), chunks: HashMap::new(), closed: false }),
            returned: Arc::default(),
        }
    }

    /// Bookkeeping only happens under this lock: never a copy, never a system call.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().expect("arena");
        self.returned.take().for_each(|slot| state.arena.free(slot));
        state
    }

    /// Warm memory for `len` bytes, if there is any; it is the caller's alone.
    pub fn alloc(&self, len: u64) -> Option<Piece> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let slot = state.arena.alloc(len, now_ms())?;
        let chunk = state.chunks.get(&slot.chunk)?.clone();
        Some(Piece { chunk, slot, len, list: Some(self.returned.clone()) })
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

    /// Drops chunks idle for `idle_ms`. Workers learn of it by [`Worker::stale`].
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
    list: Option<Arc<FreeList<arena::Slot>>>,
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

/// What the VM knows of one run of a worker: its chunks, and what it was sent and still looks at.
pub struct Worker {
    pub owner: u32,
    /// The arena whose quota and leases this worker's results count for.
    pub pool: u32,
    /// Bytes that the arenas of all workers of its pool may have.
    pub quota: u64,
    chunks: Mutex<HashMap<u64, Arc<Chunk>>>,
    /// Its chunks that could not be mapped here, for want of memory or descriptors.
    refused: Mutex<HashSet<u64>>,
    holds: Mutex<Holds<Arc<Slot>>>,
    /// Chunk ids that this worker has been sent, of others than itself.
    announced: Mutex<HashSet<u64>>,
    freed: Arc<FreeList<u64>>,
    /// By lane: the latest call that was written for it.
    calls: Mutex<HashMap<u32, Issued>>,
}

/// Why a worker's chunk is not mapped.
pub enum AdoptError {
    /// The worker broke a rule.
    Broken(String),
    /// The system refused.
    Refused(String),
}

/// Envelopes up to this size are kept for the correlation id at their end.
const KEPT_ENVELOPE: usize = 4096;

/// A call whose request was made. One per lane, reused by the next call: nothing is allocated for it.
struct Issued {
    id: u64,
    stream: bool,
    /// Whether its last reply was read.
    read: bool,
    /// It is known that the worker did not get it.
    unsent: bool,
    at: Instant,
    command: String,
    /// The envelope, if it names a caller and is not large; else empty.
    envelope: Vec<u8>,
}

/// A call whose last reply nobody has read.
pub struct Unanswered {
    pub lane: u32,
    pub command: String,
    pub correlation_id: Option<String>,
    pub ms: u64,
}

#[rustler::resource_impl]
impl Resource for Worker {
    /// The worker's process here was killed, or it would have closed this itself. What the OS process was sent stays, as that
    /// may not have ended yet.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.forget_all();
    }
}

impl Worker {
    pub fn new(pool: u32, quota: u64) -> Self {
        Self {
            owner: NEXT_OWNER.fetch_add(1, Ordering::Relaxed),
            pool,
            quota,
            chunks: Mutex::default(),
            refused: Mutex::default(),
            holds: Mutex::default(),
            announced: Mutex::default(),
            freed: Arc::default(),
            calls: Mutex::default(),
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u32, Issued>> {
        self.calls.lock().expect("calls")
    }

    /// A request was made: whoever made it may die before it is sent.
    pub fn issue(&self, lane: u32, id: u64, stream: bool, envelope: &[u8]) {
        let at = Instant::now();
        let mut calls = self.calls();
        let issued = calls.entry(lane).or_insert_with(|| Issued {
            id,
            stream,
            read: false,
            unsent: false,
            at,
            command: String::new(),
            envelope: Vec::new(),
        });
        (issued.id, issued.stream, issued.read, issued.unsent, issued.at) = (id, stream, false, false, at);
        call::command(envelope, &mut issued.command);
        issued.envelope.clear();
        if envelope.len() <= KEPT_ENVELOPE && call::names_caller(envelope) {
            issued.envelope.extend_from_slice(envelope);
        }
    }

    /// The latest call of a lane could not be sent: it never ran.
    pub fn unsent(&self, lane: u32) {
        if let Some(issued) = self.calls().get_mut(&lane) {
            issued.unsent = true;
        }
    }

    /// What ran, or still runs, on this worker: what it died of, if it died.
    pub fn unanswered(&self) -> Vec<Unanswered> {
        let calls = self.calls();
        let open = calls.iter().filter(|(_, issued)| !issued.read && !issued.unsent);
        open.map(|(lane, issued)| Unanswered {
            lane: *lane,
            command: issued.command.clone(),
            correlation_id: call::correlation_id(&issued.envelope),
            ms: issued.at.elapsed().as_millis() as u64,
        })
        .collect()
    }

    /// The last reply of this call was read, and what it grants and returns was taken.
    pub fn finish(&self, id: u64) {
        if let Some(call) = self.calls().values_mut().find(|call| call.id == id) {
            call.read = true;
        }
    }

    /// Its id, whether it is a stream, and whether its last reply was read.
    pub fn last_call(&self, lane: u32) -> Option<(u64, bool, bool)> {
        self.calls().get(&lane).map(|issued| (issued.id, issued.stream, issued.read))
    }

    /// Maps a chunk the worker announced. Its id must be of this worker's own.
    pub fn adopt(&self, id: u64, size: u64, fd: OwnedFd) -> Result<(), AdoptError> {
        let broken = |what: String| Err(AdoptError::Broken(what));
        if id >> 32 != u64::from(self.owner) {
            return broken(format!("chunk {id:#x} is not this worker's"));
        }
        if self.chunks().contains_key(&id) {
            return broken(format!("chunk {id:#x} was announced twice"));
        }
        match Chunk::adopt(id, size, fd) {
            Ok(chunk) => {
                self.chunks().insert(id, chunk);
                Ok(())
            }
            // The system's doing, not the worker's.
            Err(error @ (ChunkError::Map(_) | ChunkError::Inspect(_))) => {
                self.refuse(id);
                Err(AdoptError::Refused(error.to_string()))
            }
            Err(error) => broken(error.to_string()),
        }
    }

    /// A chunk that the worker announced cannot be mapped here: what lies in it cannot be read, and is let go.
    pub fn refuse(&self, id: u64) {
        self.refused.lock().expect("refused").insert(id);
    }

    pub fn is_refused(&self, id: u64) -> bool {
        self.refused.lock().expect("refused").contains(&id)
    }

    /// Forgets a chunk; binaries that point into it keep its mapping.
    pub fn forget(&self, id: u64) -> bool {
        self.refused.lock().expect("refused").remove(&id);
        self.chunks().remove(&id).is_some()
    }

    fn chunks(&self) -> MutexGuard<'_, HashMap<u64, Arc<Chunk>>> {
        self.chunks.lock().expect("chunks")
    }

    fn holds(&self) -> MutexGuard<'_, Holds<Arc<Slot>>> {
        self.holds.lock().expect("holds")
    }

    /// The chunk a reply refers to, if it was announced and dropped neither.
    pub fn chunk(&self, id: u64) -> Option<Arc<Chunk>> {
        self.chunks().get(&id).cloned()
    }

    /// Keeps `slot` as it is until the worker returns the place's token. The place starts at `offset` of the chunk.
    pub fn hold(&self, slot: Arc<Slot>, offset: u64, len: u64) -> Place {
        let chunk = slot.chunk().id();
        Place { chunk, offset, len, token: self.holds().insert(slot) }
    }

    /// The worker no longer looks at these.
    pub fn released(&self, tokens: &[u64]) -> Result<(), UnknownToken> {
        if tokens.is_empty() {
            return Ok(());
        }
        let slots = {
            let mut holds = self.holds();
            tokens.iter().map(|t| holds.remove(*t)).collect::<Result<Vec<_>, _>>()?
        };
        // Dropped outside the lock: a slot of this worker's own queues its token elsewhere.
        drop(slots);
        Ok(())
    }

    pub fn held(&self) -> usize {
        self.holds().len()
    }

    /// Whether the worker must be sent this chunk's descriptor first; says so once.
    pub fn needs_chunk(&self, id: u64) -> bool {
        id >> 32 != u64::from(self.owner) && self.announced.lock().expect("announced").insert(id)
    }

    /// The chunks this worker was told of that are gone by now, each once: it may unmap them.
    pub fn stale(&self) -> Vec<u64> {
        self.announced.lock().expect("announced").extract_if(|id| Chunk::by_id(*id).is_none()).collect()
    }

    pub fn freed_list(&self) -> Arc<FreeList<u64>> {
        self.freed.clone()
    }

    /// The tokens of this worker's slots that were let go since the last call.
    pub fn take_freed(&self) -> Vec<u64> {
        self.freed.take().collect()
    }

    /// The worker is gone: nothing it was sent is looked at any more. Its own chunks live on while binaries do.
    pub fn close(&self) {
        let slots = self.holds().drain();
        self.forget_all();
        drop(slots);
    }

    fn forget_all(&self) {
        // Dropped outside the lock.
        let chunks = std::mem::take(&mut *self.chunks());
        drop(chunks);
    }
}

/// Keeps a chunk's descriptor open while it is being sent.
pub struct ChunkRef(#[expect(dead_code, reason = "held, not read")] pub Arc<Chunk>);

#[rustler::resource_impl]
impl Resource for ChunkRef {}

/// Slots seen in a term, to learn later whether they were let go.
pub struct Watch(pub Vec<std::sync::Weak<Slot>>, pub Vec<u64>);

#[rustler::resource_impl]
impl Resource for Watch {}

impl Watch {
    /// Bytes of the watched slots that are free now.
    pub fn freed(&self) -> u64 {
        self.0.iter().zip(&self.1).filter(|(slot, _)| slot.strong_count() == 0).map(|(_, bytes)| bytes).sum()
    }
}

pub type OutboundArc = ResourceArc<Outbound>;
pub type WorkerArc = ResourceArc<Worker>;
