//! Chunks: sealed memfds (`snakepit_memfd`), mapped. The only module that maps shared memory.

use crossbeam_queue::SegQueue;
use snakepit_core::locks::{locked, read, write};
use snakepit_memfd::ChunkError;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, RwLock, Weak};

use super::slot::Slot;

/// Linux 5.14; older kernels refuse it and the pages are then mapped on first touch.
const MADV_POPULATE_READ: i32 = 22;
const MADV_POPULATE_WRITE: i32 = 23;

/// Keeps a write beyond `RLIMIT_FSIZE` from ending the VM: it fails (EFBIG), here and in all that the VM writes itself.
///
/// A handler that somebody installed stays. Ports do not inherit this: `erl_child_setup`, of which they are children, was
/// started before any library was loaded.
pub fn survive_file_size_limit() {
    // SAFETY: all-zero is a valid `sigaction`, which the first call fills; SIG_IGN installs no handler.
    unsafe {
        let mut present = std::mem::zeroed::<libc::sigaction>();
        if libc::sigaction(libc::SIGXFSZ, std::ptr::null(), &raw mut present) == 0
            && present.sa_sigaction == libc::SIG_DFL
        {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
    }
}

/// A mapping, unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: a mapping is plain memory, valid from any thread until it is dropped; who may write where is the
// allocator's business, see `Chunk::write`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: RawFd, size: usize, prot: i32) -> Result<Self, ChunkError> {
        // SAFETY: a fresh shared mapping chosen by the kernel aliases nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(ChunkError::Map(io::Error::last_os_error()));
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| ChunkError::Map(io::Error::other("mapped at 0")))?;
        Ok(Self { base, size })
    }

    fn advise(&self, advice: i32) -> i32 {
        // SAFETY: the range is exactly this mapping.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.size, advice) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once; nothing refers to it once its chunk is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

/// The mappings and descriptors of chunks that are no longer used: unmapping a large one takes milliseconds, which a
/// destructor on a scheduler must not. [`unmap_unused`] does it.
static UNUSED: SegQueue<(Mapping, OwnedFd)> = SegQueue::new();

/// Unmaps the chunks whose last reference went. On a dirty scheduler.
pub fn unmap_unused() {
    while let Some(unused) = UNUSED.pop() {
        drop(unused);
    }
}

/// Every mapped chunk of the VM, by address and by id.
#[derive(Default)]
struct Registry {
    by_base: BTreeMap<usize, Weak<Chunk>>,
    by_id: HashMap<u64, Weak<Chunk>>,
}

static REGISTRY: LazyLock<RwLock<Registry>> = LazyLock::new(RwLock::default);

/// One chunk: of this VM (writable) or of a worker (read-only).
pub struct Chunk {
    id: u64,
    body: Option<(Mapping, OwnedFd)>,
    /// Slots that binaries point into, by offset and a number that tells apart slots at the same offset.
    live: Mutex<BTreeMap<(u64, u64), Weak<Slot>>>,
}

impl Chunk {
    /// Makes a chunk of `size` bytes with every page allocated and mapped for writing.
    pub fn create(id: u64, size: u64) -> Result<Arc<Self>, ChunkError> {
        let fd = snakepit_memfd::create(size)?;
        let map = Mapping::new(fd.as_raw_fd(), size as usize, libc::PROT_READ | libc::PROT_WRITE)?;
        map.advise(MADV_POPULATE_WRITE);
        snakepit_memfd::seal(fd.as_fd())?;
        Ok(Self::register(id, map, fd))
    }

    /// Maps a worker's chunk read-only, after checking that it cannot change its size and is what was announced.
    pub fn adopt(id: u64, size: u64, fd: OwnedFd) -> Result<Arc<Self>, ChunkError> {
        snakepit_memfd::check(fd.as_fd(), size)?;
        let map = Mapping::new(fd.as_raw_fd(), size as usize, libc::PROT_READ)?;
        map.advise(MADV_POPULATE_READ);
        Ok(Self::register(id, map, fd))
    }

    fn register(id: u64, map: Mapping, fd: OwnedFd) -> Arc<Self> {
        let base = map.base.as_ptr() as usize;
        let chunk = Arc::new(Self { id, body: Some((map, fd)), live: Mutex::default() });
        let mut registry = write(&REGISTRY);
        registry.by_base.insert(base, Arc::downgrade(&chunk));
        registry.by_id.insert(id, Arc::downgrade(&chunk));
        chunk
    }

    /// The chunk with this id, while anything holds it.
    pub fn by_id(id: u64) -> Option<Arc<Self>> {
        read(&REGISTRY).by_id.get(&id)?.upgrade()
    }

    /// Whether `bytes` begin in a chunk that is mapped: a quick look, before [`Self::find`] makes sure.
    pub fn covers(bytes: &[u8]) -> bool {
        let start = bytes.as_ptr() as usize;
        let registry = read(&REGISTRY);
        // Let go of after the lock, as in `find`.
        let chunk = registry.by_base.range(..=start).next_back().and_then(|(_, chunk)| chunk.upgrade());
        drop(registry);
        chunk.is_some_and(|chunk| ((start - chunk.map().base.as_ptr() as usize) as u64) < chunk.size())
    }

    /// The live slot that holds all of `bytes`, and where in its chunk they start; `None` for ordinary memory.
    pub fn find(bytes: &[u8]) -> Option<(Arc<Slot>, u64)> {
        let start = bytes.as_ptr() as usize;
        // The reference upgraded here may be the last by now, and its destructor takes the lock under which it was
        // found: every one is let go after the lock, never under it.
        let chunk = {
            let registry = read(&REGISTRY);
            registry.by_base.range(..=start).next_back()?.1.upgrade()?
        };
        let offset = (start - chunk.map().base.as_ptr() as usize) as u64;
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= chunk.size())?;
        // Overlapping slots are rare (a tool that returned views of one array): a few looks back are enough, and a
        // miss only costs a copy.
        let mut passed = Vec::new();
        let live = chunk.live();
        let near = live.range(..=(offset, u64::MAX)).rev().take(16);
        let slot = near.filter_map(|(_, slot)| slot.upgrade()).find_map(|slot| {
            if end <= slot.offset() + slot.len() {
                return Some(slot);
            }
            passed.push(slot);
            None
        });
        drop(live);
        slot.map(|slot| (slot, offset))
    }

    pub fn live(&self) -> MutexGuard<'_, BTreeMap<(u64, u64), Weak<Slot>>> {
        locked(&self.live)
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    fn map(&self) -> &Mapping {
        &self.body.as_ref().expect("present until drop").0
    }

    pub fn size(&self) -> u64 {
        self.map().size as u64
    }

    pub fn fd(&self) -> RawFd {
        self.body.as_ref().expect("present until drop").1.as_raw_fd()
    }

    /// The bytes of a slot, or `None` outside the chunk.
    ///
    /// A worker can write into its own chunk at any time, and has only promised not to touch what it sent. So the bytes
    /// are copied, or handed to the VM as a binary, and nothing else: what interprets them (as UTF-8, as lengths) copies
    /// them first, and reads the copy. Other readers, such as `:erlang.binary_to_term/1`, may read twice and see two
    /// versions; README.md, *Trust*, tells users.
    pub fn bytes(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        if end > self.size() {
            return None;
        }
        // SAFETY: the range lies inside the mapping (checked above), which lives as long as `self`.
        Some(unsafe { std::slice::from_raw_parts(self.map().base.as_ptr().add(offset as usize), len as usize) })
    }

    /// Copies `bytes` to `offset` of a chunk of ours.
    ///
    /// # Safety
    /// - The chunk was made by [`Chunk::create`] (a worker's is read-only).
    /// - The caller owns a slot that covers the whole range, which no live binary or call refers to.
    pub unsafe fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.size());
        // SAFETY: inside the mapping (asserted), exclusively ours (the caller's promise), and `bytes` is not in it:
        // what lies in a chunk is sent by reference.
        unsafe {
            let to = self.map().base.as_ptr().add(offset as usize);
            snakepit_core::copy::copy(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        let mut registry = write(&REGISTRY);
        registry.by_base.remove(&(body.0.base.as_ptr() as usize));
        registry.by_id.remove(&self.id);
        drop(registry);
        UNUSED.push(body);
    }
}
