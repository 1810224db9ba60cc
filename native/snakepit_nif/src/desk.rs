//! The desk of a pool: where callers get a lane and give it back, without a process in between.
//!
//! A caller that waits is woken by the one who frees the lane, with a message. A lane is held by way of a *ticket*; if
//! its process dies, the ticket is collected with its heap, and its destructor says so.

use crate::atoms;
use rustler::env::SavedTerm;
use rustler::sys::enif_send;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Reference, Resource, ResourceArc, Term};
use snakepit_core::lanes::{Checkout, Lane, Lanes, Want};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    fn tell(&self, env: Env, answer: impl Encoder) -> bool {
        deliver(env, &self.pid, |env| {
            let reference = self.own.run(|own| self.reference.load(own).in_env(env));
            (atoms::snakepit_lane(), reference, answer).encode(env)
        })
    }
}

/// One pool's desk. `owner` is told of lanes whose holder died, and when a closed desk comes to rest.
pub struct Desk {
    lanes: Mutex<Lanes<Waiter>>,
    owner: LocalPid,
}

#[rustler::resource_impl]
impl Resource for Desk {}

/// Handed to a waiter that may be dead before it reads the message.
const HANDED: u8 = 0;
/// In use: the lane may be in the middle of a call.
const TAKEN: u8 = 1;
/// Given back.
const SETTLED: u8 = 2;

/// The right to use a lane, once.
pub struct Ticket {
    desk: ResourceArc<Desk>,
    lane: Lane,
    state: AtomicU8,
}

#[rustler::resource_impl]
impl Resource for Ticket {
    const IMPLEMENTS_DESTRUCTOR: bool = true;

    fn destructor(self, env: Env<'_>) {
        match self.state.load(Ordering::Acquire) {
            HANDED => {
                let next = self.desk.lock().offer(self.lane);
                self.desk.pass_on(env, self.lane, &self.desk, next);
            }
            TAKEN => self.desk.lost(env, self.lane, &self.desk),
            _ => {}
        }
    }
}

impl Desk {
    /// Bookkeeping only under this lock. Every operation leaves the books whole, so that a poisoned lock still serves.
    fn lock(&self) -> MutexGuard<'_, Lanes<Waiter>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(this: &ResourceArc<Self>, lane: Lane, state: u8) -> ResourceArc<Ticket> {
        ResourceArc::new(Ticket { desk: this.clone(), lane, state: AtomicU8::new(state) })
    }

    /// A call is done: whoever waited longest gets its lane.
    fn checkin(&self, env: Env, lane: Lane, this: &ResourceArc<Self>) {
        let next = self.lock().checkin(lane);
        self.pass_on(env, lane, this, next);
    }

    /// Gives the lane to the waiter whose turn it is and who is still alive.
    fn pass_on(&self, env: Env, lane: Lane, this: &ResourceArc<Self>, mut next: Option<Waiter>) {
        while let Some(waiter) = next {
            let ticket = Self::ticket(this, lane, HANDED);
            if hand_over(env, &waiter, lane, &ticket) {
                return;
            }
            // Nobody got it: this ticket must not give the lane back a second time.
            ticket.state.store(SETTLED, Ordering::Release);
            next = self.lock().offer(lane);
        }
        self.tell_if_at_rest(env);
    }

    fn forget(&self, env: Env, lane: Lane) {
        self.lock().forget(lane);
        self.tell_if_at_rest(env);
    }

    /// Its holder died in the middle of a call: the owner holds it from now on, to see to it.
    fn lost(&self, env: Env, lane: Lane, this: &ResourceArc<Self>) {
        let ticket = Self::ticket(this, lane, TAKEN);
        let sent = deliver(env, &self.owner, |own| (atoms::lane_lost(), lane.id, lane.epoch, &ticket).encode(own));
        // The owner is dead, and the pool with it. The ticket must not come here again.
        if !sent && ticket.state.swap(SETTLED, Ordering::AcqRel) != SETTLED {
            self.forget(env, lane);
        }
    }

    fn tell_if_at_rest(&self, env: Env) {
        let (at_rest, emptied) = {
            let mut lanes = self.lock();
            (lanes.at_rest(), lanes.emptied())
        };
        let mut next = emptied;
        while let Some(epoch) = next {
            let _ = env.send(&self.owner, (atoms::lanes_retired(), epoch));
            next = self.lock().emptied();
        }
        if at_rest {
            let _ = env.send(&self.owner, atoms::lanes_at_rest());
        }
    }
}

/// Sends the lane and its ticket; false if the waiter is dead.
///
/// The message is built in an environment of its own. [`Env::send`] would build it on the heap of whoever frees the
/// lane, where it would keep the ticket alive, and so the lane of a dead holder busy, until that process collects.
fn hand_over(env: Env, waiter: &Waiter, lane: Lane, ticket: &ResourceArc<Ticket>) -> bool {
    waiter.tell(env, (atoms::ok(), lane.id, lane.epoch, ticket))
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
fn desk_new(owner: LocalPid, workers: u32, per_worker: u32, max_waiting: usize) -> ResourceArc<Desk> {
    ResourceArc::new(Desk { lanes: Mutex::new(Lanes::new(workers, per_worker, max_waiting)), owner })
}

/// `worker`: -1 for any.
#[rustler::nif]
fn desk_checkout<'a>(
    env: Env<'a>,
    desk: ResourceArc<Desk>,
    worker: i64,
    prefer: bool,
    reference: Reference<'a>,
) -> Term<'a> {
    let want = wanted(worker, prefer);
    let pid = env.pid();
    let answer = {
        let mut lanes = desk.lock();
        match lanes.checkout(want, |_key| Waiter::new(pid, reference)) {
            Checkout::Full => {
                // Callers that were killed while they waited still stand in line.
                lanes.purge(|w| !env.is_process_alive(w.pid));
                lanes.checkout(want, |_key| Waiter::new(pid, reference))
            }
            answer => answer,
        }
    };
    answered(env, &desk, answer)
}

