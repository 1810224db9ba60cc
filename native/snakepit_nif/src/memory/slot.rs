//! Slots: pieces of chunks that somebody uses, and what happens when the last user lets go.

use super::chunk::Chunk;
use crossbeam_queue::SegQueue;
use rustler::{LocalPid, Resource, ResourceArc};
use snakepit_core::arena;
use snakepit_core::locks::locked;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// The place that a slot goes back to. Both only queue: a slot may be dropped by a destructor on any scheduler.
pub enum End {
    /// A pool's outbound arena.
    Arena(Arc<SegQueue<arena::Slot>>, arena::Slot),
    /// The worker that owns the chunk; the token goes back with the next frame to it.
    Worker(Arc<SegQueue<u64>>, u64),
}

/// A piece of a chunk that stays as it is while this lives.
pub struct Slot {
    chunk: Arc<Chunk>,
    offset: u64,
    len: u64,
    number: u64,
    end: Option<End>,
    lease: Option<(u32, LocalPid)>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Slot {
    /// A slot which binaries may point into, so that they are found by address. `lease`: the arena and process that
    /// it is counted for.
    pub fn visible(chunk: Arc<Chunk>, offset: u64, len: u64, end: End, lease: Option<(u32, LocalPid)>) -> Arc<Self> {
        let slot = Arc::new(Self::build(chunk, offset, len, end, lease));
        slot.chunk.live().insert((offset, slot.number), Arc::downgrade(&slot));
        if let Some(key) = lease {
            let mut leases = leases();
            let lease = leases.entry(key).or_default();
            lease.held += len;
            lease.since_minor += len;
            lease.since_major += len;
        }
        slot
    }

    /// A slot that only a worker looks at.
    pub fn hidden(chunk: Arc<Chunk>, offset: u64, len: u64, end: End) -> Arc<Self> {
        Arc::new(Self::build(chunk, offset, len, end, None))
    }

    fn build(chunk: Arc<Chunk>, offset: u64, len: u64, end: End, lease: Option<(u32, LocalPid)>) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { chunk, offset, len, number, end: Some(end), lease }
    }

    pub fn chunk(&self) -> &Arc<Chunk> {
        &self.chunk
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.chunk.live().remove(&(self.offset, self.number));
        if let Some(key) = self.lease {
            let mut leases = leases();
            if let Some(lease) = leases.get_mut(&key) {
                lease.held -= self.len;
                if lease.held == 0 {
                    leases.remove(&key);
                }
            }
        }
        match self.end.take() {
            Some(End::Arena(list, slot)) => list.push(slot),
            Some(End::Worker(list, token)) => list.push(token),
            None => {}
        }
    }
}

/// The resource behind a binary that points into a slot.
pub struct SlotBinary(pub Arc<Slot>);

#[rustler::resource_impl]
impl Resource for SlotBinary {}

/// An Elixir binary over the slot, without a copy.
pub fn binary<'a>(env: rustler::Env<'a>, slot: Arc<Slot>) -> rustler::Binary<'a> {
    ResourceArc::new(SlotBinary(slot))
        .make_binary(env, |s| s.0.chunk.bytes(s.0.offset, s.0.len).expect("checked when the slot was made"))
}

/// Bytes of worker memory that binaries made for a process refer to. They do not press the garbage collector, so
/// somebody has to count.
#[derive(Default)]
struct Lease {
    held: u64,
    /// Leased since the process was last asked to collect what is young, and to collect everything.
    since_minor: u64,
    since_major: u64,
}

type Leases = HashMap<(u32, LocalPid), Lease>;

static LEASES: LazyLock<Mutex<Leases>> = LazyLock::new(Mutex::default);

fn leases() -> std::sync::MutexGuard<'static, Leases> {
    locked(&LEASES)
}

/// The garbage collection that a process should make, as leases that nobody needs may lie in its garbage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    None,
    /// The young garbage.
    Minor,
    /// All of it: what the process holds is much of the quota, and minor collections no longer find some of it.
    Major,
}

/// After so many bytes of results a process collects what is young. Then their slots are used again while the CPU's caches
/// have them, and nobody notices the microseconds.
const MINOR: u64 = 1 << 20;

/// To be asked after each reply that leased something; `quota` is that of all workers' arenas of the pool.
pub fn collection(key: (u32, LocalPid), quota: u64) -> Collection {
    let mut leases = leases();
    let Some(lease) = leases.get_mut(&key) else { return Collection::None };
    if lease.held >= quota / 2 && lease.since_major >= quota / 4 {
        (lease.since_minor, lease.since_major) = (0, 0);
        Collection::Major
    } else if lease.since_minor >= MINOR.min(quota / 4) {
        lease.since_minor = 0;
        Collection::Minor
    } else {
        Collection::None
    }
}

/// All leases of an arena: who holds how many bytes, largest first.
pub fn leases_of(owner: u32) -> Vec<(LocalPid, u64)> {
    let leases = leases();
    let of_owner = leases.iter().filter(|((o, _), _)| *o == owner);
    let mut all: Vec<_> = of_owner.map(|((_, pid), lease)| (*pid, lease.held)).collect();
    all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    all
}
