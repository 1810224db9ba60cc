//! The way of a reply's buffers: shared memory where it is warm, the frame itself where it is not, gRPC where nothing else
//! is allowed.

use super::arena::{Arena, Found, Memory};
use super::borrowed::{Borrowed, Row, row};
use super::buffers::{Buffer, Buffers};
use super::holders::sole_holders;
use super::reply::{Reply, Unread};
use crate::errors::{call_error, transfer_error};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use snakepit_core::frame::{
    self, FLAG_IN_PLACE, FLAG_WANTED_MEMORY, HEADER, INLINE_ALIGN, Kind, LENGTH, PLACE, Place, Way, padding, wait_code,
};
use snakepit_core::locks::locked;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// The sizes of the BEAM's table: the bins of one kind of value, and the kinds.
const BINS: usize = 160;
const KINDS: usize = 5;
const BINARY: usize = 0;
const TENSOR: usize = 2;
const MIXED: usize = 4;
/// Left for the tokens that a reply gives back: how many is known only after its buffers were copied.
const TOKENS: usize = 1 << 20;
/// The most that a buffer takes beside its bytes: in a frame, its length and the gap before it; in a gRPC message, its
/// length in the frame, and the field's tag and length.
const IN_FRAME: usize = LENGTH + INLINE_ALIGN - 1;
const IN_MESSAGE: usize = LENGTH + 11;
/// A copied array of this size makes it worth while to have the next one made where it is sent from.
const LARGE: usize = 128 << 10;
/// Up to this many bytes are copied to return a tool's arguments at once rather than a moment later.
const COPY_LIMIT: usize = 1 << 20;
/// Frames up to this size are written in one piece.
pub const JOIN: usize = 128 << 10;

/// The bin of a size: four to a doubling.
fn bin(size: usize) -> usize {
    if size < 4 {
        return size;
    }
    let k = size.ilog2() as usize;
    (((k - 1) << 2) + ((size >> (k - 2)) & 3)).min(BINS - 1)
}

/// The way that a reply without buffers names.
pub fn bare_way(mask: u8) -> Way {
    [Way::Inline, Way::ZeroCopy].into_iter().find(|way| mask & bit(*way) != 0).unwrap_or(Way::Grpc)
}

fn bit(way: Way) -> u8 {
    1 << way as u8
}

/// The call that a reply answers: what it asked for, and how long its tool took.
#[derive(Clone, Copy)]
pub struct Answer {
    pub kind: Kind,
    /// The ways that the reply may take.
    pub mask: u8,
    /// Where shared memory is allowed, it is made if there is none.
    pub forced: bool,
    pub call_id: u64,
    pub tool_ns: u64,
}

/// Where the buffers of one reply go.
enum Placed {
    Memory(Vec<Place>, u8),
    Beside(Way, u8),
}

/// The tokens in a reply's head: those of the places that it grants, and those that it gives back.
#[derive(Clone, Default)]
pub struct Tokens {
    pub granted: Vec<u64>,
    pub released: Vec<u64>,
}

impl Tokens {
    pub fn is_empty(&self) -> bool {
        self.granted.is_empty() && self.released.is_empty()
    }
}

/// A reply, ready to be sent.
pub enum Made {
    /// All of the frame is written.
    Whole(Tokens),
    /// The head is written; the bytes of these go beside it.
    With(Way, Vec<Py<PyAny>>, Tokens),
}

/// Makes the replies of one lane.
#[pyclass(frozen, module = "snakepit._native")]
pub struct Replies {
    arena: Option<Py<Arena>>,
    borrowed: Py<Borrowed>,
    /// `snakepit.memory.maintenance.Maintenance`
    maintenance: Py<PyAny>,
    /// Installs numpy's memory handler in this thread.
    lend_to_numpy: Option<Py<PyAny>>,
    max_result: usize,
    max_frame: usize,
    max_message: usize,
    max_envelope: AtomicUsize,
    /// How long the present request waited for the interpreter's lock, until a reply says so: see `wait_code`.
    waited: AtomicU8,
    /// Until the BEAM sends one, shared memory comes first.
    table: Mutex<Box<[u8]>>,
}

