//! The VM's end of a lane: whole frames out and in (native/PROTOCOL.md), by system calls that never wait.
//!
//! A caller that must wait is sent `{:select, _, reference, _}` by the VM's own poll set (`enif_select`). It made the
//! reference for this one wait, so it finds the message without a look at the rest of its mailbox. The part of a frame
//! that is still to come, or to go, is kept here and not by the caller: if a caller dies in the middle of a frame, whoever
//! takes the lane over goes on with it.
//!
//! A lane has one user at a time, so its lock is free but for the moment in which the lane is closed. It is held across
//! system calls, each of a bounded number of bytes: a descriptor must not be closed, and its number reused, between a
//! look at it and its use.

mod receive;
mod send;

use crate::atoms;
use rustler::env::SavedTerm;
use rustler::sys::{self, ErlNifEnv, ErlNifEvent, ErlNifMonitor, ErlNifPid, ErlNifResourceType, ErlNifTerm};
use rustler::sys::{c_int, c_void};
use rustler::{Decoder, Encoder, Env, Error, LocalPid, NifResult, OwnedBinary, OwnedEnv, Reference, Term};
use send::Unsent;
use snakepit_core::locks::locked;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard};

/// A frame of at most this is read together with what follows it, and copied; a larger one is read into its place.
const SMALL: usize = 64 * 1024;
/// Bytes that one call moves at most: some 200 µs of copying.
const BURST: usize = 512 * 1024;
/// gRPC's limit as well; a greater length is none that a worker sends.
const MAX_FRAME: usize = i32::MAX as usize;
const PREFIX: usize = 4;
/// From erl_drv_nif.h; `rustler::sys` lacks it.
const SELECT_CANCEL: c_int = 1 << 3;
const CANCELLED: c_int = sys::ERL_NIF_SELECT_READ_CANCELLED | sys::ERL_NIF_SELECT_WRITE_CANCELLED;

struct Lane {
    fd: RawFd,
    /// The descriptor was given back.
    released: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    /// The bytes read beyond the last frame handed out begin at `taken`.
    ahead: Vec<u8>,
    taken: usize,
    /// A large frame, and how many bytes of it have come.
    large: Option<(OwnedBinary, usize)>,
    unsent: Option<Unsent>,
    waiter: Option<Waiter>,
}

struct Waiter {
    pid: LocalPid,
    owner: OwnedEnv,
    reference: SavedTerm,
}

enum Progress {
    Done,
    /// The socket takes, or has, no more at the moment.
    Wait,
    /// A burst is done; there may be more.
    Again,
}

/// A lane as a NIF is given it: the term keeps it alive meanwhile.
#[derive(Clone, Copy)]
struct LaneRef<'a> {
    lane: &'a Lane,
    object: *mut c_void,
}

// The VM's allocators align to no less.
const _: () = assert!(align_of::<Lane>() <= 8);

static TYPE: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(ptr::null_mut());

/// Opens the resource type. Rustler's own way has no `stop` callback, and `enif_select` needs one.
pub fn load(env: Env) -> bool {
    let init = sys::ErlNifResourceTypeInit {
        dtor: destroy as *const sys::ErlNifResourceDtor,
        stop: stop as *const sys::ErlNifResourceStop,
        down: down as *const sys::ErlNifResourceDown,
    };
    let mut tried = MaybeUninit::uninit();
    // SAFETY: called while the library loads, as this must be; all that is pointed to outlives the call.
    let opened = unsafe {
        let flags = sys::ErlNifResourceFlags::ERL_NIF_RT_CREATE;
        sys::enif_open_resource_type_x(env.as_c_arg(), c"snakepit_lane".as_ptr(), &init, flags, tried.as_mut_ptr())
    };
    TYPE.store(opened.cast_mut(), Ordering::Release);
    !opened.is_null()
}

unsafe extern "C" fn destroy(_env: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: the VM calls this once, for an object that `lane_open` wrote, and never touches it again.
    let lane = unsafe { ptr::read(object.cast::<Lane>()) };
    // While the poll set knows the descriptor it holds the object: so it does not, or `stop` was called.
    lane.release();
}

/// Nothing looks at the descriptor any more, neither the poll set nor, as the lane is marked closed, a NIF.
unsafe extern "C" fn stop(_env: *mut ErlNifEnv, object: *mut c_void, _event: ErlNifEvent, _direct: c_int) {
    // SAFETY: an object that `lane_open` wrote, alive while the VM calls this.
    unsafe { &*object.cast::<Lane>() }.release();
}

/// The process that opened the lane ended, however that was.
unsafe extern "C" fn down(env: *mut ErlNifEnv, object: *mut c_void, _: *const ErlNifPid, _: *const ErlNifMonitor) {
    // SAFETY: an object that `lane_open` wrote, alive while the VM calls this, with the callback's environment.
    unsafe { (*object.cast::<Lane>()).close(env, object) };
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            // SAFETY: `lane_open` took the descriptor over, and it is closed here only, once.
            unsafe { libc::close(self.fd) };
        }
    }

    /// # Safety
    /// `object` is the lane's own, and `env` that of a NIF or callback that runs in this thread.
    unsafe fn close(&self, env: *mut ErlNifEnv, object: *mut c_void) {
        let mut state = self.state();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        if let Some(waiter) = state.waiter.take() {
            // SAFETY: as the caller promises.
            if unsafe { cancel(env, self.fd, object) } {
                waiter.wake(env);
            }
        }
        *state = State { closed: true, ..State::default() };
        // SAFETY: as the caller promises. `stop` may be called within; it does not take the lock.
        unsafe { select(env, self.fd, sys::ERL_NIF_SELECT_STOP, object, nothing()) };
    }
}

