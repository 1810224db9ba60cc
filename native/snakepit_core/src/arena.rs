//! The allocator of an arena: which slot of which chunk serves the next buffer. Pure bookkeeping; the memory itself is
//! the caller's.
//!
//! Slots come from size classes, last freed first, because memory that was touched a moment ago is written 10-30 times
//! faster than fresh pages. Every operation is O(1) but for the search for a chunk with room, which is bounded by the
//! number of chunks and happens once per chunk filled. A chunk whose last slot is freed starts over from its
//! beginning, which undoes any splitting into unfortunate classes.

use crate::class;
use std::collections::BTreeMap;

/// A slot handed out. Give it back with [`Arena::free`], once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub chunk: u32,
    pub offset: u64,
    pub size: u64,
}

/// Why no chunk may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `held + size` would exceed the quota.
    Quota { held: u64, quota: u64 },
    /// No class is this large.
    TooLarge,
}

struct Chunk {
    size: u64,
    /// Holds one large slot and is never cut.
    alone: bool,
    /// Bytes cut into slots so far.
    cut: u64,
    live: u32,
    /// Counts the times the chunk started over; free slots of an earlier life are void.
    life: u32,
    /// Reserved but not committed yet: its memory is still being made.
    pending: bool,
    /// Nothing more is put there: see [`Arena::refuse`].
    refused: bool,
    used_ms: u64,
}

#[derive(Clone, Copy)]
struct Free {
    slot: Slot,
    life: u32,
}

/// The slots and chunks of one arena.
pub struct Arena {
    chunk_size: u64,
    quota: u64,
    held: u64,
    next: u32,
    open: Option<u32>,
    chunks: BTreeMap<u32, Chunk>,
    free: Vec<Vec<Free>>,
    live_bytes: u64,
}

/// Counts for statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub chunks: u64,
    pub held_bytes: u64,
    pub live_slots: u64,
    pub live_bytes: u64,
}

impl Arena {
    /// An arena without memory: ordinary chunks of `chunk_size` bytes, at most `quota` bytes in all.
    pub fn new(chunk_size: u64, quota: u64) -> Self {
        Self {
            chunk_size: class::size(chunk_size).unwrap_or(class::MAX),
            quota,
            held: 0,
            next: 0,
            open: None,
            chunks: BTreeMap::new(),
            free: vec![Vec::new(); class::COUNT],
            live_bytes: 0,
        }
    }

    fn alone(&self, size: u64) -> bool {
        size > self.chunk_size / 2
    }

    /// A slot for `len` bytes in memory that is there already, or `None`: then [`Self::reserve`] and commit a chunk.
    pub fn alloc(&mut self, len: u64, now_ms: u64) -> Option<Slot> {
        let size = class::size(len)?;
        let slot =
            self.reuse(size).or_else(|| if self.alone(size) { self.next_larger(size) } else { self.cut(size) })?;
        let chunk = self.chunks.get_mut(&slot.chunk)?;
        chunk.live += 1;
        chunk.used_ms = now_ms;
        self.live_bytes += slot.size;
        Some(slot)
    }

    fn reuse(&mut self, size: u64) -> Option<Slot> {
        let stack = &mut self.free[class::index(size)];
        while let Some(free) = stack.pop() {
            if self.chunks.get(&free.slot.chunk).is_some_and(|c| c.life == free.life) {
                return Some(free.slot);
            }
        }
        None
    }

    /// A chunk made for a somewhat larger buffer serves too: up to a quarter more.
    fn next_larger(&mut self, size: u64) -> Option<Slot> {
        let one = class::size(size + 1)?;
        self.reuse(one).or_else(|| self.reuse(class::size(one + 1)?))
    }

    fn cut(&mut self, size: u64) -> Option<Slot> {
        let fits = |c: &Chunk| !c.pending && !c.refused && !c.alone && c.size - c.cut >= size;
        let id = match self.open {
            Some(id) if self.chunks.get(&id).is_some_and(fits) => id,
            _ => *self.chunks.iter().find(|(_, c)| fits(c))?.0,
        };
        self.open = Some(id);
        let chunk = self.chunks.get_mut(&id)?;
        let offset = chunk.cut;
        chunk.cut += size;
        Some(Slot { chunk: id, offset, size })
    }