/// The slot of a buffer, held for it, and the offset in its chunk where the buffer lies already (`None`: to be copied).
type Target = (Found, Option<u64>);

#[pymethods]
impl Replies {
    #[new]
    #[pyo3(signature = (*, arena, borrowed, maintenance, lend_to_numpy, max_result, max_frame, max_message))]
    fn new(
        arena: Option<Py<Arena>>,
        borrowed: Py<Borrowed>,
        maintenance: Py<PyAny>,
        lend_to_numpy: Option<Py<PyAny>>,
        max_result: usize,
        max_frame: usize,
        max_message: usize,
    ) -> Self {
        let max_result = if max_result == 0 { usize::MAX } else { max_result };
        let max_envelope = AtomicUsize::new(max_result.min(max_frame - HEADER - TOKENS));
        let (waited, table) = (AtomicU8::new(0), Mutex::default());
        Self {
            arena,
            borrowed,
            maintenance,
            lend_to_numpy,
            max_result,
            max_frame,
            max_message,
            max_envelope,
            waited,
            table,
        }
    }

    /// A reply without buffers.
    fn bare<'py>(
        &self,
        py: Python<'py>,
        kind: u8,
        mask: u8,
        call_id: u64,
        tool_ns: u64,
        envelope: &[u8],
    ) -> PyResult<Bound<'py, Reply>> {
        let answer = Answer { kind: a_kind(kind)?, mask, forced: false, call_id, tool_ns };
        let mut head = Vec::with_capacity(HEADER + envelope.len());
        let tokens = self.without_buffers(answer, &mut head, envelope.len());
        head.extend_from_slice(envelope);
        self.shown_reply(py, answer, bare_way(mask), head, Vec::new(), tokens)
    }

    /// A reply with the buffers of `buffers`, if there are any. Raises `CallError` (transfer) where no allowed way can take
    /// them.
    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn reply<'py>(
        &self,
        py: Python<'py>,
        kind: u8,
        mask: u8,
        forced: bool,
        call_id: u64,
        tool_ns: u64,
        envelope: &[u8],
        buffers: Option<&Buffers>,
    ) -> PyResult<Bound<'py, Reply>> {
        let answer = Answer { kind: a_kind(kind)?, mask, forced, call_id, tool_ns };
        let buffers = buffers.map(Buffers::take).unwrap_or_default();
        let (mut head, none) = (Vec::new(), buffers.is_empty());
        match self.made(py, answer, &mut head, 0, envelope, buffers, 0)? {
            Made::Whole(tokens) => {
                let way = if none { bare_way(mask) } else { Way::ZeroCopy };
                self.shown_reply(py, answer, way, head, Vec::new(), tokens)
            }
            Made::With(way, views, tokens) => self.shown_reply(py, answer, way, head, views, tokens),
        }
    }

    /// Where these buffers would go, beside an envelope of this size: the way, the reply's flags, and the places.
    #[pyo3(signature = (buffers, mask, forced, envelope = 0))]
    fn place(
        &self,
        py: Python<'_>,
        buffers: &Buffers,
        mask: u8,
        forced: bool,
        envelope: usize,
    ) -> PyResult<(u8, u8, Vec<Row>)> {
        let buffers = buffers.take();
        Ok(match self.placed(py, &buffers, mask, forced, envelope)? {
            Placed::Beside(way, flags) => (way as u8, flags, Vec::new()),
            Placed::Memory(places, flags) => {
                let rows = places.iter().map(row).collect();
                (Way::ZeroCopy as u8, flags, rows)
            }
        })
    }

    /// The ways of the mask whose limits such a reply keeps.
    fn open_ways(&self, count: usize, total: usize, mask: u8, envelope: usize) -> u8 {
        let bare = HEADER + envelope + TOKENS;
        let mut open = mask;
        if total.saturating_add(bare + IN_FRAME * count) > self.max_frame {
            open &= !bit(Way::Inline);
        }
        if total.saturating_add(bare + IN_MESSAGE * count + 11) > self.max_message {
            open &= !bit(Way::Grpc);
        }
        if bare + PLACE * count > self.max_frame {
            open &= !bit(Way::ZeroCopy);
        }
        open
    }

    /// A reply with these tokens was not read: they go back to where they come from.
    fn unread(&self, unread: &Unread) {
        self.take_back(Tokens { granted: unread.granted.clone(), released: unread.released.clone() });
    }

    /// The BEAM's table of ways: for each kind and bin of sizes, whether shared memory is not dearer than the frame.
    #[setter]
    fn set_table(&self, table: &[u8]) -> PyResult<()> {
        if table.len() != KINDS * BINS {
            return Err(PyValueError::new_err("a table of ways is not as long as there are bins"));
        }
        *locked(&self.table) = table.into();
        Ok(())
    }

    /// The largest envelope that a reply can have.
    #[getter(max_envelope)]
    fn largest_envelope(&self) -> usize {
        self.max_envelope()
    }

    #[setter]
    fn set_max_envelope(&self, size: usize) {
        self.max_envelope.store(size, Ordering::Relaxed);
    }
}

