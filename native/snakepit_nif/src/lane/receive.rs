//! Whole frames in. A frame of which a part has come stays with the lane.

use super::{BURST, LaneRef, MAX_FRAME, PREFIX, Progress, SMALL, State, closed, consume, failed};
use crate::atoms;
use rustler::sys::{self, ErlNifBinary};
use rustler::{Encoder, Env, NewBinary, OwnedBinary, Reference, Term};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

/// The next frame, without its length: `{:ok, binary}`.
#[rustler::nif]
fn lane_receive<'a>(env: Env<'a>, lane: LaneRef<'a>, reference: Reference<'a>) -> Term<'a> {
    let mut state = lane.lane.state();
    state.waiter = None;
    if state.closed {
        return failed(env, &closed());
    }
    match receive(env, lane.lane.fd, &mut state) {
        Ok(Ok(frame)) => (atoms::ok(), frame).encode(env),
        Ok(Err(progress)) => lane.answer(env, &mut state, sys::ERL_NIF_SELECT_READ, Ok(progress), Some(reference)),
        Err(error) => failed(env, &error),
    }
}

fn receive<'a>(env: Env<'a>, fd: RawFd, state: &mut State) -> io::Result<Result<Term<'a>, Progress>> {
    let mut received = 0;
    loop {
        if let Some((frame, filled)) = &mut state.large {
            let left = frame.len() - *filled;
            if left == 0 {
                consume(env, received);
                let (frame, _) = state.large.take().expect("looked at above");
                return Ok(Ok(frame.release(env).to_term(env)));
            }
            if received >= BURST {
                consume(env, received);
                return Ok(Err(Progress::Again));
            }
            let room = &mut frame.as_mut_slice()[*filled..];
            let len = left.min(BURST);
            // SAFETY: `room` has at least `len` bytes.
            match unsafe { read(fd, room.as_mut_ptr(), len) }? {
                Some(n) => (*filled, received) = (*filled + n, received + n),
                None => {
                    consume(env, received);
                    return Ok(Err(Progress::Wait));
                }
            }
            continue;
        }
        let ahead = &state.ahead[state.taken..];
        if let Some(frame) = whole(ahead)? {
            let term = NewBinary::from_slice(env, frame).into();
            state.take(PREFIX + frame.len());
            return Ok(Ok(term));
        }
        if let Some(size) = size(ahead)?.filter(|size| PREFIX + size > SMALL) {
            state.begin(size)?;
            continue;
        }
        let mut buffer = [MaybeUninit::<u8>::uninit(); SMALL];
        // SAFETY: the buffer has as many bytes.
        let Some(n) = unsafe { read(fd, buffer.as_mut_ptr().cast(), SMALL) }? else {
            return Ok(Err(Progress::Wait));
        };
        // SAFETY: so many were written just now.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), n) };
        if ahead.is_empty()
            && let Some(frame) = whole(bytes)?
        {
            state.keep(&bytes[PREFIX + frame.len()..]);
            return Ok(Ok(NewBinary::from_slice(env, frame).into()));
        }
        state.keep(bytes);
    }
}

/// The length in a length prefix, if it is there.
fn size(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    let size = u32::from_be_bytes(*prefix) as usize;
    if size > MAX_FRAME { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) } else { Ok(Some(size)) }
}

/// The frame that `bytes` begin with, if all of it is there.
fn whole(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    Ok(size(bytes)?.and_then(|size| bytes.get(PREFIX..PREFIX + size)))
}

impl State {
    /// So many bytes of those read ahead were used.
    fn take(&mut self, n: usize) {
        self.taken += n;
        if self.taken == self.ahead.len() {
            self.ahead.clear();
            self.taken = 0;
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.ahead.drain(..self.taken);
        self.taken = 0;
        self.ahead.extend_from_slice(bytes);
    }

    /// A large frame, of which the first bytes were read ahead.
    fn begin(&mut self, size: usize) -> io::Result<()> {
        let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
        // SAFETY: it writes the binary unless it answers 0. `OwnedBinary::new` would end the VM where memory is short.
        let mut frame = unsafe {
            if sys::enif_alloc_binary(size, binary.as_mut_ptr()) == 0 {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            OwnedBinary::from_raw(binary.assume_init())
        };
        let there = &self.ahead[self.taken + PREFIX..];
        let filled = there.len();
        frame.as_mut_slice()[..filled].copy_from_slice(there);
        self.large = Some((frame, filled));
        self.take(PREFIX + filled);
        Ok(())
    }
}

/// Bytes that are there; `None` if there are none yet.
///
/// # Safety
/// `to` has room for `len` bytes.
unsafe fn read(fd: RawFd, to: *mut u8, len: usize) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: as the caller promises.
        let answer = unsafe { libc::recv(fd, to.cast(), len, libc::MSG_DONTWAIT) };
        match usize::try_from(answer) {
            Ok(0) => return Err(closed()),
            Ok(n) => return Ok(Some(n)),
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(None),
                    _ => return Err(error),
                }
            }
        }
    }
}
