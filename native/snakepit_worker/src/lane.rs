//! A lane's loop: reads frames, has the simple ones served at once, and leaves the others to Python.
//!
//! It waits and copies without the interpreter's lock: first spinning, where the caller says that the next call comes
//! soon, then asleep.

use crate::quick::{Outcome, PREFIX, QuickCalls, now};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use snakepit_core::frame::{FLAG_SPIN, HEADER};
use snakepit_core::spin::Rest;
use std::io::Error;

/// Serves a lane until its connection ends or the worker stops.
///
/// `lane` is a `snakepit.runtime.lane.Lane`, `quick` what serves its simple calls. `memory` has room for a frame, whose
/// own length comes right before `start`; nobody else writes to it. A lane spins for at most `spin_us`.
#[pyfunction]
pub fn serve(
    lane: &Bound<'_, PyAny>,
    quick: &Bound<'_, QuickCalls>,
    descriptor: i32,
    memory: &Bound<'_, PyAny>,
    start: usize,
    spin_us: u64,
) -> PyResult<()> {
    let py = lane.py();
    let view = PyBuffer::<u8>::get(memory)?;
    if view.readonly() || !view.is_c_contiguous() || start < PREFIX || view.len_bytes() < start + HEADER {
        return Err(PyTypeError::new_err("a lane needs contiguous memory that it may write to"));
    }
    let window =
        Window { at: view.buf_ptr() as usize + start - PREFIX, len: view.len_bytes() - start + PREFIX, descriptor };
    let (calls, service) = (lane.getattr("calls")?, lane.getattr("service")?);
    let (acquire, release) = (lane.getattr("lock")?.getattr("acquire")?, lane.getattr("lock")?.getattr("release")?);
    let mut poll = Poll { limit_ns: spin_us.saturating_mul(1_000), rest: Rest::default() };
    let (mut out, mut spin) = (Vec::with_capacity(4096), false);
    let mut got = 0;
    while !service.getattr(intern!(py, "stopping"))?.is_truthy()? {
        if got == 0 {
            got = window.receive(py, spin.then_some(&mut poll))?;
        }
        // The header's flags; of what is too short to have any, those of the frame before.
        spin = window.bytes()[PREFIX + 3] & FLAG_SPIN != 0 && spin_us != 0;
        if got >= PREFIX + HEADER {
            acquire.call0()?;
            let done = quickly(lane, quick, &calls, &window, got, &mut out);
            release.call0()?;
            if done? {
                got = 0;
                continue;
            }
        }
        let rest = lane.call_method1(intern!(py, "slowly"), (memory, got))?;
        if rest.is_none() {
            return Ok(());
        }
        let rest = rest.cast::<PyBytes>()?.as_bytes();
        got = rest.len();
        window.bytes_mut()[..got].copy_from_slice(rest);
    }
    Ok(())
}

/// Whether the frame was one that could be served at once.
fn quickly<'py>(
    lane: &Bound<'py, PyAny>,
    quick: &Bound<'py, QuickCalls>,
    calls: &Bound<'py, PyAny>,
    window: &Window,
    got: usize,
    out: &mut Vec<u8>,
) -> PyResult<bool> {
    let py = lane.py();
    let outcome = quick.get().run(py, calls, &window.bytes()[..got], out)?;
    if matches!(outcome, Outcome::Left) {
        return Ok(false);
    }
    lane.setattr(intern!(py, "waiting"), py.None())?;
    lane.setattr(intern!(py, "lost"), false)?;
    match outcome {
        Outcome::Reply(reply) => drop(lane.call_method1(intern!(py, "send"), (reply,))?),
        _ => window.send(py, out)?,
    }
    Ok(true)
}

/// Where frames are read to, with the length before them.
struct Window {
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

    /// The number of bytes that came; 0 at the connection's end.
    fn receive(&self, py: Python<'_>, mut poll: Option<&mut Poll>) -> PyResult<usize> {
        loop {
            let got = py.detach(|| {
                if let Some(poll) = poll.take()
                    && let Some(got) = poll.receive(self)
                {
                    return got;
                }
                self.read(0)
            });
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

    fn read(&self, flags: i32) -> Result<usize, Error> {
        // SAFETY: memory of this length (see `bytes`).
        let got = unsafe { libc::recv(self.descriptor, self.at as *mut libc::c_void, self.len, flags) };
        usize::try_from(got).map_err(|_| Error::last_os_error())
    }

    /// Sends all of it. A small frame goes at once, while the lock is held: to give it up takes as long.
    fn send(&self, py: Python<'_>, mut frame: &[u8]) -> PyResult<()> {
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        loop {
            match if flags & libc::MSG_DONTWAIT != 0 {
                self.write(frame, flags)
            } else {
                py.detach(|| self.write(frame, flags))
            } {
                Ok(sent) if sent == frame.len() => return Ok(()),
                Ok(sent) => frame = &frame[sent..],
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => py.check_signals()?,
                    Some(libc::EAGAIN) if flags & libc::MSG_DONTWAIT != 0 => {}
                    code => return Err(PyOSError::new_err((code, error.to_string()))),
                },
            }
            flags = libc::MSG_NOSIGNAL;
        }
    }

    fn write(&self, bytes: &[u8], flags: i32) -> Result<usize, Error> {
        // SAFETY: `bytes` is memory of its length.
        let sent = unsafe { libc::send(self.descriptor, bytes.as_ptr().cast(), bytes.len(), flags) };
        usize::try_from(sent).map_err(|_| Error::last_os_error())
    }
}

/// Spinning for the next request, where it comes soon: to sleep and be woken costs more than a small call takes.
struct Poll {
    limit_ns: u64,
    rest: Rest,
}

impl Poll {
    /// `None` where nothing came in time, or is not waited for.
    fn receive(&mut self, window: &Window) -> Option<Result<usize, Error>> {
        let began = now();
        if !self.rest.is_over(began) {
            return None;
        }
        loop {
            match window.read(libc::MSG_DONTWAIT) {
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