    /// All chunks together may take this much from now on. Those that are there stay.
    pub fn set_quota(&mut self, quota: u64) {
        self.quota = quota;
    }

    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// No further slot comes from this chunk, as the peer cannot map it. It is idle as soon as no slot of it is live.
    pub fn refuse(&mut self, id: u32) {
        if let Some(chunk) = self.chunks.get_mut(&id) {
            chunk.refused = true;
            chunk.life = chunk.life.wrapping_add(1);
        }
    }

    /// Takes a slot back.
    pub fn free(&mut self, slot: Slot) {
        let Some(chunk) = self.chunks.get_mut(&slot.chunk) else { return };
        chunk.live -= 1;
        self.live_bytes -= slot.size;
        if chunk.live == 0 && !chunk.alone {
            chunk.cut = 0;
            chunk.life = chunk.life.wrapping_add(1);
        } else if !chunk.refused {
            self.free[class::index(slot.size)].push(Free { slot, life: chunk.life });
        }
    }

    /// The size of the chunk that [`Self::reserve`] would count for `len` bytes; `None` where no class is so large.
    pub fn chunk_for(&self, len: u64) -> Option<u64> {
        let class = class::size(len)?;
        Some(if self.alone(class) { class } else { self.chunk_size })
    }

    /// Counts a chunk that can serve `len` bytes against the quota; its memory is the caller's to make. Returns its
    /// number and size.
    pub fn reserve(&mut self, len: u64) -> Result<(u32, u64), Refused> {
        let class = class::size(len).ok_or(Refused::TooLarge)?;
        let alone = self.alone(class);
        let size = if alone { class } else { self.chunk_size };
        if self.held + size > self.quota {
            return Err(Refused::Quota { held: self.held, quota: self.quota });
        }
        let id = self.next;
        self.next += 1;
        self.held += size;
        self.chunks
            .insert(id, Chunk { size, alone, cut: 0, live: 0, life: 0, pending: true, refused: false, used_ms: 0 });
        Ok((id, size))
    }

