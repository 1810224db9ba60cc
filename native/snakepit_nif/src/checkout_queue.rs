//! The checkout queue of a pool: where callers get a lane and give it back, without a process in between.
//!
//! The process that frees a lane wakes the caller that waits for it, with a message. Two resources on the caller's heap
//! say what it has: a *place* in line, and then a *checkout* of a lane. If the process dies, both are collected with its
//! heap. The destructor of a place leaves the line; that of a checkout reports the lane. So the line holds living callers
//! only, and nobody has to look for dead ones.

use crate::atoms;
use rustler::env::SavedTerm;
use rustler::sys::enif_send;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Reference, Resource, ResourceArc, Term};
use snakepit_core::lanes::{CheckoutAnswer, Lane, Lanes, Place, Want};
use snakepit_core::locks::locked;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};

struct Waiter {
    pid: LocalPid,
    /// The reference of the message it waits for, and where that lives.
    reference: SavedTerm,
    own: OwnedEnv,
}

impl Waiter {
    fn new(pid: LocalPid, reference: Reference) -> Self {
        let own = OwnedEnv::new();
        Self { pid, reference: own.save(reference), own }
    }

    /// False if it is dead.
    fn send(&self, env: Env, answer: impl Encoder) -> bool {
        deliver(env, &self.pid, |env| {
            let reference = self.own.run(|own| self.reference.load(own).in_env(env));
            (atoms::snakepit_lane(), reference, answer).encode(env)
        })
    }
}

/// One pool's checkout queue. `owner` is sent the lanes whose holder died, the runs that are over, and word that a closed
/// queue has no call left.
pub struct CheckoutQueue {
    lanes: Mutex<Lanes<Waiter>>,
    owner: LocalPid,
}

#[rustler::resource_impl]
impl Resource for CheckoutQueue {}

/// Handed to a waiter that may be dead before it reads the message.
const HANDED: u8 = 0;
/// In use: the lane may be in the middle of a call.
const TAKEN: u8 = 1;
/// Given back.
const RETURNED: u8 = 2;

/// The right to use a lane, once.
pub struct Checkout {
    queue: ResourceArc<CheckoutQueue>,
    lane: Lane,
    state: AtomicU8,
}

#[rustler::resource_impl]
impl Resource for Checkout {
    const IMPLEMENTS_DESTRUCTOR: bool = true;

    fn destructor(self, env: Env<'_>) {
        match self.state.load(Ordering::Acquire) {
            HANDED => {
                let next = self.queue.lock().offer(self.lane);
                self.queue.pass_on(env, self.lane, &self.queue, next);
            }
            TAKEN => self.queue.lost(env, self.lane, &self.queue),
            _ => {}
        }
    }
}

/// A caller's place in line, which it leaves when the last reference to this is collected.
pub struct PlaceInLine {
    queue: ResourceArc<CheckoutQueue>,
    place: Place,
}

#[rustler::resource_impl]
impl Resource for PlaceInLine {}

impl Drop for PlaceInLine {
    fn drop(&mut self) {
        self.queue.lock().cancel(self.place);
    }
}

impl CheckoutQueue {
    /// Bookkeeping only under this lock.
    fn lock(&self) -> MutexGuard<'_, Lanes<Waiter>> {
        locked(&self.lanes)
    }

    fn checkout(this: &ResourceArc<Self>, lane: Lane, state: u8) -> ResourceArc<Checkout> {
        ResourceArc::new(Checkout { queue: this.clone(), lane, state: AtomicU8::new(state) })
    }

    /// A call is done: whoever waited longest gets its lane.
    fn checkin(&self, env: Env, lane: Lane, this: &ResourceArc<Self>) {
        let next = self.lock().checkin(lane);
        self.pass_on(env, lane, this, next);
    }

    /// Gives the lane to the waiter whose turn it is and who is still alive.
    fn pass_on(&self, env: Env, lane: Lane, this: &ResourceArc<Self>, mut next: Option<Waiter>) {
        while let Some(waiter) = next {
            let checkout = Self::checkout(this, lane, HANDED);
            if hand_over(env, &waiter, lane, &checkout) {
                return;
            }
            // Nobody got it: this checkout must not give the lane back a second time.
            checkout.state.store(RETURNED, Ordering::Release);
            next = self.lock().offer(lane);
        }
        self.notify_owner(env);
    }

    fn forget(&self, env: Env, lane: Lane) {
        self.lock().forget(lane);
        self.notify_owner(env);
    }

    /// Its holder died in the middle of a call: the owner holds it from now on, to see to it.
    fn lost(&self, env: Env, lane: Lane, this: &ResourceArc<Self>) {
        let checkout = Self::checkout(this, lane, TAKEN);
        let sent = deliver(env, &self.owner, |own| (atoms::lane_lost(), lane.id, lane.run, &checkout).encode(own));
        // The owner is dead, and the pool with it. The checkout must not come here again.
        if !sent && checkout.state.swap(RETURNED, Ordering::AcqRel) != RETURNED {
            self.forget(env, lane);
        }
    }

    fn notify_owner(&self, env: Env) {
        let (at_rest, emptied) = {
            let mut lanes = self.lock();
            (lanes.at_rest(), lanes.emptied())
        };
        let mut next = emptied;
        while let Some(run) = next {
            let _ = env.send(&self.owner, (atoms::lanes_retired(), run));
            next = self.lock().emptied();
        }
        if at_rest {
            let _ = env.send(&self.owner, atoms::lanes_at_rest());
        }
    }
}