/// For a waiter that was told that its worker left: it keeps its turn.
#[rustler::nif]
fn desk_checkout_again<'a>(
    env: Env<'a>,
    desk: ResourceArc<Desk>,
    worker: i64,
    prefer: bool,
    reference: Reference<'a>,
    key: u64,
) -> Term<'a> {
    let waiter = Waiter::new(env.pid(), reference);
    let answer = desk.lock().checkout_again(wanted(worker, prefer), key, waiter);
    answered(env, &desk, answer)
}

fn wanted(worker: i64, prefer: bool) -> Want {
    match u32::try_from(worker) {
        Ok(w) if prefer => Want::Rather(w),
        Ok(w) => Want::Only(w),
        Err(_) => Want::Any,
    }
}

fn answered<'a>(env: Env<'a>, desk: &ResourceArc<Desk>, answer: Checkout) -> Term<'a> {
    match answer {
        Checkout::Lane(lane) => (atoms::ok(), lane.id, lane.epoch, Desk::ticket(desk, lane, TAKEN)).encode(env),
        Checkout::Waiting(key) => (atoms::wait(), key).encode(env),
        Checkout::Full => atoms::full().encode(env),
        Checkout::Closed(code) => (atoms::closed(), code).encode(env),
        Checkout::Moved => atoms::moved().encode(env),
    }
}

/// From now on the pool has so many workers. Those who wait for one that leaves are told, with their key.
#[rustler::nif]
fn desk_resize(env: Env, desk: ResourceArc<Desk>, workers: u32) -> rustler::Atom {
    let moved = desk.lock().resize(workers);
    for (key, waiter) in moved {
        // One that is dead has left the line.
        waiter.tell(env, (atoms::moved(), key));
    }
    desk.tell_if_at_rest(env);
    atoms::ok()
}

/// A waiter read its message: the lane is in use from now on.
#[rustler::nif]
fn desk_take(ticket: ResourceArc<Ticket>) -> rustler::Atom {
    // A ticket that was given back stays given back.
    let _ = ticket.state.compare_exchange(HANDED, TAKEN, Ordering::AcqRel, Ordering::Acquire);
    atoms::ok()
}

/// False if a lane was handed over already: then its message is there.
#[rustler::nif]
fn desk_cancel(desk: ResourceArc<Desk>, key: u64) -> bool {
    desk.lock().cancel(key)
}

/// The lane is at rest.
#[rustler::nif]
fn desk_checkin(env: Env, ticket: ResourceArc<Ticket>) -> rustler::Atom {
    if ticket.state.swap(SETTLED, Ordering::AcqRel) != SETTLED {
        ticket.desk.checkin(env, ticket.lane, &ticket.desk);
    }
    atoms::ok()
}

/// The lane may be in the middle of something: it does not come back.
#[rustler::nif]
fn desk_forget(env: Env, ticket: ResourceArc<Ticket>) -> rustler::Atom {
    if ticket.state.swap(SETTLED, Ordering::AcqRel) != SETTLED {
        ticket.desk.forget(env, ticket.lane);
    }
    atoms::ok()
}

#[rustler::nif]
fn desk_up(env: Env, desk: ResourceArc<Desk>, worker: u32, epoch: u64) -> rustler::Atom {
    let lanes = desk.lock().up(worker, epoch);
    for lane in lanes {
        let next = desk.lock().offer(lane);
        desk.pass_on(env, lane, &desk, next);
    }
    desk.tell_if_at_rest(env);
    atoms::ok()
}

/// How many calls a worker's current run has served.
#[rustler::nif]
fn desk_served(desk: ResourceArc<Desk>, worker: u32) -> u64 {
    desk.lock().served(worker)
}

/// The numbers, within their worker, of a run's lanes that have no call, or had none when it went down.
#[rustler::nif]
fn desk_without_call(desk: ResourceArc<Desk>, worker: u32, epoch: u64) -> Vec<u32> {
    let lanes = desk.lock();
    lanes.without_call(worker, epoch).into_iter().map(|id| lanes.number(id)).collect()
}

#[rustler::nif]
fn desk_down(desk: ResourceArc<Desk>, worker: u32, epoch: u64) -> rustler::Atom {
    desk.lock().down(worker, epoch);
    atoms::ok()
}

/// No more calls: those who wait, and all who come, are told `code`.
#[rustler::nif]
fn desk_close(env: Env, desk: ResourceArc<Desk>, code: u32) -> rustler::Atom {
    let waiters = desk.lock().close(code);
    send_away(env, waiters, code);
    desk.tell_if_at_rest(env);
    atoms::ok()
}

/// As `desk_close`, but only while no worker is up.
#[rustler::nif]
fn desk_suspend(env: Env, desk: ResourceArc<Desk>, code: u32) -> rustler::Atom {
    let waiters = desk.lock().suspend(code);
    send_away(env, waiters, code);
    atoms::ok()
}

fn send_away(env: Env, waiters: Vec<Waiter>, code: u32) {
    for waiter in waiters {
        waiter.tell(env, (atoms::closed(), code));
    }
}

/// `{idle, busy, waiting}`
#[rustler::nif]
fn desk_counts(desk: ResourceArc<Desk>) -> (usize, usize, usize) {
    desk.lock().counts()
}
