//! The worker's own shared memory, where results are written for the BEAM to read in place.
//!
//! `snakepit_core::arena` decides which slot serves next. Here a slot is free, or somebody holds it: the BEAM by a token,
//! Python by a view, numpy by an array that lies there. The last holder frees it.

use super::borrowed::{Row as PlaceRow, row};
use super::mapping::Mapping;
use super::view::{End, View};
use crate::errors::transfer_error;
use pyo3::exceptions::{PyMemoryError, PyOSError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyDict;
use snakepit_core::arena::{Arena as Allocator, Refused, Slot as Range};
use snakepit_core::frame::Place;
use snakepit_core::holds::Holds;
use snakepit_core::locks::locked;
use snakepit_fork::{Alive, Row};
use snakepit_memfd::ChunkError;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often memory is made for a slot that others take, or that the BEAM cannot map.
const TRIES: usize = 12;
/// How long no memory is made ahead after the BEAM could not map a chunk.
const PAUSE: Duration = Duration::from_secs(10);

/// Names a slot: its chunk's number here, and where in the chunk it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId {
    chunk: u32,
    pub offset: u64,
}

/// A slot that somebody holds.
struct Held {
    range: Range,
    holders: u32,
    /// Python has memory of this slot that it may write to: numpy's array, or a view.
    writable: bool,
    /// Where numpy's array is listed for forks.
    row: Option<Row>,
}

struct Chunk {
    id: u64,
    mapping: Arc<Mapping>,
    /// By offset.
    held: BTreeMap<u64, Held>,
}

struct Books {
    allocator: Allocator,
    /// By the allocator's number.
    chunks: HashMap<u32, Chunk>,
    by_id: HashMap<u64, u32>,
    by_address: BTreeMap<usize, u32>,
    tokens: Holds<SlotId>,
    next_id: u64,
    /// Chunks that the BEAM refused before they were put in here.
    refused_early: HashSet<u64>,
    /// Until when no memory is made ahead.
    pause_until: Option<Instant>,
    /// How many views Python has.
    leased: usize,
    /// The slots in which numpy made arrays, by address.
    lent: HashMap<usize, SlotId>,
    lent_bytes: u64,
}

/// An arena's memory and its books. Allocation is O(1).
pub struct Memory {
    books: Mutex<Books>,
    since: Instant,
    /// The function of `snakepit_numpy` that tells which arrays are gone; 0: numpy has no memory of this arena.
    freed_by_numpy: AtomicUsize,
}

thread_local! {
    /// Its address tells threads apart.
    static THREAD: u8 = const { 0 };
}

/// The memory from which numpy's arrays are lent: one for the process, as numpy's handler is.
static LENDS: OnceLock<Arc<Memory>> = OnceLock::new();

/// Memory of at least this many bytes, or null: a `Take` of `snakepit_numpy`. numpy calls it in the middle of anything; no
/// Python runs in it.
unsafe extern "C" fn take(len: usize) -> *mut c_void {
    let address = LENDS.get().and_then(|memory| memory.lend_to_numpy(len as u64));
    address.map_or(std::ptr::null_mut(), |address| address as *mut c_void)
}

/// `snakepit_numpy_freed`
type FreedByNumpy = unsafe extern "C" fn(*mut usize, usize) -> usize;

/// A slot that was found, or allocated: held once more by whoever has this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub slot: SlotId,
    pub size: u64,
    /// Where the slot starts in this process.
    pub address: usize,
    /// Python may write to it.
    pub writable: bool,
}