/// Sends the lane and its checkout; false if the waiter is dead.
///
/// The message is built in an environment of its own. [`Env::send`] would build it on the heap of whoever frees the
/// lane, where it would keep the checkout alive, and so the lane of a dead holder busy, until that process collects.
fn hand_over(env: Env, waiter: &Waiter, lane: Lane, checkout: &ResourceArc<Checkout>) -> bool {
    waiter.send(env, (atoms::ok(), lane.id, lane.run, checkout))
}

fn deliver(env: Env, to: &LocalPid, message: impl FnOnce(Env<'_>) -> Term<'_>) -> bool {
    OwnedEnv::new().run(|own| {
        let message = message(own);
        // SAFETY: `env` is that of the NIF or destructor that runs in this thread, the term is of `own`, and neither is
        // used after a successful send, which leaves `own` to be freed only.
        unsafe { enif_send(env.as_c_arg(), to.as_c_arg(), own.as_c_arg(), message.as_c_arg()) == 1 }
    })
}

#[rustler::nif]
fn queue_new(owner: LocalPid, workers: u32, per_worker: u32, max_waiting: usize) -> ResourceArc<CheckoutQueue> {
    ResourceArc::new(CheckoutQueue { lanes: Mutex::new(Lanes::new(workers, per_worker, max_waiting)), owner })
}

/// `worker`: -1 for any.
#[rustler::nif]
fn queue_checkout<'a>(
    env: Env<'a>,
    queue: ResourceArc<CheckoutQueue>,
    worker: i64,
    prefer: bool,
    reference: Reference<'a>,
) -> Term<'a> {
    let pid = env.pid();
    let answer = queue.lock().checkout(wanted(worker, prefer), || Waiter::new(pid, reference));
    answered(env, &queue, answer)
}

/// For a waiter that was sent `{:moved, turn}` because its worker left: it keeps its turn.
#[rustler::nif]
fn queue_checkout_again<'a>(
    env: Env<'a>,
    queue: ResourceArc<CheckoutQueue>,
    worker: i64,
    prefer: bool,
    reference: Reference<'a>,
    turn: u64,
) -> Term<'a> {
    let waiter = Waiter::new(env.pid(), reference);
    let answer = queue.lock().checkout_again(wanted(worker, prefer), turn, waiter);
    answered(env, &queue, answer)
}

fn wanted(worker: i64, prefer: bool) -> Want {
    match u32::try_from(worker) {
        Ok(w) if prefer => Want::Rather(w),
        Ok(w) => Want::Only(w),
        Err(_) => Want::Any,
    }
}

fn answered<'a>(env: Env<'a>, queue: &ResourceArc<CheckoutQueue>, answer: CheckoutAnswer) -> Term<'a> {
    match answer {
        CheckoutAnswer::Lane(lane) => {
            (atoms::ok(), lane.id, lane.run, CheckoutQueue::checkout(queue, lane, TAKEN)).encode(env)
        }
        CheckoutAnswer::Waiting(place) => {
            (atoms::wait(), ResourceArc::new(PlaceInLine { queue: queue.clone(), place })).encode(env)
        }
        CheckoutAnswer::Full => atoms::full().encode(env),
        CheckoutAnswer::Closed(code) => (atoms::closed(), code).encode(env),
        CheckoutAnswer::Moved => atoms::moved().encode(env),
    }
}