fn a_kind(kind: u8) -> PyResult<Kind> {
    Kind::from_u8(kind).ok_or_else(|| PyValueError::new_err("no kind of reply has this number"))
}

impl Replies {
    pub fn max_envelope(&self) -> usize {
        self.max_envelope.load(Ordering::Relaxed)
    }

    /// A reply for Python. Where there is no memory for it, its tokens are taken back.
    pub fn shown_reply<'py>(
        &self,
        py: Python<'py>,
        answer: Answer,
        way: Way,
        head: Vec<u8>,
        views: Vec<Py<PyAny>>,
        tokens: Tokens,
    ) -> PyResult<Bound<'py, Reply>> {
        Bound::new(py, Reply::new(answer, way, head, views, tokens.clone())).inspect_err(|_| self.take_back(tokens))
    }

    /// A reply with these tokens is not sent after all.
    pub fn take_back(&self, tokens: Tokens) {
        self.borrowed.get().take_back(tokens.released);
        self.freed(&tokens.granted);
    }

    /// Appends the head of a reply that has no buffers, whose envelope of `len` bytes follows.
    fn without_buffers(&self, answer: Answer, out: &mut Vec<u8>, len: usize) -> Tokens {
        let released = self.borrowed.get().take_released();
        let Answer { kind, mask, call_id, tool_ns, .. } = answer;
        frame::Reply::write_head(
            out,
            kind,
            bare_way(mask),
            0,
            self.waited(),
            call_id,
            tool_ns,
            len as u32,
            &[],
            &[],
            &released,
        );
        Tokens { granted: Vec::new(), released }
    }

    /// Appends a reply to `out`: all of it but the buffers that are left. A frame with its buffers of at most `join` bytes
    /// is written as a whole. The frame begins at `start` of `out`.
    #[expect(clippy::too_many_arguments, reason = "the parts of a reply")]
    pub fn made(
        &self,
        py: Python<'_>,
        answer: Answer,
        out: &mut Vec<u8>,
        start: usize,
        envelope: &[u8],
        buffers: Vec<Buffer>,
        join: usize,
    ) -> PyResult<Made> {
        let Answer { kind, mask, forced, call_id, tool_ns } = answer;
        let total = envelope.len().saturating_add(sum(&buffers));
        if total > self.max_result {
            let (size, limit) = (total, self.max_result);
            let message = format!("the result has {size} bytes, the limit is {limit} (max_result of the pool)");
            return Err(too_large(py, size, limit, message));
        }
        if envelope.len() > self.max_envelope() {
            // Whichever way the buffers take, this part goes in a frame or a message.
            let (size, limit) = (envelope.len(), self.max_envelope());
            let message = format!(
                "the result has {size} bytes without its large strings, bytes and arrays; \
                 at most {limit} can go: return arrays, or a stream of parts"
            );
            return Err(too_large(py, size, limit, message));
        }
        let len = envelope.len() as u32;
        if buffers.is_empty() {
            let tokens = self.without_buffers(answer, out, envelope.len());
            out.extend_from_slice(envelope);
            return Ok(Made::Whole(tokens));
        }
        let placed = self.placed(py, &buffers, mask, forced, envelope.len())?;
        let (way, flags) = match placed {
            Placed::Memory(places, flags) => {
                drop(buffers);
                let released = self.borrowed.get().take_released();
                let way = Way::ZeroCopy;
                frame::Reply::write_head(
                    out,
                    kind,
                    way,
                    flags,
                    self.waited(),
                    call_id,
                    tool_ns,
                    len,
                    &[],
                    &places,
                    &released,
                );
                out.extend_from_slice(envelope);
                let granted = places.iter().map(|place| place.token).collect();
                return Ok(Made::Whole(Tokens { granted, released }));
            }
            Placed::Beside(way, flags) => (way, flags),
        };
        let lens: Vec<u64> = buffers.iter().map(|buffer| buffer.len as u64).collect();
        let whole = way == Way::Inline && total <= join;
        let mut copies = Vec::new();
        if whole {
            // Arguments that are sent back are copied and let go, before the tokens are taken.
            for buffer in &buffers {
                copies.resize(copies.len().next_multiple_of(INLINE_ALIGN), 0);
                buffer.append(py, &mut copies)?;
            }
        }
        let buffers = if whole {
            drop(buffers);
            Vec::new()
        } else if total <= COPY_LIMIT && self.borrowed.get().outstanding() != 0 {
            buffers.into_iter().map(|buffer| buffer.copied(py)).collect::<PyResult<_>>()?
        } else {
            buffers
        };
        // Whatever can fail comes before the tokens are taken.
        let views = views(py, buffers)?;
        let released = self.borrowed.get().take_released();
        frame::Reply::write_head(out, kind, way, flags, self.waited(), call_id, tool_ns, len, &lens, &[], &released);
        out.extend_from_slice(envelope);
        let tokens = Tokens { granted: Vec::new(), released };
        if !whole {
            return Ok(Made::With(way, views, tokens));
        }
        out.resize(out.len() + padding(out.len() - start), 0);
        out.extend_from_slice(&copies);
        Ok(Made::Whole(tokens))
    }

    fn placed(&self, py: Python<'_>, buffers: &[Buffer], mask: u8, forced: bool, envelope: usize) -> PyResult<Placed> {
        let total = sum(buffers);
        let able = self.open_ways(buffers.len(), total, mask, envelope);
        let may = |way| able & bit(way) != 0;
        let mut flags = 0;
        if may(Way::ZeroCopy) {
            // Nothing else may take it: then memory is made, warm or not.
            let must = forced || !(may(Way::Inline) || may(Way::Grpc));
            let dearer = !must && self.is_dearer(buffers, total);
            if let Some(arena) = &self.arena {
                match self.slots(py, arena.get(), buffers, must, dearer) {
                    Ok(Some(slots)) => return self.fill(py, arena.get(), buffers, slots),
                    Ok(None) => {}
                    Err(error) if able == mask => return Err(error),
                    Err(error) => {
                        let words = self.too_large_for(buffers, total, envelope);
                        let more = format!("; {words} other ways: raise memory_quota of the pool");
                        if let Ok(message) = error.value(py).getattr("message") {
                            error.value(py).setattr("message", format!("{message}{more}"))?;
                        }
                        return Err(error);
                    }
                }
            } else if must {
                let mut message = "this worker has no shared memory".to_owned();
                if able != mask {
                    message += &format!("; {} other ways", self.too_large_for(buffers, total, envelope));
                }
                return Err(transfer_error(py, "unavailable", message, None));
            }
            flags = if dearer { 0 } else { FLAG_WANTED_MEMORY };
        }
        if may(Way::Inline) {
            return Ok(Placed::Beside(Way::Inline, flags));
        }
        if may(Way::Grpc) {
            return Ok(Placed::Beside(Way::Grpc, flags));
        }
        if able == mask {
            let message = format!("the reply may take none of this worker's ways (mask {mask})");
            return Err(transfer_error(py, "no_way", message, None));
        }
        let details = PyDict::new(py);
        details.set_item("bytes", total)?;
        details.set_item("envelope", envelope)?;
        details.set_item("buffers", buffers.len())?;
        let words = self.too_large_for(buffers, total, envelope);
        Err(transfer_error(py, "too_large", format!("{words} the ways that this call allows its reply"), Some(details)))
    }

    fn too_large_for(&self, buffers: &[Buffer], total: usize, envelope: usize) -> String {
        let beside = if buffers.len() > 1 || envelope > 1024 {
            format!(" in {} buffers and {envelope} beside them", buffers.len())
        } else {
            String::new()
        };
        format!(
            "a result of {total} bytes{beside} is too large for a frame (at most {}) or a gRPC message (at most {}), and so for",
            self.max_frame, self.max_message
        )
    }

    /// Whether copying these into shared memory costs more than the frame, as the BEAM has measured it. Or more than gRPC,
    /// where the frame is not allowed.
    fn is_dearer(&self, buffers: &[Buffer], total: usize) -> bool {
        let table = locked(&self.table);
        if table.is_empty() {
            return false;
        }
        let arrays = buffers.iter().filter(|buffer| buffer.is_array()).count();
        let kind = match arrays {
            0 => BINARY,
            n if n == buffers.len() => TENSOR,
            _ => MIXED,
        };
        table[kind * BINS + bin(total / buffers.len())] == 0
    }

    /// For each buffer where it goes. `only_there`: `None` if anything would have to be copied.
    fn slots(
        &self,
        py: Python<'_>,
        arena: &Arena,
        buffers: &[Buffer],
        must: bool,
        only_there: bool,
    ) -> PyResult<Option<Vec<Target>>> {
        let mut found = Slots { memory: arena.memory(), slots: Vec::with_capacity(buffers.len()) };
        let mut ours: Option<Vec<bool>> = None;
        for (at, buffer) in buffers.iter().enumerate() {
            let address = buffer.address(py)?;
            let mut there = if address == 0 { None } else { arena.memory().find(address, buffer.len) };
            if let Some((slot, _)) = there
                && slot.writable
            {
                let ours = ours.get_or_insert_with(|| sole_holders(py, buffers.iter().map(|buffer| &buffer.source)));
                if !ours[at] {
                    // Somebody else may still write to it.
                    arena.memory().release(slot.slot);
                    there = None;
                }
            }
            let slot = match there {
                Some((slot, offset)) => (slot, Some(offset)),
                None if only_there => return Ok(None),
                None => match arena.memory().allocate(buffer.len as u64) {
                    Some(slot) => (slot, None),
                    None if must => (self.forced(py, arena, buffer.len)?, None),
                    None => {
                        self.maintenance.bind(py).call_method1(intern!(py, "want"), (buffer.len,))?;
                        return Ok(None);
                    }
                },
            };
            found.slots.push(slot);
        }
        Ok(Some(found.kept()))
    }

    fn forced(&self, py: Python<'_>, arena: &Arena, len: usize) -> PyResult<Found> {
        self.stir(py)?;
        arena.forced(py, len as u64).map_err(|error| {
            if error.is_instance_of::<PyOSError>(py) || error.is_instance_of::<PyMemoryError>(py) {
                let message = format!("no shared memory for {len} bytes: {}", error.value(py));
                return transfer_error(py, "no_memory", message, None);
            }
            error
        })
    }

    /// A request came, which waited for so many nanoseconds for the interpreter's lock.
    pub fn begin(&self, waited_ns: u64) {
        self.waited.store(wait_code(waited_ns), Ordering::Relaxed);
    }

    /// The present request's wait; the first reply to it has it.
    pub fn waited(&self) -> u8 {
        self.waited.swap(0, Ordering::Relaxed)
    }

    pub fn borrowed(&self) -> &Borrowed {
        self.borrowed.get()
    }

    fn arena(&self) -> Option<&Arena> {
        self.arena.as_ref().map(Py::get)
    }

    /// The BEAM let go of these. A request may be looked at twice: tokens that were freed already are passed over.
    pub fn freed(&self, tokens: &[u64]) {
        if let Some(arena) = self.arena() {
            arena.memory().freed(tokens);
        }
    }

    /// Views of a request's places. Each token comes back once, whatever happens.
    pub fn shown<'py>(&self, py: Python<'py>, places: &[Place]) -> PyResult<Vec<Bound<'py, PyAny>>> {
        if !places.is_empty() {
            self.stir(py)?;
        }
        self.borrowed().shown(py, places)
    }

    /// There is something to look after from now on.
    fn stir(&self, py: Python<'_>) -> PyResult<()> {
        self.maintenance.bind(py).call_method0(intern!(py, "stir")).map(drop)
    }

    fn fill(&self, py: Python<'_>, arena: &Arena, buffers: &[Buffer], slots: Vec<Target>) -> PyResult<Placed> {
        let memory = arena.memory();
        // Until all are granted, an error gives all of them back.
        let mut held = Slots { memory, slots };
        let mut flags = FLAG_IN_PLACE;
        for (buffer, (slot, there)) in buffers.iter().zip(&held.slots) {
            if there.is_some() {
                continue;
            }
            flags = 0;
            // SAFETY: the slot has room for as many bytes, and is held by this reply alone.
            unsafe { buffer.copy_to(py, slot.address as *mut u8)? };
            if let Some(lend) = &self.lend_to_numpy
                && buffer.len >= LARGE
                && buffer.is_array()
            {
                lend.bind(py).call0()?;
            }
        }
        if memory.wants_spare() {
            self.maintenance.bind(py).call_method0(intern!(py, "stir_now"))?;
        }
        let slots = std::mem::take(&mut held.slots);
        let granted = buffers.iter().zip(slots).map(|(buffer, (slot, there))| {
            let offset = there.unwrap_or(slot.slot.offset);
            memory.grant(slot.slot, offset, buffer.len as u64)
        });
        // A slot that is held lies in a chunk that is there.
        let places = granted.collect::<Option<Vec<Place>>>();
        let places = places.ok_or_else(|| PyMemoryError::new_err("a chunk is gone while its slot is held"))?;
        Ok(Placed::Memory(places, flags))
    }
}