impl Memory {
    fn books(&self) -> MutexGuard<'_, Books> {
        locked(&self.books)
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }

    /// The chunk with this id, if it is one of this arena.
    pub fn mapping(&self, id: u64) -> Option<Arc<Mapping>> {
        let books = self.books();
        Some(books.chunks.get(books.by_id.get(&id)?)?.mapping.clone())
    }

    /// A warm slot; `None` if memory would have to be made for it.
    pub fn allocate(&self, len: u64) -> Option<Found> {
        let now = self.now();
        let mut books = self.books();
        self.collect(&mut books);
        books.allocate(len, now)
    }

    /// The slot in which this memory lies, held once more, and its offset in the chunk.
    pub fn find(&self, address: usize, len: usize) -> Option<(Found, u64)> {
        let mut books = self.books();
        let number = *books.by_address.range(..=address).next_back()?.1;
        let chunk = books.chunks.get_mut(&number)?;
        let offset = (address - chunk.mapping.address) as u64;
        let (start, held) = chunk.held.range_mut(..=offset).next_back()?;
        if offset.checked_add(len as u64)? > start + held.range.size {
            return None;
        }
        held.holders += 1;
        let slot = SlotId { chunk: number, offset: *start };
        if held.writable {
            // The array may be gone already, and the bytes come from the BEAM again.
            self.collect(&mut books);
        }
        Some((books.found(slot)?, offset))
    }

    /// One holder less.
    pub fn release(&self, slot: SlotId) {
        self.books().release(slot);
    }

    /// A view of Python's is gone.
    pub fn returned(&self, slot: SlotId) {
        let mut books = self.books();
        books.leased -= 1;
        if let Some(held) = books.held(slot) {
            held.writable = false;
        }
        books.release(slot);
    }

    /// The table entry for a part of a slot. The BEAM takes over the caller's hold, until it returns the token.
    pub fn grant(&self, slot: SlotId, offset: u64, len: u64) -> Option<Place> {
        let mut books = self.books();
        let chunk = books.chunks.get(&slot.chunk)?.id;
        Some(Place { chunk, offset, len, token: books.tokens.insert(slot) })
    }

    /// The BEAM let go of these. A token that is not known is passed over: tokens are never used twice.
    pub fn freed(&self, tokens: &[u64]) {
        let mut books = self.books();
        for token in tokens {
            if let Ok(slot) = books.tokens.remove(*token) {
                books.release(slot);
            }
        }
    }

    /// Whether the current chunk is so full that the next one should be prepared.
    pub fn wants_spare(&self) -> bool {
        self.books().allocator.wants_spare()
    }

    /// The address of an idle slot, which numpy holds until it frees it; `None` if there is none.
    fn lend_to_numpy(&self, len: u64) -> Option<usize> {
        if snakepit_fork::is_child() {
            return None;
        }
        let now = self.now();
        let mut books = self.books();
        self.collect(&mut books);
        let found = books.allocate(len, now)?;
        if 2 * (books.lent_bytes + found.size) > books.allocator.quota() {
            books.release(found.slot);
            return None;
        }
        let row = snakepit_fork::add(Alive::Memory(found.address, found.size as usize));
        if let Some(held) = books.held(found.slot) {
            (held.writable, held.row) = (true, Some(row));
        }
        books.lent.insert(found.address, found.slot);
        books.lent_bytes += found.size;
        Some(found.address)
    }

    /// Takes back what numpy no longer uses.
    fn collect(&self, books: &mut Books) {
        let function = self.freed_by_numpy.load(Ordering::Acquire);
        if function == 0 || books.lent.is_empty() {
            return;
        }
        // SAFETY: set by `numpy_frees`, whose caller says that it is this function.
        let freed = unsafe { std::mem::transmute::<usize, FreedByNumpy>(function) };
        let mut batch = [0usize; 256];
        loop {
            // SAFETY: there is room for as many.
            let count = unsafe { freed(batch.as_mut_ptr(), batch.len()) };
            if count == 0 {
                return;
            }
            for address in &batch[..count] {
                let Some(slot) = books.lent.remove(address) else { continue };
                if let Some(held) = books.held(slot) {
                    held.writable = false;
                    let (row, size) = (held.row.take(), held.range.size);
                    row.into_iter().for_each(snakepit_fork::remove);
                    books.lent_bytes -= size;
                }
                books.release(slot);
            }
        }
    }
}

impl Books {
    fn held(&mut self, slot: SlotId) -> Option<&mut Held> {
        self.chunks.get_mut(&slot.chunk)?.held.get_mut(&slot.offset)
    }

    fn found(&mut self, slot: SlotId) -> Option<Found> {
        let chunk = self.chunks.get(&slot.chunk)?;
        let held = chunk.held.get(&slot.offset)?;
        let address = chunk.mapping.address + slot.offset as usize;
        Some(Found { slot, size: held.range.size, address, writable: held.writable })
    }

    fn allocate(&mut self, len: u64, now: u64) -> Option<Found> {
        let range = self.allocator.alloc(len, now)?;
        let slot = SlotId { chunk: range.chunk, offset: range.offset };
        let held = Held { range, holders: 1, writable: false, row: None };
        self.chunks.get_mut(&range.chunk)?.held.insert(range.offset, held);
        self.found(slot)
    }

    fn release(&mut self, slot: SlotId) {
        let Some(held) = self.held(slot) else { return };
        held.holders -= 1;
        if held.holders == 0 {
            let range = held.range;
            if let Some(chunk) = self.chunks.get_mut(&slot.chunk) {
                chunk.held.remove(&slot.offset);
            }
            self.allocator.free(range);
        }
    }

