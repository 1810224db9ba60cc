//! Sends whole frames. The bytes that the socket does not take at once stay with the lane.

use super::{BURST, LaneRef, MAX_FRAME, PREFIX, Progress, closed, consume, failed};
use crate::atoms;
use crate::bounds;
use rustler::sys;
use rustler::{Binary, Encoder, Env, NifResult, OwnedEnv, Reference, Term};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// Parts of a frame that one system call sends.
const PARTS: usize = 64;
/// System calls of one burst.
const CALLS: usize = 16;

/// A frame that did not fit the socket's buffer.
pub struct Unsent {
    /// Keeps what `parts` point to. Never cleared, only dropped.
    _owner: OwnedEnv,
    prefix: [u8; PREFIX],
    parts: Vec<*const [u8]>,
    at: Position,
}

// SAFETY: the parts are immutable binaries, kept by the environment beside them, which belongs to no thread.
unsafe impl Send for Unsent {}

/// How far a frame is sent: this part, after so many bytes of it. Part 0 is the prefix.
#[derive(Clone, Copy, Default)]
struct Position {
    part: usize,
    offset: usize,
}

/// Sends a frame, a binary or a list of them, with its length before it. The rest stays here for `lane_flush`.
#[rustler::nif]
fn lane_send_clean<'a>(env: Env<'a>, lane: LaneRef<'a>, frame: Term<'a>) -> NifResult<Term<'a>> {
    // Head and envelope; each buffer, and the gap before it.
    if frame.is_list() && frame.list_length()? > 2 + 2 * bounds::BUFFERS {
        return Ok(atoms::dirty().encode(env));
    }
    send_frame(env, lane, frame)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn lane_send_dirty<'a>(env: Env<'a>, lane: LaneRef<'a>, frame: Term<'a>) -> NifResult<Term<'a>> {
    send_frame(env, lane, frame)
}

fn send_frame<'a>(env: Env<'a>, lane: LaneRef<'a>, frame: Term<'a>) -> NifResult<Term<'a>> {
    let parts: Vec<Binary> = if frame.is_list() { frame.decode()? } else { vec![frame.decode()?] };
    let size: usize = parts.iter().map(|part| part.len()).sum();
    if size > MAX_FRAME {
        return Ok(failed(env, &io::Error::from_raw_os_error(libc::EMSGSIZE)));
    }
    let mut state = lane.lane.state();
    state.waiter = None;
    if state.closed || state.unsent.is_some() {
        return Ok(failed(env, &closed()));
    }
    let prefix = (size as u32).to_be_bytes();
    let mut at = Position::default();
    let part = |n: usize| if n == 0 { Some(&prefix[..]) } else { parts.get(n - 1).map(|b| b.as_slice()) };
    let progress = send(env, lane.lane.fd, part, &mut at);
    if matches!(progress, Ok(Progress::Wait | Progress::Again)) {
        state.unsent = Some(Unsent::new(prefix, &parts, at));
    }
    Ok(lane.answer(env, &mut state, sys::ERL_NIF_SELECT_WRITE, progress, None))
}

/// Goes on with a frame of which a part was sent, whoever sent it. `:ok` if nothing is left.
#[rustler::nif]
fn lane_flush<'a>(env: Env<'a>, lane: LaneRef<'a>, reference: Reference<'a>) -> Term<'a> {
    let mut state = lane.lane.state();
    state.waiter = None;
    if state.closed {
        return failed(env, &closed());
    }
    let Some(unsent) = &mut state.unsent else { return atoms::ok().encode(env) };
    let (prefix, parts) = (&unsent.prefix, &unsent.parts);
    let part = |n: usize| {
        // SAFETY: `_owner` keeps the binaries, whose bytes neither move nor change.
        if n == 0 { Some(&prefix[..]) } else { parts.get(n - 1).map(|part| unsafe { &**part }) }
    };
    let progress = send(env, lane.lane.fd, part, &mut unsent.at);
    if !matches!(progress, Ok(Progress::Wait | Progress::Again)) {
        state.unsent = None;
    }
    lane.answer(env, &mut state, sys::ERL_NIF_SELECT_WRITE, progress, Some(reference))
}

impl Unsent {
    fn new(prefix: [u8; PREFIX], parts: &[Binary], at: Position) -> Self {
        let owner = OwnedEnv::new();
        let parts = owner.run(|own| {
            // Copies of terms: bytes are copied of binaries of at most 64 bytes only.
            let kept = parts.iter().map(|part| Binary::from_term(part.to_term(own)));
            kept.map(|part| part.map(|b| ptr::from_ref(b.as_slice())).expect("a binary a moment ago")).collect()
        });
        Self { _owner: owner, prefix, parts, at }
    }
}

fn send<'p>(env: Env, fd: RawFd, part: impl Fn(usize) -> Option<&'p [u8]>, at: &mut Position) -> io::Result<Progress> {
    let (mut sent, mut calls) = (0, 0);
    loop {
        let mut iov = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS];
        let (mut n, mut bytes, mut next) = (0, 0, *at);
        while n < PARTS && calls < CALLS && sent + bytes < BURST {
            let Some(rest) = part(next.part).map(|p| &p[next.offset..]) else { break };
            let take = rest.len().min(BURST - sent - bytes);
            iov[n] = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: take };
            (n, bytes) = (n + 1, bytes + take);
            next = Position { part: next.part + 1, offset: 0 };
        }
        calls += 1;
        if n == 0 {
            consume(env, sent);
            return Ok(if part(at.part).is_none() { Progress::Done } else { Progress::Again });
        }
        // SAFETY: all zeros is a valid msghdr; the parts are read only, and outlive the call.
        let answer = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = iov.as_mut_ptr();
            message.msg_iovlen = n as _;
            libc::sendmsg(fd, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        let Ok(written) = usize::try_from(answer) else {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => {
                    consume(env, sent);
                    return Ok(Progress::Wait);
                }
                _ => return Err(error),
            }
        };
        sent += written;
        at.offset += written;
        while let Some(whole) = part(at.part).map(<[u8]>::len).filter(|len| at.offset >= *len) {
            *at = Position { part: at.part + 1, offset: at.offset - whole };
        }
        if bytes == written && part(at.part).is_none() {
            consume(env, sent);
            return Ok(Progress::Done);
        }
    }
}