/// Slots held by a reply that is being made; given back if it is not.
struct Slots<'a> {
    memory: &'a Memory,
    slots: Vec<Target>,
}

impl Slots<'_> {
    fn kept(mut self) -> Vec<Target> {
        std::mem::take(&mut self.slots)
    }
}

impl Drop for Slots<'_> {
    fn drop(&mut self) {
        self.slots.iter().for_each(|(slot, _)| self.memory.release(slot.slot));
    }
}

fn sum(buffers: &[Buffer]) -> usize {
    buffers.iter().fold(0, |sum, buffer| sum.saturating_add(buffer.len))
}

/// The bytes of each as a memoryview.
fn views(py: Python<'_>, buffers: Vec<Buffer>) -> PyResult<Vec<Py<PyAny>>> {
    buffers.into_iter().map(|buffer| Ok(buffer.view(py)?.unbind())).collect()
}

impl Buffer {
    /// A copy of its bytes, which holds nothing of its source.
    fn copied(self, py: Python<'_>) -> PyResult<Self> {
        let bytes = self.view(py)?.call_method0("tobytes")?;
        Self::bytes(&bytes)
    }
}

fn too_large(py: Python<'_>, size: usize, limit: usize, message: String) -> PyErr {
    let details = PyDict::new(py);
    let set = details.set_item("bytes", size).and_then(|()| details.set_item("limit", limit));
    set.err().unwrap_or_else(|| call_error(py, "transfer", "too_large", message, Some(details)))
}