    /// Takes out chunks that the allocator gave up.
    fn remove(&mut self, numbers: &[u32]) -> Vec<Chunk> {
        let mut gone = Vec::new();
        for number in numbers {
            if let Some(chunk) = self.chunks.remove(number) {
                self.by_id.remove(&chunk.id);
                self.by_address.remove(&chunk.mapping.address);
                gone.push(chunk);
            }
        }
        gone
    }

    fn put(&mut self, number: u32, chunk: Chunk, now: u64) {
        let id = chunk.id;
        self.by_id.insert(id, number);
        self.by_address.insert(chunk.mapping.address, number);
        self.chunks.insert(number, chunk);
        self.allocator.commit(number, now);
        if self.refused_early.remove(&id) {
            self.allocator.refuse(number);
        }
    }
}

/// A slot as Python has it, which releases it by hand.
#[pyclass(frozen, eq, from_py_object, module = "snakepit._native")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    found: SlotId,
    /// Its chunk's id.
    #[pyo3(get)]
    chunk: u64,
    #[pyo3(get)]
    offset: u64,
    #[pyo3(get)]
    size: u64,
    #[pyo3(get)]
    address: usize,
}

/// The arena of a worker. `announce` sends a new chunk's (id, size, fd), `retract` the id of one that is gone.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Arena {
    memory: Arc<Memory>,
    /// Ids grow in the order of announcements, also when two threads make chunks at once.
    announcing: Mutex<()>,
    /// The thread that announces: the address of its `THREAD`.
    announcer: AtomicUsize,
    announce: Py<PyAny>,
    retract: Py<PyAny>,
}

#[pymethods]
impl Arena {
    #[new]
    fn new(owner: u64, chunk_size: u64, quota: u64, announce: Py<PyAny>, retract: Py<PyAny>) -> Self {
        let books = Books {
            allocator: Allocator::new(chunk_size, quota),
            chunks: HashMap::new(),
            by_id: HashMap::new(),
            by_address: BTreeMap::new(),
            tokens: Holds::default(),
            next_id: owner << 32,
            refused_early: HashSet::new(),
            pause_until: None,
            leased: 0,
            lent: HashMap::new(),
            lent_bytes: 0,
        };
        let memory = Memory { books: Mutex::new(books), since: Instant::now(), freed_by_numpy: AtomicUsize::new(0) };
        Self {
            memory: Arc::new(memory),
            announcing: Mutex::default(),
            announcer: AtomicUsize::new(0),
            announce,
            retract,
        }
    }

    /// A warm slot, held once; `None` if memory would have to be made for it.
    fn allocate(&self, length: u64) -> Option<Slot> {
        self.slot(self.memory.allocate(length)?)
    }

    /// A slot, held once, made now if none is warm. Raises `CallError` (quota) or `OSError`.
    fn force(&self, py: Python<'_>, length: u64) -> PyResult<Slot> {
        let found = self.forced(py, length)?;
        self.slot(found).ok_or_else(|| PyMemoryError::new_err("its chunk is gone"))
    }

    /// One holder less.
    fn release(&self, slot: Slot) {
        self.memory.release(slot.found);
    }

