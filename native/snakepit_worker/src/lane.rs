//! A lane's loop: reads frames, has usual calls served at once, and leaves the others to Python.
//!
//! It waits and copies without the interpreter's lock: first spinning, where the caller says that the next call comes
//! soon, then asleep.

use crate::cores::{Cores, leave_core, this_core};
use crate::memory::view::{FrameMemory, FrameRoom, View};
use crate::progress::Leftover;
use crate::quick::{Outcome, PREFIX, QuickCalls, now};
use crate::socket::{part, send_all};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PySlice;
use snakepit_core::frame::{FLAG_SPIN, HEADER, RequestHead, Way};
use snakepit_core::spin::Rest;
use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Serves a lane until its connection ends or the worker stops.
///
/// `lane` is a `snakepit.runtime.lane.Lane`, `quick` what serves its usual calls. `memory` has room for a frame, whose
/// own length comes right before `start`; nobody else writes to it. A lane spins for at most `spin_us`.
#[pyfunction]
pub fn serve(
    lane: &Bound<'_, Leftover>,
    quick: &Bound<'_, QuickCalls>,
    descriptor: i32,
    memory: &Bound<'_, PyAny>,
    start: usize,
    spin_us: u64,
) -> PyResult<()> {
    let py = lane.py();
    let view = PyBuffer::<u8>::get(memory)?;
    let room = view.len_bytes().checked_sub(start).is_some_and(|room| room >= HEADER);
    if view.readonly() || !view.is_c_contiguous() || start < PREFIX || !room {
        return Err(PyTypeError::new_err("a lane needs contiguous memory that it may write to"));
    }
    let window = Window {
        waited: AtomicU64::new(0),
        at: view.buf_ptr() as usize + start - PREFIX,
        len: view.len_bytes() - start + PREFIX,
        descriptor,
    };
    let (calls, service) = (lane.getattr("calls")?, lane.getattr("service")?);
    let (acquire, release) = (lane.getattr("lock")?.getattr("acquire")?, lane.getattr("lock")?.getattr("release")?);
    let mut poll = Poll { limit_ns: spin_us.saturating_mul(1_000), rest: Rest::default() };
    let (mut out, mut spin, mut got, mut cores) = (Vec::with_capacity(4096), false, 0, Cores::default());
    while !service.getattr(intern!(py, "stopping"))?.is_truthy()? {
        if got == 0 {
            got = window.receive(py, 0, spin.then_some(&mut poll))?;
        }
        let Some(frame) = window.frame(py, &mut got)? else { return Ok(()) };
        let bytes = frame.bytes(&window);
        let head = RequestHead::read(bytes);
        spin = head.is_some_and(|head| head.flags & FLAG_SPIN != 0) && spin_us != 0;
        let theirs = head.map_or(0, |head| head.core);
        if spin && theirs != 0 && cores.should_part(theirs, this_core(), now()) {
            // To stay where it is costs time, and nothing else.
            let _ = py.detach(leave_core);
        }
        acquire.call0()?;
        let held = Held(&release);
        quick.get().replies().begin(window.waited.load(Ordering::Relaxed));
        let done = served(lane, quick, &calls, &window, memory, start, &frame, &mut out);
        drop(held);
        done?;
        if out.capacity() > KEPT {
            out = Vec::with_capacity(4096);
        }
        // The next frame begins where this one ends.
        let used = frame.in_window();
        window.bytes_mut().copy_within(used..got.max(used), 0);
        got = got.saturating_sub(used);
    }
    Ok(())
}

/// Memory of a frame is kept for the next one up to this size.
const KEPT: usize = 1 << 20;

/// The lane's lock, given up whatever becomes of the call.
struct Held<'a, 'py>(&'a Bound<'py, PyAny>);

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        // It is held, so that this cannot fail.
        let _ = self.0.call0();
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of a loop, with what it keeps")]
fn served<'py>(
    lane: &Bound<'py, Leftover>,
    quick: &Bound<'py, QuickCalls>,
    calls: &Bound<'py, PyAny>,
    window: &Window,
    memory: &Bound<'py, PyAny>,
    start: usize,
    frame: &Frame,
    out: &mut Vec<u8>,
) -> PyResult<()> {
    let py = lane.py();
    let own = if let Frame::Own(own, _) = frame { Some(own) } else { None };
    match quick.get().run(py, calls, frame.bytes(window), own, out)? {
        Outcome::Left(views) => {
            let shown = match frame {
                Frame::Own(own, _) => View::of_frame(own, 0, own.bytes().len()).shown(py)?,
                Frame::Window(len) => {
                    let part = PySlice::new(py, start as isize, (start + len) as isize, 1);
                    memory.get_item(part)?.call_method0(intern!(py, "toreadonly"))?
                }
            };
            lane.call_method1(intern!(py, "slowly"), (shown, views)).map(drop)
        }
        Outcome::Frame(unread, rest) => {
            lane.get().clear();
            if let Some(tokens) = unread {
                // If nobody reads this reply, they can be taken back.
                lane.get().set_lost(Bound::new(py, tokens)?.as_any())?;
            }
            // SAFETY: `out` is there until it returns.
            let sent = unsafe { send_all(py, window.descriptor, &mut [part(out)]) };
            drop(rest);
            sent
        }
        Outcome::Reply(reply) => {
            lane.get().clear();
            lane.call_method1(intern!(py, "send"), (reply,)).map(drop)
        }
    }
}

/// A whole frame.
enum Frame {
    /// In the window, of this length.
    Window(usize),
    /// Large, or with buffers in it that may outlive the call: in memory of its own. So many bytes of the window are it.
    Own(Arc<FrameMemory>, usize),
}