/// From now on the pool has so many workers. Callers that wait for one that leaves are sent `{:moved, turn}`.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_resize(env: Env, queue: ResourceArc<CheckoutQueue>, workers: u32) -> rustler::Atom {
    let moved = queue.lock().resize(workers);
    for (turn, waiter) in moved {
        // A dead one has left the line by this.
        waiter.send(env, (atoms::moved(), turn));
    }
    queue.notify_owner(env);
    atoms::ok()
}

/// A waiter read its message: the lane is in use from now on.
#[rustler::nif]
fn queue_take(checkout: ResourceArc<Checkout>) -> rustler::Atom {
    // A checkout that was given back stays given back.
    let _ = checkout.state.compare_exchange(HANDED, TAKEN, Ordering::AcqRel, Ordering::Acquire);
    atoms::ok()
}

/// Leaves the line. False if a lane was handed over already: then its message is there.
#[rustler::nif]
fn queue_cancel(queue: ResourceArc<CheckoutQueue>, place: ResourceArc<PlaceInLine>) -> bool {
    queue.lock().cancel(place.place)
}

/// The lane is at rest.
#[rustler::nif]
fn queue_checkin(env: Env, checkout: ResourceArc<Checkout>) -> rustler::Atom {
    if checkout.state.swap(RETURNED, Ordering::AcqRel) != RETURNED {
        checkout.queue.checkin(env, checkout.lane, &checkout.queue);
    }
    atoms::ok()
}

/// The lane may be in the middle of something: it does not come back.
#[rustler::nif]
fn queue_forget(env: Env, checkout: ResourceArc<Checkout>) -> rustler::Atom {
    if checkout.state.swap(RETURNED, Ordering::AcqRel) != RETURNED {
        checkout.queue.forget(env, checkout.lane);
    }
    atoms::ok()
}

#[rustler::nif]
fn queue_up(env: Env, queue: ResourceArc<CheckoutQueue>, worker: u32, run: u64) -> rustler::Atom {
    let lanes = queue.lock().up(worker, run);
    for lane in lanes {
        let next = queue.lock().offer(lane);
        queue.pass_on(env, lane, &queue, next);
    }
    queue.notify_owner(env);
    atoms::ok()
}

/// How many calls a worker's current run has served.
#[rustler::nif]
fn queue_served(queue: ResourceArc<CheckoutQueue>, worker: u32) -> u64 {
    queue.lock().served(worker)
}

/// The numbers, within their worker, of a run's lanes that have no call, or had none when it went down.
#[rustler::nif]
fn queue_without_call(queue: ResourceArc<CheckoutQueue>, worker: u32, run: u64) -> Vec<u32> {
    let lanes = queue.lock();
    lanes.without_call(worker, run).into_iter().map(|id| lanes.number(id)).collect()
}

#[rustler::nif]
fn queue_down(queue: ResourceArc<CheckoutQueue>, worker: u32, run: u64) -> rustler::Atom {
    queue.lock().down(worker, run);
    atoms::ok()
}

/// No more calls: callers that wait, and all that come, are answered `{:closed, code}`.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_close(env: Env, queue: ResourceArc<CheckoutQueue>, code: u32) -> rustler::Atom {
    let waiters = queue.lock().close(code);
    send_away(env, waiters, code);
    queue.notify_owner(env);
    atoms::ok()
}

/// As `queue_close`, but only while no worker is up.
#[rustler::nif(schedule = "DirtyCpu")]
fn queue_suspend(env: Env, queue: ResourceArc<CheckoutQueue>, code: u32) -> rustler::Atom {
    let waiters = queue.lock().suspend(code);
    send_away(env, waiters, code);
    atoms::ok()
}

fn send_away(env: Env, waiters: Vec<Waiter>, code: u32) {
    for waiter in waiters {
        waiter.send(env, (atoms::closed(), code));
    }
}

/// `{idle, busy, waiting}`
#[rustler::nif]
fn queue_counts(queue: ResourceArc<CheckoutQueue>) -> (usize, usize, usize) {
    queue.lock().counts()
}