/// # Safety
/// `object` is the lane's own whose descriptor is `fd`, and open; `env` is of a NIF or callback in this thread, and
/// `reference` a reference or the atom `undefined` in it.
unsafe fn select(env: *mut ErlNifEnv, fd: RawFd, mode: c_int, object: *mut c_void, reference: ErlNifTerm) -> c_int {
    // SAFETY: as the caller promises; without a pid it is about the calling process.
    unsafe { sys::enif_select(env, fd, mode, object, ptr::null(), reference) }
}

/// Whether no message will come: false if it is under way.
///
/// # Safety
/// As for [`select`].
unsafe fn cancel(env: *mut ErlNifEnv, fd: RawFd, object: *mut c_void) -> bool {
    let mode = SELECT_CANCEL | sys::ERL_NIF_SELECT_READ | sys::ERL_NIF_SELECT_WRITE;
    // SAFETY: as the caller promises.
    let answer = unsafe { select(env, fd, mode, object, nothing()) };
    answer >= 0 && answer & CANCELLED != 0
}

/// The reference in a call of `enif_select` that asks for no message.
fn nothing() -> ErlNifTerm {
    atoms::undefined().as_c_arg()
}

impl Waiter {
    /// As the poll set would.
    fn wake(self, env: *mut ErlNifEnv) {
        self.owner.run(|own| {
            let message = (atoms::select(), atoms::undefined(), self.reference.load(own), atoms::closed()).encode(own);
            // SAFETY: `env` is of the NIF or callback that runs in this thread; `own` is not used after the message left.
            unsafe { sys::enif_send(env, self.pid.as_c_arg(), own.as_c_arg(), message.as_c_arg()) };
        });
    }
}

impl<'a> Decoder<'a> for LaneRef<'a> {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let mut object = ptr::null();
        // SAFETY: the type was opened when the library was loaded.
        let found = unsafe {
            let env = term.get_env().as_c_arg();
            sys::enif_get_resource(env, term.as_c_arg(), TYPE.load(Ordering::Acquire), &mut object)
        };
        if found == 0 {
            return Err(Error::BadArg);
        }
        // SAFETY: objects of this type are written by `lane_open`; the term, of this environment, keeps it.
        Ok(Self { lane: unsafe { &*object.cast::<Lane>() }, object: object.cast_mut() })
    }
}

impl LaneRef<'_> {
    /// `Wait` with a reference: its message comes once the socket is ready for `mode`.
    fn answer<'a>(
        self,
        env: Env<'a>,
        state: &mut State,
        mode: c_int,
        progress: io::Result<Progress>,
        reference: Option<Reference<'a>>,
    ) -> Term<'a> {
        let reference = match (progress, reference) {
            (Ok(Progress::Done), _) => return atoms::ok().encode(env),
            (Ok(Progress::Again), _) => return atoms::again().encode(env),
            (Ok(Progress::Wait), None) => return atoms::wait().encode(env),
            (Ok(Progress::Wait), Some(reference)) => reference.encode(env),
            (Err(error), _) => return failed(env, &error),
        };
        // SAFETY: the lane is not closed, as the holder of its lock saw; a NIF's own environment and term.
        let answer = unsafe { select(env.as_c_arg(), self.lane.fd, mode, self.object, reference.as_c_arg()) };
        if answer < 0 {
            return failed(env, &io::Error::other("it cannot be waited for"));
        }
        let owner = OwnedEnv::new();
        let reference = owner.save(reference);
        state.waiter = Some(Waiter { pid: env.pid(), owner, reference });
        atoms::wait().encode(env)
    }
}

fn failed<'a>(env: Env<'a>, error: &io::Error) -> Term<'a> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
            (atoms::error(), atoms::closed()).encode(env)
        }
        _ => (atoms::error(), error.to_string()).encode(env),
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// Takes the descriptor over. The lane is closed with `lane_close`, or by the end of the calling process.
#[rustler::nif]
fn lane_open(env: Env, fd: i32) -> Term {
    let lane = Lane { fd, released: AtomicBool::new(false), state: Mutex::default() };
    let pid = env.pid();
    // SAFETY: the object is written before anybody sees it, and released once after the term has a reference of its own.
    unsafe {
        let object = sys::enif_alloc_resource(TYPE.load(Ordering::Acquire), size_of::<Lane>());
        ptr::write(object.cast::<Lane>(), lane);
        let term = Term::new(env, sys::enif_make_resource(env.as_c_arg(), object));
        // A caller that is ending has no monitor; then the term goes with it, unseen by others.
        sys::enif_monitor_process(env.as_c_arg(), object, pid.as_c_arg(), ptr::null_mut());
        sys::enif_release_resource(object);
        term
    }
}

/// A waiting process gets a message. The descriptor is given back at once, or once the poll set lets go of it.
#[rustler::nif]
fn lane_close(env: Env, lane: LaneRef) -> rustler::Atom {
    // SAFETY: the object is this lane's, the environment this NIF's.
    unsafe { lane.lane.close(env.as_c_arg(), lane.object) };
    atoms::ok()
}

/// The wait is over, without the message. False if that is under way.
#[rustler::nif]
fn lane_cancel(env: Env, lane: LaneRef) -> bool {
    let mut state = lane.lane.state();
    state.waiter = None;
    // A lane that is closed has sent a message to whoever waited.
    // SAFETY: it is not closed; the object is this lane's, the environment this NIF's.
    !state.closed && unsafe { cancel(env.as_c_arg(), lane.lane.fd, lane.object) }
}

/// Charges the calling process for what it copied: a burst for a fifth of its turn.
fn consume(env: Env, bytes: usize) {
    if bytes > SMALL {
        rustler::schedule::consume_timeslice(env, (bytes * 20 / BURST).clamp(1, 100) as i32);
    }
}
