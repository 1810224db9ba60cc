//! Spinning for a reply: the scheduler that runs the caller polls the lane for some microseconds.

use rustler::{Binary, Env, Resource, ResourceArc};
use snakepit_core::spin::{Key, Spin};
use std::time::{Duration, Instant};

/// One pool's: how long its callers spin at most, and of which commands that was worth it.
pub struct BusyPoll {
    made: Instant,
    limit: Duration,
    spin: Spin,
}

#[rustler::resource_impl]
impl Resource for BusyPoll {}

/// A scheduler polls for this many microseconds at most, half of what a NIF may take. It gives its core to others meanwhile,
/// so that it may be back later.
const MOST: u64 = 500;

#[rustler::nif]
fn busy_poll_new(us: u64) -> ResourceArc<BusyPoll> {
    let limit = Duration::from_micros(us.min(MOST));
    ResourceArc::new(BusyPoll { made: Instant::now(), limit, spin: Spin::default() })
}

/// Waits until `fd` has something to read, or the limit has passed: `true` or `false`; `nil` where it is not tried.
///
/// The lane may be closed meanwhile, and its number belong to another file: then this returns early or late, within the
/// limit, and nothing is read from it here.
#[rustler::nif]
fn busy_poll(env: Env, poll: ResourceArc<BusyPoll>, fd: i32, command: Binary, way: u8, bytes: u64) -> Option<bool> {
    let start = Instant::now();
    let key = Key::new(&command, way, bytes);
    if !poll.spin.pays(key, nanoseconds(start - poll.made)) {
        return None;
    }
    let met = loop {
        if readable(fd) {
            break true;
        }
        if start.elapsed() >= poll.limit {
            break false;
        }
        // The worker may be waiting for this very core.
        std::thread::yield_now();
    };
    let waited = start.elapsed();
    // It came, but after somebody else had the core: that took as long.
    if !met || waited > poll.limit {
        poll.spin.in_vain(key, nanoseconds(start + waited - poll.made), nanoseconds(waited));
    }
    // The percentage of the millisecond or so that a process may run on end.
    rustler::schedule::consume_timeslice(env, (waited.as_micros() / 10).clamp(1, 100) as i32);
    Some(met)
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Whether a read would return at once: there are bytes, or the other end is gone. Wrong descriptors are readable, too.
fn readable(fd: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which lives as long as the call; with a timeout of 0 it does not sleep.
    unsafe { libc::poll(&mut poll, 1, 0) != 0 }
}