    /// A writable view for Python, which takes over the caller's hold on the slot. From it, Python can reach this slot and
    /// no other.
    fn lend<'py>(&self, py: Python<'py>, slot: Slot, length: u64) -> PyResult<Bound<'py, PyAny>> {
        self.lent(py, slot.found, length)
    }

    /// As `force` and `lend` in one: no exception can come between them.
    fn made<'py>(&self, py: Python<'py>, length: u64) -> PyResult<Bound<'py, PyAny>> {
        let found = self.forced(py, length)?;
        self.lent(py, found.slot, length)
    }

    /// Chunk id, offset, length and token for a part of a slot, whose hold the BEAM takes over.
    fn grant(&self, slot: Slot, offset: u64, length: u64) -> Option<PlaceRow> {
        self.memory.grant(slot.found, offset, length).as_ref().map(row)
    }

    /// The BEAM let go of these. A token that is not known is passed over: tokens are never used twice.
    fn freed(&self, tokens: Vec<u64>) {
        self.memory.freed(&tokens);
    }

    /// The slot in which this memory lies, held once more, and its offset in the chunk.
    fn find(&self, address: usize, length: usize) -> Option<(Slot, u64)> {
        if snakepit_fork::is_child() {
            return None;
        }
        let (found, offset) = self.memory.find(address, length)?;
        Some((self.slot(found)?, offset))
    }

    /// Makes memory for a slot of this length, so that the next one is warm. Slow; raises `CallError`, `OSError`.
    fn prepare(&self, py: Python<'_>, length: u64) -> PyResult<()> {
        self.make(py, length, false).map(drop)
    }

    /// Makes a spare chunk, if one is wanted. Slow.
    fn make_spare(&self, py: Python<'_>) -> PyResult<()> {
        if self.wants_spare() { self.make(py, 0, false).map(drop) } else { Ok(()) }
    }

    /// Whether the current chunk is so full that the next one should be prepared.
    fn wants_spare(&self) -> bool {
        self.memory.wants_spare()
    }

    /// The BEAM cannot map this chunk: nothing more is put there, and what would be next is not made for a while.
    fn refused(&self, id: u64) {
        let mut books = self.memory.books();
        books.pause_until = Some(Instant::now() + PAUSE);
        match books.by_id.get(&id).copied() {
            Some(number) => books.allocator.refuse(number),
            // It was announced a moment ago, and is about to be put in.
            None => drop(books.refused_early.insert(id)),
        }
    }

    /// Whether memory that is made ahead would most likely be of no use.
    fn is_refused(&self) -> bool {
        self.memory.books().pause_until.is_some_and(|until| Instant::now() < until)
    }

    /// Gives up the chunks without a held slot for that long. Whether chunks are left.
    fn drop_idle(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let (now, idle) = (self.memory.now(), (seconds * 1000.0) as u64);
        let (gone, left) = {
            let mut books = self.memory.books();
            self.memory.collect(&mut books);
            let numbers = books.allocator.drop_idle(now, idle);
            (books.remove(&numbers), !books.chunks.is_empty())
        };
        self.retracted(py, gone)?;
        Ok(left)
    }

    /// The address of an idle slot, which numpy holds until it frees it; `None` if there is none.
    fn lend_to_numpy(&self, length: u64) -> Option<usize> {
        self.memory.lend_to_numpy(length)
    }

    /// The address of a function that lends numpy this arena's slots; of the first arena that was asked, as there is one
    /// handler for the process.
    fn numpy_takes(&self) -> usize {
        LENDS.get_or_init(|| self.memory.clone());
        take as *const () as usize
    }

    /// From now on `function`, the address of `snakepit_numpy_freed`, is asked which arrays are gone.
    fn numpy_frees(&self, function: usize) {
        self.memory.freed_by_numpy.store(function, Ordering::Release);
    }

    #[getter]
    fn quota(&self) -> u64 {
        self.memory.books().allocator.quota()
    }

    #[setter]
    fn set_quota(&self, quota: u64) {
        self.memory.books().allocator.set_quota(quota);
    }

    /// The bytes of all chunks, those that are being made among them.
    #[getter]
    fn total(&self) -> u64 {
        self.memory.books().allocator.usage().held_bytes
    }

    /// How many views Python has of slots.
    #[getter]
    fn leased(&self) -> usize {
        self.memory.books().leased
    }

    /// The bytes of slots in which numpy has arrays.
    #[getter]
    fn lent_bytes(&self) -> u64 {
        let mut books = self.memory.books();
        self.memory.collect(&mut books);
        books.lent_bytes
    }

    /// How many slots are held.
    fn live_slots(&self) -> u64 {
        if snakepit_fork::is_child() {
            return 0;
        }
        let mut books = self.memory.books();
        self.memory.collect(&mut books);
        books.allocator.usage().live_slots
    }

    /// Id, address and size of each chunk.
    fn chunks(&self) -> Vec<(u64, usize, usize)> {
        let books = self.memory.books();
        books.chunks.values().map(|chunk| (chunk.id, chunk.mapping.address, chunk.mapping.size)).collect()
    }
}

impl Arena {
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn slot(&self, found: Found) -> Option<Slot> {
        let chunk = self.memory.books().chunks.get(&found.slot.chunk)?.id;
        let Found { slot, size, address, .. } = found;
        Some(Slot { found: slot, chunk, offset: slot.offset, size, address })
    }