    /// The reserved chunk's memory is there: slots may be cut from it.
    pub fn commit(&mut self, id: u32, now_ms: u64) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        chunk.pending = false;
        chunk.used_ms = now_ms;
        if chunk.alone {
            let slot = Slot { chunk: id, offset: 0, size: chunk.size };
            chunk.cut = chunk.size;
            self.free[class::index(slot.size)].push(Free { slot, life: chunk.life });
        }
    }

    /// The reserved chunk's memory could not be made.
    pub fn cancel(&mut self, id: u32) {
        if let Some(chunk) = self.chunks.remove(&id) {
            self.held -= chunk.size;
        }
    }

    /// Whether the last ordinary chunk is nearly full and none is being made: time to prepare a spare one.
    pub fn wants_spare(&self) -> bool {
        let mut ordinary = self.chunks.values().filter(|c| !c.alone && !c.refused).peekable();
        ordinary.peek().is_some()
            && self.held + self.chunk_size <= self.quota
            && ordinary.all(|c| !c.pending && c.cut > c.size - c.size / 4)
    }

    /// Forgets as many chunks without a live slot as it takes to reserve one for `len` bytes; their memory is the caller's
    /// to unmap.
    pub fn make_room(&mut self, len: u64) -> Vec<u32> {
        let Some(more) = self.chunk_for(len) else { return Vec::new() };
        let mut gone = Vec::new();
        while self.held + more > self.quota {
            let Some(id) = self.chunks.iter().find(|(_, c)| !c.pending && c.live == 0).map(|(id, _)| *id) else {
                break;
            };
            self.cancel(id);
            gone.push(id);
        }
        gone
    }

    /// Forgets the chunks that have had no live slot for `idle_ms`; their memory is the caller's to unmap.
    pub fn drop_idle(&mut self, now_ms: u64, idle_ms: u64) -> Vec<u32> {
        let unused = |c: &Chunk| c.refused || now_ms.saturating_sub(c.used_ms) >= idle_ms;
        let idle = |c: &Chunk| !c.pending && c.live == 0 && unused(c);
        let gone: Vec<u32> = self.chunks.iter().filter(|(_, c)| idle(c)).map(|(id, _)| *id).collect();
        for id in &gone {
            self.cancel(*id);
        }
        gone
    }

    /// Counts as they are now.
    pub fn usage(&self) -> Usage {
        Usage {
            chunks: self.chunks.len() as u64,
            held_bytes: self.held,
            live_slots: self.chunks.values().map(|c| u64::from(c.live)).sum(),
            live_bytes: self.live_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u64 = 1 << 20;

    fn grow(arena: &mut Arena, len: u64) -> Result<u64, Refused> {
        let (id, size) = arena.reserve(len)?;
        arena.commit(id, 0);
        Ok(size)
    }

    #[test]
    fn warm_slots_are_reused_last_freed_first() {
        let mut arena = Arena::new(CHUNK, 10 * CHUNK);
        assert_eq!(arena.alloc(100, 0), None);
        grow(&mut arena, 100).unwrap();
        let (a, b, c) = (arena.alloc(100, 0).unwrap(), arena.alloc(100, 0).unwrap(), arena.alloc(100, 0).unwrap());
        arena.free(a);
        arena.free(b);
        assert_eq!(arena.alloc(100, 0), Some(b));
        assert_eq!(arena.alloc(100, 0), Some(a));
        [a, b, c].into_iter().for_each(|s| arena.free(s));
        assert_eq!(arena.usage(), Usage { chunks: 1, held_bytes: CHUNK, live_slots: 0, live_bytes: 0 });
        // All free: the chunk starts over and can be cut for another class to its end.
        assert_eq!(arena.alloc(CHUNK / 2, 0).map(|s| s.offset), Some(0));
        assert_eq!(arena.alloc(CHUNK / 2, 0).map(|s| s.offset), Some(CHUNK / 2));
    }

    #[test]
    fn large_slots_have_a_chunk_of_their_own_that_serves_again() {
        let mut arena = Arena::new(CHUNK, 10 * CHUNK);
        assert_eq!(grow(&mut arena, 3 * CHUNK).unwrap(), 3 * CHUNK);
        let big = arena.alloc(3 * CHUNK, 0).unwrap();
        assert_eq!(arena.alloc(3 * CHUNK, 0), None);
        assert_eq!(arena.alloc(10, 0), None, "an own chunk is not cut");
        arena.free(big);
        assert_eq!(arena.alloc(3 * CHUNK - CHUNK / 2, 0), Some(big), "serves a little less as well");
        arena.free(big);
        assert_eq!(arena.alloc(CHUNK, 0), None, "but not much less");
    }

    #[test]
    fn quota_spare_and_idle() {
        let mut arena = Arena::new(CHUNK, 2 * CHUNK);
        assert!(!arena.wants_spare(), "an arena never used wants nothing");
        grow(&mut arena, 1).unwrap();
        assert!(!arena.wants_spare());
        let slots: Vec<_> = (0..7).map(|_| arena.alloc(CHUNK / 8, 5).unwrap()).collect();
        assert!(arena.wants_spare());
        let (id, _) = arena.reserve(1).unwrap();
        assert!(!arena.wants_spare(), "one is being made");
        assert_eq!(arena.reserve(1), Err(Refused::Quota { held: 2 * CHUNK, quota: 2 * CHUNK }));
        arena.cancel(id);
        assert_eq!(arena.drop_idle(1000, 10), []);
        slots.into_iter().for_each(|s| arena.free(s));
        assert_eq!(arena.drop_idle(14, 10), []);
        assert_eq!(arena.drop_idle(15, 10), [0]);
        assert_eq!(arena.usage().held_bytes, 0);
        assert_eq!(arena.alloc(1, 0), None);
    }

    #[test]
    fn a_refused_chunk_serves_nothing_more() {
        let mut arena = Arena::new(CHUNK, 10 * CHUNK);
        grow(&mut arena, 1).unwrap();
        let (a, b) = (arena.alloc(100, 5).unwrap(), arena.alloc(100, 5).unwrap());
        arena.free(a);
        arena.refuse(0);
        assert_eq!(arena.alloc(100, 5), None);
        assert!(!arena.wants_spare());
        assert_eq!(arena.drop_idle(5, 0), []);
        arena.free(b);
        assert_eq!(arena.alloc(100, 5), None);
        // Idle at once, however long chunks may be kept.
        assert_eq!(arena.drop_idle(5, 1 << 40), [0]);
        grow(&mut arena, 3 * CHUNK).unwrap();
        let big = arena.alloc(3 * CHUNK, 0).unwrap();
        arena.refuse(big.chunk);
        arena.free(big);
        assert_eq!(arena.alloc(3 * CHUNK, 0), None);
    }

    #[test]
    fn room_is_made_by_what_is_idle_and_no_more_than_is_needed() {
        let mut arena = Arena::new(CHUNK, 4 * CHUNK);
        for _ in 0..4 {
            grow(&mut arena, 1).unwrap();
        }
        let live = arena.alloc(100, 0).unwrap();
        assert_eq!(arena.make_room(100), [1]);
        assert_eq!(arena.make_room(100), []);
        assert_eq!(arena.make_room(2 * CHUNK), [2]);
        assert_eq!(grow(&mut arena, 2 * CHUNK), Ok(2 * CHUNK));
        arena.set_quota(CHUNK);
        assert_eq!(arena.make_room(2 * CHUNK), [3, 4], "all that are idle, and still it does not fit");
        assert!(arena.reserve(100).is_err());
        arena.free(live);
        assert_eq!(arena.make_room(100), [0]);
        assert_eq!(arena.reserve(100).map(|(_, size)| size), Ok(CHUNK));
        assert_eq!(arena.quota(), CHUNK);
    }

    proptest! {
        /// Against the naive model: a list of live ranges that never overlap, inside chunks that exist, within quota.
        #[test]
        fn agrees_with_a_list_of_ranges(steps in prop::collection::vec((0u8..10, 1u64..3 * CHUNK, any::<prop::sample::Index>()), 1..300)) {
            let mut arena = Arena::new(CHUNK, 16 * CHUNK);
            let mut live: Vec<(Slot, u64)> = Vec::new();
            let mut sizes = std::collections::HashMap::new();
            for (now, (step, len, pick)) in steps.into_iter().enumerate() {
                let len = if step % 2 == 0 { len % 5000 + 1 } else { len };
                match step {
                    0..=5 => {
                        let slot = arena.alloc(len, now as u64).or_else(|| {
                            let (id, size) = arena.reserve(len).ok()?;
                            sizes.insert(id, size);
                            arena.commit(id, now as u64);
                            Some(arena.alloc(len, now as u64).expect("a new chunk serves what it was made for"))
                        });
                        if let Some(slot) = slot {
                            prop_assert!(slot.size >= len && slot.offset.is_multiple_of(class::ALIGN));
                            prop_assert!(slot.offset + slot.size <= sizes[&slot.chunk]);
                            for (other, _) in &live {
                                prop_assert!(other.chunk != slot.chunk
                                    || other.offset + other.size <= slot.offset
                                    || slot.offset + slot.size <= other.offset);
                            }
                            live.push((slot, len));
                        }
                    }
                    6..=8 if !live.is_empty() => {
                        let (slot, _) = live.swap_remove(pick.index(live.len()));
                        arena.free(slot);
                    }
                    _ => {
                        for id in arena.drop_idle(now as u64, 20) {
                            prop_assert!(live.iter().all(|(s, _)| s.chunk != id));
                            sizes.remove(&id);
                        }
                    }
                }
                let usage = arena.usage();
                prop_assert_eq!(usage.live_slots, live.len() as u64);
                prop_assert_eq!(usage.live_bytes, live.iter().map(|(s, _)| s.size).sum::<u64>());
                prop_assert_eq!(usage.held_bytes, sizes.values().sum::<u64>());
                prop_assert!(usage.held_bytes <= 16 * CHUNK);
            }
        }
    }
}