impl Frame {
    fn bytes<'a>(&'a self, window: &'a Window) -> &'a [u8] {
        match self {
            Self::Window(len) => &window.bytes()[PREFIX..PREFIX + len],
            Self::Own(memory, _) => memory.bytes(),
        }
    }

    /// How many bytes of the window it takes, its length included.
    fn in_window(&self) -> usize {
        match self {
            Self::Window(len) => PREFIX + len,
            Self::Own(_, taken) => *taken,
        }
    }
}

/// Where frames are read to, with the length before them.
struct Window {
    /// How long, in nanoseconds, the latest read waited for the interpreter's lock after its bytes were there.
    waited: AtomicU64,
    at: usize,
    len: usize,
    descriptor: i32,
}

impl Window {
    fn bytes(&self) -> &[u8] {
        // SAFETY: inside of memory that `serve` exports until it returns, and that this thread alone writes to: in
        // `receive` and `bytes_mut`, while no slice of it is in use.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.len) }
    }

    #[expect(clippy::mut_from_ref, reason = "see `bytes`: this thread has no other slice of it then")]
    fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: as for `bytes`.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.len) }
    }

    /// Reads until a frame is whole. `got` bytes are there already, and more may be in the end; `None`: the connection has
    /// ended.
    fn frame(&self, py: Python<'_>, got: &mut usize) -> PyResult<Option<Frame>> {
        if !self.until(py, got, PREFIX)? {
            return Ok(None);
        }
        let len = self.bytes().first_chunk::<PREFIX>().map_or(0, |prefix| u32::from_be_bytes(*prefix) as usize);
        if !self.until(py, got, PREFIX + len.min(HEADER))? {
            return Ok(None);
        }
        let head = RequestHead::read(&self.bytes()[PREFIX..PREFIX + len.min(HEADER)]);
        let apart = head.is_some_and(|head| head.way == Way::Inline as u8 && head.buffers != 0);
        if !apart && PREFIX + len <= self.len {
            return Ok(self.until(py, got, PREFIX + len)?.then_some(Frame::Window(len)));
        }
        let there = (*got - PREFIX).min(len);
        let Some(room) = FrameRoom::new(len) else {
            return Err(PyMemoryError::new_err(format!("no memory for a request of {len} bytes")));
        };
        // SAFETY: as many bytes are in the window, and there is room for them.
        unsafe { std::ptr::copy_nonoverlapping(self.bytes()[PREFIX..].as_ptr(), room.start(), there) };
        let mut have = there;
        while have < len {
            match self.receive_to(py, room.start() as usize + have, len - have, None)? {
                0 => return Ok(None),
                more => have += more,
            }
        }
        // SAFETY: all `len` bytes were written.
        Ok(Some(Frame::Own(unsafe { room.written() }, PREFIX + there)))
    }

    /// Reads until so many bytes are there. False: the connection has ended before.
    fn until(&self, py: Python<'_>, got: &mut usize, need: usize) -> PyResult<bool> {
        while *got < need {
            match self.receive(py, *got, None)? {
                0 => return Ok(false),
                more => *got += more,
            }
        }
        Ok(true)
    }

    /// Reads to behind the first `have` bytes. The number of bytes that came; 0 at the connection's end.
    fn receive(&self, py: Python<'_>, have: usize, poll: Option<&mut Poll>) -> PyResult<usize> {
        self.receive_to(py, self.at + have, self.len - have, poll)
    }

    /// Reads to an address where there is room for `len` bytes.
    fn receive_to(&self, py: Python<'_>, at: usize, len: usize, mut poll: Option<&mut Poll>) -> PyResult<usize> {
        let descriptor = self.descriptor;
        loop {
            let (got, there) = py.detach(|| {
                let polled = poll.take().and_then(|poll| poll.receive(|flags| read(descriptor, at, len, flags)));
                (polled.unwrap_or_else(|| read(descriptor, at, len, 0)), now())
            });
            self.waited.store(now().saturating_sub(there), Ordering::Relaxed);
            match got {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                got => {
                    py.check_signals()?;
                    return got.map_err(|error| PyOSError::new_err((error.raw_os_error(), error.to_string())));
                }
            }
            py.check_signals()?;
        }
    }
}

/// Reads to an address where there is room for so many bytes: the window's (see `Window::bytes`), or those of a frame that
/// nobody has yet.
fn read(descriptor: i32, at: usize, len: usize, flags: i32) -> Result<usize, Error> {
    // SAFETY: see above.
    let got = unsafe { libc::recv(descriptor, at as *mut libc::c_void, len, flags) };
    usize::try_from(got).map_err(|_| Error::last_os_error())
}

/// Spinning for the next request, where it comes soon: to sleep and be woken costs more than a small call takes.
struct Poll {
    limit_ns: u64,
    rest: Rest,
}

impl Poll {
    /// `None` where nothing came in time, or is not waited for. `read` reads with these flags of recv(2).
    fn receive(&mut self, read: impl Fn(i32) -> Result<usize, Error>) -> Option<Result<usize, Error>> {
        let began = now();
        if !self.rest.is_over(began) {
            return None;
        }
        loop {
            match read(libc::MSG_DONTWAIT) {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
                got => return Some(got),
            }
            let late = now();
            if late - began > self.limit_ns {
                self.rest.begin(late, late - began);
                return None;
            }
            // Another thread that wants this core has it first: the caller, perhaps.
            std::thread::yield_now();
        }
    }
}