    /// As `lend`.
    fn lent<'py>(&self, py: Python<'py>, slot: SlotId, len: u64) -> PyResult<Bound<'py, PyAny>> {
        let mapping = {
            let mut books = self.memory.books();
            let Some(held) = books.held(slot).filter(|held| len <= held.range.size) else {
                return Err(PyMemoryError::new_err("a slot is held by nobody, or shorter than that"));
            };
            held.writable = true;
            books.leased += 1;
            books.chunks[&slot.chunk].mapping.clone()
        };
        let end = End::Slot(self.memory.clone(), slot);
        View::of_chunk(&mapping, slot.offset, len, true, end).shown(py)
    }

    /// As `force`.
    pub fn forced(&self, py: Python<'_>, len: u64) -> PyResult<Found> {
        for _ in 0..TRIES {
            if let Some(found) = self.memory.allocate(len) {
                return Ok(found);
            }
            if let Some(found) = self.make(py, len, true)? {
                return Ok(found);
            }
        }
        let message = format!("no shared memory for {len} bytes: it was gone as soon as it was made");
        Err(transfer_error(py, "no_memory", message, None))
    }

    /// A new chunk that can serve this length, and a slot of it where one is to be held.
    fn make(&self, py: Python<'_>, len: u64, hold: bool) -> PyResult<Option<Found>> {
        let (reserved, gone) = {
            let mut books = self.memory.books();
            self.memory.collect(&mut books);
            let numbers = books.allocator.make_room(len);
            let gone = books.remove(&numbers);
            (books.allocator.reserve(len), gone)
        };
        let retracted = self.retracted(py, gone);
        let (number, size) = reserved.map_err(|refused| self.over_quota(py, len, refused))?;
        let made = retracted.and_then(|()| self.announced(py, size));
        let mut books = self.memory.books();
        match made {
            Ok(chunk) => {
                let now = self.memory.now();
                books.put(number, chunk, now);
                Ok(if hold { books.allocate(len, now) } else { None })
            }
            Err(error) => {
                books.allocator.cancel(number);
                Err(error)
            }
        }
    }

    /// Makes a chunk's memory, and says so to the BEAM.
    fn announced(&self, py: Python<'_>, size: u64) -> PyResult<Chunk> {
        let made: Result<(OwnedFd, _), ChunkError> = py.detach(|| Mapping::create(size));
        let (fd, mapping) = made.map_err(|error| PyOSError::new_err((error.number(), error.to_string())))?;
        // Announcing runs Python: other threads, which must not wait here with the interpreter's lock; and perhaps a handler
        // of a signal, in this thread, which would wait for itself.
        let here = THREAD.with(|place| place as *const u8 as usize);
        if self.announcer.load(Ordering::Acquire) == here {
            return Err(PyOSError::new_err((libc::EDEADLK, "memory is being made by what this has interrupted")));
        }
        let _turn = self.announcing.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        self.announcer.store(here, Ordering::Release);
        let announced = self.announce(py, size, &fd);
        self.announcer.store(0, Ordering::Release);
        Ok(Chunk { id: announced?, mapping, held: BTreeMap::new() })
    }

    fn announce(&self, py: Python<'_>, size: u64, fd: &OwnedFd) -> PyResult<u64> {
        let id = {
            let mut books = self.memory.books();
            let id = books.next_id;
            books.next_id += 1;
            id
        };
        if let Err(error) = self.announce.bind(py).call1((id, size, fd.as_raw_fd())) {
            // It may have been sent all the same. If this fails as well, nothing more can be done.
            let _ = self.retract.bind(py).call1((id,));
            return Err(error);
        }
        Ok(id)
    }

    fn over_quota(&self, py: Python<'_>, len: u64, refused: Refused) -> PyErr {
        let Refused::Quota { held, quota } = refused else {
            return transfer_error(py, "no_memory", format!("no chunk has {len} bytes"), None);
        };
        let needed = self.memory.books().allocator.chunk_for(len).unwrap_or(len);
        let message = format!(
            "the worker's shared memory would exceed its quota: it has {held} of {quota} bytes and needs {needed} more"
        );
        let details = PyDict::new(py);
        for (name, number) in [("quota", quota), ("total", held), ("needed", needed)] {
            if let Err(error) = details.set_item(name, number) {
                return error;
            }
        }
        transfer_error(py, "quota", message, Some(details))
    }

    fn retracted(&self, py: Python<'_>, gone: Vec<Chunk>) -> PyResult<()> {
        let ids: Vec<u64> = gone.iter().map(|chunk| chunk.id).collect();
        if !gone.is_empty() {
            // Unmapping takes milliseconds for each GiB.
            py.detach(|| drop(gone));
        }
        let mut done = Ok(());
        for id in ids {
            // All of them, whatever becomes of one: the BEAM would keep the others.
            let retracted = self.retract.bind(py).call1((id,)).map(drop);
            done = done.and(retracted);
        }
        done
    }
}
