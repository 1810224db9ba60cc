//! Shared memory as the VM sees it: chunks, slots in them, a pool's arena, and what is known of each worker's memory.

pub mod chunk;
mod issued;
mod nifs;
mod outbound;
pub mod slot;
mod worker;

pub use nifs::refused;
pub use outbound::{GrowError, Outbound, Piece};
pub use worker::{AdoptError, Worker};

use chunk::Chunk;
use rustler::{Resource, ResourceArc};
use slot::Slot;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// Owner ids are never used twice, so that a stale chunk id cannot name another owner's chunk.
fn new_owner() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Keeps a chunk's descriptor open while it is being sent.
pub struct ChunkRef(#[expect(dead_code, reason = "held, not read")] pub Arc<Chunk>);

#[rustler::resource_impl]
impl Resource for ChunkRef {}

/// Slots seen in a term, to learn later whether they were let go.
pub struct Watch(pub Vec<Weak<Slot>>, pub Vec<u64>);

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
