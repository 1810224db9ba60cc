//! When to wait awake for an answer.
//!
//! To sleep and be woken costs more than a small call takes, the more so where waking another core is the hypervisor's work.
//! To poll instead burns the core, and that is lost where the answer takes longer: after a wait in vain there is none for
//! [`REST`] times as long, so that such waits take at most a twentieth of the time.

use std::sync::atomic::{AtomicU64, Ordering};

const SLOTS: usize = 256;
/// How many times as long as it was in vain.
pub const REST: u64 = 20;

/// What was learned, by a key's hash. Shared by all callers; keys of one slot, and callers at the same time, share its rest.
#[derive(Debug)]
pub struct Patience {
    // When to wait awake again, in nanoseconds of the caller's clock.
    not_before: [AtomicU64; SLOTS],
}

impl Default for Patience {
    fn default() -> Self {
        Self { not_before: [const { AtomicU64::new(0) }; SLOTS] }
    }
}

impl Patience {
    /// Whether to wait awake now.
    pub fn pays(&self, key: &[u8], now: u64) -> bool {
        self.slot(key).load(Ordering::Relaxed) <= now
    }

    /// A wait of so many nanoseconds, which ends now, was in vain.
    pub fn in_vain(&self, key: &[u8], now: u64, waited: u64) {
        self.slot(key).store(now.saturating_add(REST.saturating_mul(waited)), Ordering::Relaxed);
    }

    // FNV-1a, for keys are short names; Fibonacci hashing spreads what it leaves alike.
    fn slot(&self, key: &[u8]) -> &AtomicU64 {
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        &self.not_before[(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % SLOTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 300_000;

    /// The share of its time that a caller waits awake in vain, of calls that take so many nanoseconds each.
    fn wasted(takes: u64) -> f64 {
        let (patience, mut now, mut wasted) = (Patience::default(), 1, 0);
        for _ in 0..10_000 {
            if takes > LIMIT && patience.pays(b"add", now) {
                patience.in_vain(b"add", now + LIMIT, LIMIT);
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
    fn it_is_tried_again_after_a_rest() {
        let patience = Patience::default();
        assert!(patience.pays(b"add", 0));
        patience.in_vain(b"add", 1_000, 100);
        assert!(!patience.pays(b"add", 2_999));
        assert!(patience.pays(b"add", 3_000));
    }

    #[test]
    fn other_commands_are_their_own_matter() {
        let patience = Patience::default();
        patience.in_vain(b"add", 1_000, u64::MAX);
        assert!(!patience.pays(b"add", u64::MAX - 1));
        assert!(patience.pays(b"sub", 1_000));
    }
}
