//! When to wait awake for an answer.
//!
//! To sleep and be woken costs more than a small call takes, the more so where waking another core is the hypervisor's work.
//! To poll instead burns the core, so it has to pay: a wait that met its answer is made again at once; one that did not is
//! left out for a while, the longer the more often that happened. Where three of four waits are met it goes on; a
//! command that never answers in time costs one wait in `1 << MOST` calls.

use std::sync::atomic::{AtomicU32, Ordering};

const SLOTS: usize = 256;
/// Of the doubling.
const MOST: u32 = 12;
/// What a wait in vain adds; one that was met takes one away.
const VAIN: u32 = 3;

/// What was learned, by a key's hash. Shared by all callers; that two of them overwrite each other's count does no harm.
#[derive(Debug)]
pub struct Patience {
    // High half: how many more waits are left out. Low half: the doubling.
    slots: [AtomicU32; SLOTS],
}

impl Default for Patience {
    fn default() -> Self {
        Self { slots: [const { AtomicU32::new(0) }; SLOTS] }
    }
}

impl Patience {
    /// Whether to wait awake this time.
    pub fn pays(&self, key: &[u8]) -> bool {
        let slot = self.slot(key);
        let now = slot.load(Ordering::Relaxed);
        let (left, doubling) = (now >> 16, now & 0xffff);
        if left > 0 {
            slot.store((left - 1) << 16 | doubling, Ordering::Relaxed);
        }
        left == 0
    }

    /// Whether the answer came while the caller was awake.
    pub fn learn(&self, key: &[u8], met: bool) {
        let slot = self.slot(key);
        let doubling = slot.load(Ordering::Relaxed) & 0xffff;
        let next = if met {
            doubling.saturating_sub(1)
        } else {
            let doubling = (doubling + VAIN).min(MOST);
            ((1 << doubling) - 1) << 16 | doubling
        };
        slot.store(next, Ordering::Relaxed);
    }

    // FNV-1a: keys are short names.
    fn slot(&self, key: &[u8]) -> &AtomicU32 {
        let hash = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        &self.slots[(hash >> 32) as usize % SLOTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits of `calls` calls, each met if `met` says so.
    fn waits(patience: &Patience, calls: u32, mut met: impl FnMut(u32) -> bool) -> u32 {
        let mut waited = 0;
        for n in 0..calls {
            if patience.pays(b"add") {
                waited += 1;
                patience.learn(b"add", met(n));
            }
        }
        waited
    }

    #[test]
    fn what_answers_in_time_is_always_waited_for() {
        assert_eq!(waits(&Patience::default(), 10_000, |_| true), 10_000);
    }

    #[test]
    fn what_never_does_is_hardly_ever_waited_for() {
        // 7, 63, 511 and 4,095 are left out, and then 4,095 each time.
        assert_eq!(waits(&Patience::default(), 100_000, |_| false), 28);
    }

    #[test]
    fn what_mostly_does_is_mostly_waited_for_and_what_mostly_does_not_is_not() {
        assert!(waits(&Patience::default(), 100_000, |n| n % 20 != 0) > 60_000);
        assert!(waits(&Patience::default(), 100_000, |n| n % 2 != 0) < 1_000);
    }

    #[test]
    fn a_command_that_became_fast_is_waited_for_again() {
        let patience = Patience::default();
        waits(&patience, 100_000, |_| false);
        assert!(waits(&patience, 20_000, |_| true) > 15_000);
    }

    #[test]
    fn other_commands_are_their_own_matter() {
        let patience = Patience::default();
        waits(&patience, 1_000, |_| false);
        assert!(patience.pays(b"sub"));
    }
}
