//! When to spin for an answer.
//!
//! To sleep and be woken costs more than a small call takes, the more so where waking another core is the hypervisor's work.
//! To poll instead burns the core, and that is lost where the answer takes longer: after a wait in vain there is none for
//! [`REST`] times as long, so that such waits take at most a twentieth of the time.

use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 256;
/// How many times as long as it was in vain.
pub const REST: u64 = 20;

/// The properties that make calls alike: their command, their way, and the power of two of their size.
#[derive(Clone, Copy, Debug)]
pub struct Key(u64);

impl Key {
    /// The key of a command's name, the number of a way and a number of bytes.
    pub fn new(command: &[u8], way: u8, bytes: u64) -> Self {
        let size = 64 - bytes.leading_zeros() as u8;
        // FNV-1a: names are short.
        let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
        Self([way, size].iter().chain(command).fold(0xcbf2_9ce4_8422_2325, step))
    }
}

/// When to spin again, by a key's hash. All callers share it; keys of one slot, and callers at the same time, share
/// its rest.
#[derive(Debug)]
pub struct Spin {
    // When to spin again, in nanoseconds of the caller's clock.
    not_before: [AtomicU64; SLOTS],
}

impl Default for Spin {
    fn default() -> Self {
        Self { not_before: [const { AtomicU64::new(0) }; SLOTS] }
    }
}

impl Spin {
    /// Whether to spin now.
    pub fn pays(&self, key: Key, now: u64) -> bool {
        self.slot(key).load(Ordering::Relaxed) <= now
    }

    /// A wait of so many nanoseconds, which ends now, was in vain.
    pub fn in_vain(&self, key: Key, now: u64, waited: u64) {
        self.slot(key).store(now.saturating_add(REST.saturating_mul(waited)), Ordering::Relaxed);
    }

    // Fibonacci hashing spreads what FNV leaves alike.
    fn slot(&self, Key(hash): Key) -> &AtomicU64 {
        &self.not_before[(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % SLOTS]
    }
}

/// The same for one waiter, whose waits are all alike: a worker's lane.
#[derive(Debug, Default)]
pub struct Rest {
    not_before: u64,
}

impl Rest {
    /// Whether to spin now, in nanoseconds of the caller's clock.
    pub fn is_over(&self, now: u64) -> bool {
        self.not_before <= now
    }

    /// A wait of so many nanoseconds, which ends now, was in vain.
    pub fn begin(&mut self, now: u64, waited: u64) {
        self.not_before = now.saturating_add(REST.saturating_mul(waited));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 300_000;

    fn add() -> Key {
        Key::new(b"add", 0, 0)
    }

    /// The share of its time that a caller spins in vain, of calls that take so many nanoseconds each.
    fn wasted(takes: u64) -> f64 {
        let (spin, mut now, mut wasted) = (Spin::default(), 1, 0);
        for _ in 0..10_000 {
            if takes > LIMIT && spin.pays(add(), now) {
                spin.in_vain(add(), now + LIMIT, LIMIT);
                wasted += LIMIT;
            }
            now += takes;
        }
        wasted as f64 / now as f64
    }

    #[test]
    fn what_is_in_vain_takes_little_of_the_time() {
        assert_eq!(wasted(20_000), 0.0);
        for takes in [LIMIT + 1, 2 * LIMIT, 1_000_000, 3_000_000, 50_000_000] {
            assert!(wasted(takes) <= 0.05, "{takes} ns: {}", wasted(takes));
        }
    }

    #[test]
    fn one_waiter_rests_twenty_times_as_long_as_it_waited_in_vain() {
        let mut rest = Rest::default();
        assert!(rest.is_over(0));
        rest.begin(1_000, 100);
        assert!(!rest.is_over(2_999));
        assert!(rest.is_over(3_000));
        rest.begin(u64::MAX - 1, u64::MAX);
        assert!(!rest.is_over(u64::MAX - 1));
    }

    #[test]
    fn it_is_tried_again_after_a_rest() {
        let spin = Spin::default();
        assert!(spin.pays(add(), 0));
        spin.in_vain(add(), 1_000, 100);
        assert!(!spin.pays(add(), 2_999));
        assert!(spin.pays(add(), 3_000));
    }

    #[test]
    fn other_commands_ways_and_sizes_are_their_own_matter() {
        let spin = Spin::default();
        let key = Key::new(b"add", 0, 1_000);
        spin.in_vain(key, 1_000, u64::MAX);
        for same in [key, Key::new(b"add", 0, 513), Key::new(b"add", 0, 1_023)] {
            assert!(!spin.pays(same, u64::MAX - 1));
        }
        for other in [Key::new(b"sub", 0, 1_000), Key::new(b"add", 1, 1_000), Key::new(b"add", 0, 2_000)] {
            assert!(spin.pays(other, 1_000));
        }
        // The ends of what there is.
        for bytes in [0, u64::MAX] {
            assert!(spin.pays(Key::new(b"", 255, bytes), 1));
        }
    }
}
