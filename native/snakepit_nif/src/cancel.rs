//! Calls by their correlation id, so that another process can cancel them.
//!
//! A registration is a resource on the caller's heap. However the caller ends, its destructor takes the entry out. A caller
//! that is about to wait says by which reference; whoever cancels wakes it with `{:snakepit_cancelled, reference}`, once.

use crate::atoms;
use rustler::env::SavedTerm;
use rustler::sys::enif_send;
use rustler::{Binary, Encoder, Env, LocalPid, OwnedEnv, Reference, Resource, ResourceArc, Term};
use snakepit_core::locks::locked;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

/// Locks of their own, so that callers seldom meet.
const SHARDS: usize = 64;

type Shard = HashMap<Arc<[u8]>, Vec<Arc<Entry>>>;

static CALLS: LazyLock<Vec<Mutex<Shard>>> = LazyLock::new(|| (0..SHARDS).map(|_| Mutex::default()).collect());

fn shard(id: &[u8]) -> MutexGuard<'static, Shard> {
    // FNV-1a. Ids that somebody chose to meet in one shard do no more than that.
    let hash = id.iter().fold(0x811c_9dc5_u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    locked(&CALLS[hash as usize % SHARDS])
}

struct Entry {
    /// Its place among those of the same id; changed under the shard's lock only.
    place: AtomicUsize,
    /// A group of calls: when it is cancelled it gets a message, and is no call itself.
    counts: bool,
    cancelled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiter: Option<Waiter>,
    /// The term that the caller left for the process that cancels it.
    note: Option<Kept>,
}

struct Kept {
    own: OwnedEnv,
    term: SavedTerm,
}

impl Kept {
    fn new(term: Term) -> Self {
        let own = OwnedEnv::new();
        Self { term: own.save(term), own }
    }

    fn load<'a>(&self, env: Env<'a>) -> Term<'a> {
        self.own.run(|own| self.term.load(own).in_env(env))
    }
}

struct Waiter {
    pid: LocalPid,
    reference: Kept,
}

impl Waiter {
    fn wake(&self, env: Env) {
        OwnedEnv::new().run(|own| {
            let message = (atoms::snakepit_cancelled(), self.reference.load(own)).encode(own);
            // SAFETY: `env` is that of the NIF that runs in this thread, the term is of `own`, and neither is used after a
            // successful send, which leaves `own` to be freed only.
            unsafe { enif_send(env.as_c_arg(), self.pid.as_c_arg(), own.as_c_arg(), message.as_c_arg()) };
        });
    }
}

/// One registered call.
pub struct Cancellation {
    id: Arc<[u8]>,
    entry: Arc<Entry>,
    over: AtomicBool,
}

#[rustler::resource_impl]
impl Resource for Cancellation {}

impl Cancellation {
    fn is_cancelled(&self) -> bool {
        self.entry.cancelled.load(Ordering::Acquire)
    }

    fn take_out(&self) {
        if self.over.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut shard = shard(&self.id);
        let Some(entries) = shard.get_mut(&self.id) else { return };
        let place = self.entry.place.load(Ordering::Relaxed);
        entries.swap_remove(place);
        if let Some(moved) = entries.get(place) {
            moved.place.store(place, Ordering::Relaxed);
        }
        if entries.is_empty() {
            shard.remove(&self.id);
        }
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        self.take_out();
    }
}

/// `counts`: it is a call, and not a group of them.
#[rustler::nif]
fn cancel_register(id: Binary, counts: bool) -> ResourceArc<Cancellation> {
    let id: Arc<[u8]> = id.as_slice().into();
    let mut shard = shard(&id);
    let entries = shard.entry(id.clone()).or_insert_with(|| Vec::with_capacity(1));
    let entry = Arc::new(Entry {
        place: AtomicUsize::new(entries.len()),
        counts,
        cancelled: AtomicBool::new(false),
        state: Mutex::default(),
    });
    entries.push(entry.clone());
    drop(shard);
    ResourceArc::new(Cancellation { id, entry, over: AtomicBool::new(false) })
}

/// Leaves a term for whoever cancels the call.
#[rustler::nif]
fn cancel_note(call: ResourceArc<Cancellation>, term: Term) -> rustler::Atom {
    locked(&call.entry.state).note = Some(Kept::new(term));
    atoms::ok()
}

/// False if it is cancelled: then no message comes.
#[rustler::nif]
fn cancel_wait(env: Env, call: ResourceArc<Cancellation>, reference: Reference) -> bool {
    let waiter = Waiter { pid: env.pid(), reference: Kept::new(reference.encode(env)) };
    let mut state = locked(&call.entry.state);
    // Set under the same lock.
    if call.is_cancelled() {
        return false;
    }
    state.waiter = Some(waiter);
    true
}

/// False if it was cancelled meanwhile: its message is there, or under way.
#[rustler::nif]
fn cancel_waited(call: ResourceArc<Cancellation>) -> bool {
    locked(&call.entry.state).waiter.take().is_some()
}

#[rustler::nif]
fn cancel_flagged(call: ResourceArc<Cancellation>) -> bool {
    call.is_cancelled()
}

/// It is found no more; whether it was cancelled before.
#[rustler::nif]
fn cancel_over(call: ResourceArc<Cancellation>) -> bool {
    call.take_out();
    call.is_cancelled()
}

/// Cancels all calls of this id: how many, and the notes they left.
#[rustler::nif(schedule = "DirtyCpu")]
fn cancel_calls<'a>(env: Env<'a>, id: Binary) -> (usize, Vec<Term<'a>>) {
    let (mut count, mut waiters, mut notes) = (0, Vec::new(), Vec::new());
    {
        // A call that registers after this finds its group cancelled.
        let shard = shard(&id);
        for entry in shard.get(id.as_slice()).into_iter().flatten() {
            let mut state = locked(&entry.state);
            if entry.cancelled.swap(true, Ordering::AcqRel) {
                continue;
            }
            count += usize::from(entry.counts);
            waiters.extend(state.waiter.take());
            notes.extend(state.note.take());
        }
    }
    for waiter in waiters {
        waiter.wake(env);
    }
    (count, notes.into_iter().map(|note| note.load(env)).collect())
}
