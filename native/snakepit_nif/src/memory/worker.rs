//! The VM's knowledge of one run of a worker: its chunks, what it was sent and still looks at, and its latest calls.

use super::chunk::Chunk;
use super::issued::IssuedCalls;
use super::new_owner;
use super::slot::Slot;
use crossbeam_queue::SegQueue;
use rustler::{Env, LocalPid, Monitor, Resource};
use snakepit_core::frame::Place;
use snakepit_core::holds::{Holds, UnknownToken};
use snakepit_core::locks::locked;
use snakepit_memfd::ChunkError;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// One run of a worker.
pub struct Worker {
    pub owner: u32,
    /// The arena whose quota and leases this worker's results count for.
    pub pool: u32,
    /// Bytes that the arenas of all workers of its pool may have.
    pub quota: u64,
    pub calls: IssuedCalls,
    chunks: Mutex<OwnChunks>,
    holds: Mutex<Holds<Arc<Slot>>>,
    /// Ids of chunks of others whose descriptors this worker has been sent.
    sent: Mutex<HashSet<u64>>,
    freed: Arc<SegQueue<u64>>,
}

/// The chunks of the worker's own arena.
#[derive(Default)]
struct OwnChunks {
    mapped: HashMap<u64, Arc<Chunk>>,
    /// Those that could not be mapped here, for want of memory or descriptors.
    refused: HashSet<u64>,
    /// The largest id so far. Ids only grow: with an id that came again, a chunk that was dropped, but which a binary still
    /// points into, would hide the new one.
    latest: Option<u64>,
}

/// Why a worker's chunk is not mapped.
pub enum AdoptError {
    /// The worker broke a rule.
    Broken(String),
    /// The system refused.
    Refused(String),
}

#[rustler::resource_impl]
impl Resource for Worker {
    /// The worker's process here was killed, or it would have closed this itself. The slots that the OS process was
    /// sent stay, as that may not have ended yet.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.forget_all();
    }
}

impl Worker {
    pub fn new(pool: u32, quota: u64) -> Self {
        Self {
            owner: new_owner(),
            pool,
            quota,
            calls: IssuedCalls::default(),
            chunks: Mutex::default(),
            holds: Mutex::default(),
            sent: Mutex::default(),
            freed: Arc::default(),
        }
    }

    fn chunks(&self) -> MutexGuard<'_, OwnChunks> {
        locked(&self.chunks)
    }

    fn holds(&self) -> MutexGuard<'_, Holds<Arc<Slot>>> {
        locked(&self.holds)
    }

    /// Takes note of the id of a chunk that the worker announced, which must be its own and new.
    fn announced(&self, id: u64) -> Result<(), AdoptError> {
        let broken = |what: String| Err(AdoptError::Broken(what));
        if id >> 32 != u64::from(self.owner) {
            return broken(format!("chunk {id:#x} is not this worker's"));
        }
        let mut chunks = self.chunks();
        match chunks.latest {
            Some(latest) if id == latest => return broken(format!("chunk {id:#x} was announced twice")),
            Some(latest) if id < latest => {
                return broken(format!("chunk {id:#x} was announced after chunk {latest:#x}, and ids only grow"));
            }
            _ => chunks.latest = Some(id),
        }
        Ok(())
    }

    /// Maps a chunk the worker announced.
    pub fn adopt(&self, id: u64, size: u64, fd: OwnedFd) -> Result<(), AdoptError> {
        self.announced(id)?;
        match Chunk::adopt(id, size, fd) {
            Ok(chunk) => {
                self.chunks().mapped.insert(id, chunk);
                Ok(())
            }
            // The system's doing, not the worker's.
            Err(error @ (ChunkError::Map(_) | ChunkError::Inspect(_))) => {
                self.chunks().refused.insert(id);
                Err(AdoptError::Refused(error.to_string()))
            }
            Err(error) => Err(AdoptError::Broken(error.to_string())),
        }
    }

    /// A chunk that the worker announced cannot be mapped here: what lies in it cannot be read, and is let go.
    pub fn refuse(&self, id: u64) -> Result<(), AdoptError> {
        self.announced(id)?;
        self.chunks().refused.insert(id);
        Ok(())
    }

    pub fn is_refused(&self, id: u64) -> bool {
        self.chunks().refused.contains(&id)
    }

    /// Forgets a chunk; binaries that point into it keep its mapping.
    pub fn forget(&self, id: u64) -> bool {
        let forgotten = {
            let mut chunks = self.chunks();
            chunks.refused.remove(&id);
            chunks.mapped.remove(&id)
        };
        // Dropped outside the lock.
        forgotten.is_some()
    }

    /// The chunk a reply refers to, if it was announced and not dropped since.
    pub fn chunk(&self, id: u64) -> Option<Arc<Chunk>> {
        self.chunks().mapped.get(&id).cloned()
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

    /// Whether the worker must be sent this chunk's descriptor before it can read it; true once for each chunk.
    pub fn needs_chunk(&self, id: u64) -> bool {
        id >> 32 != u64::from(self.owner) && locked(&self.sent).insert(id)
    }

    /// The chunks this worker was sent that are gone by now, each once: it may unmap them.
    pub fn stale(&self) -> Vec<u64> {
        locked(&self.sent).extract_if(|id| Chunk::by_id(*id).is_none()).collect()
    }

    /// Where the tokens of this worker's slots go when they are let go.
    pub fn freed(&self) -> &Arc<SegQueue<u64>> {
        &self.freed
    }

    /// Tokens of this worker's slots that were let go: at most so many, each once. The others come with a later call.
    pub fn take_freed(&self, most: usize) -> Vec<u64> {
        (0..most).map_while(|_| self.freed.pop()).collect()
    }

    /// The worker is gone: nothing it was sent is looked at any more. Its own chunks live on while binaries do.
    pub fn close(&self) {
        let slots = self.holds().drain();
        self.forget_all();
        drop(slots);
    }

    fn forget_all(&self) {
        // Dropped outside the lock.
        let mapped = std::mem::take(&mut self.chunks().mapped);
        drop(mapped);
    }
}
