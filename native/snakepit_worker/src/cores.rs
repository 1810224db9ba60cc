//! Keeps a lane off its caller's core.
//!
//! A caller and a lane that spin for each other's frames take each as long as a turn of the core's scheduler where they share
//! one: about twice as long as on two cores. The kernel puts a lane beside whoever wakes it, and leaves both there, since
//! neither sleeps.

use std::io::{Error, Result};
use std::mem::{size_of, zeroed};

/// So many requests in a row from the lane's own core are no accident. A move takes about as long as a dozen calls save by it.
const IN_A_ROW: u8 = 8;
/// Nanoseconds between two moves: at first, and at most. Each move that did not last doubles it.
const SOON: u64 = 1_000_000;
const SELDOM: u64 = 1_000_000_000;
/// After so many requests in a row from other cores, a move has lasted.
const LASTED: u32 = 16;

/// When to move.
#[derive(Debug)]
pub struct Cores {
    near: u8,
    far: u32,
    not_before: u64,
    wait: u64,
}

impl Default for Cores {
    fn default() -> Self {
        Self { near: 0, far: 0, not_before: 0, wait: SOON }
    }
}

impl Cores {
    /// A request came at `now`, in nanoseconds of any clock, from a caller on core `theirs`, to the lane on core `ours`, both
    /// counted from 1 (0: not known). Whether the lane should move.
    pub fn should_part(&mut self, theirs: u16, ours: u16, now: u64) -> bool {
        if theirs == 0 || theirs != ours {
            self.near = 0;
            self.far = self.far.saturating_add(1);
            if self.far == LASTED {
                self.wait = SOON;
            }
            return false;
        }
        self.far = 0;
        self.near = self.near.saturating_add(1);
        if self.near < IN_A_ROW || now < self.not_before {
            return false;
        }
        self.near = 0;
        self.not_before = now.saturating_add(self.wait);
        self.wait = (self.wait * 2).min(SELDOM);
        true
    }
}

/// The core that this thread runs on, counted from 1; 0 where it is not known.
pub fn this_core() -> u16 {
    // SAFETY: it takes nothing and writes nowhere.
    let core = unsafe { libc::sched_getcpu() };
    u16::try_from(core + 1).unwrap_or(0)
}

/// Moves this thread to another of the cores that it may run on. It may run on all of them again afterwards. False: there
/// is no other one.
pub fn leave_core() -> Result<bool> {
    // SAFETY: all zeros is an empty set.
    let mut all: libc::cpu_set_t = unsafe { zeroed() };
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: `all` has as many bytes.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut all) } != 0 {
        return Err(Error::last_os_error());
    }
    let core = usize::from(this_core()).wrapping_sub(1);
    // SAFETY: the set is one, and a core outside of it is not touched.
    let is_one_of_several = core < 8 * size && unsafe { libc::CPU_ISSET(core, &all) && libc::CPU_COUNT(&all) > 1 };
    if !is_one_of_several {
        return Ok(false);
    }
    let mut others = all;
    // SAFETY: as above.
    unsafe { libc::CPU_CLR(core, &mut others) };
    let set = |cores: &libc::cpu_set_t| {
        // SAFETY: `cores` has as many bytes.
        let done = unsafe { libc::sched_setaffinity(0, size, cores) } == 0;
        if done { Ok(()) } else { Err(Error::last_os_error()) }
    };
    set(&others)?;
    set(&all)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_requests_in_a_row_from_the_own_core_move_the_lane() {
        let mut cores = Cores::default();
        let near = |cores: &mut Cores, now| cores.should_part(3, 3, now);
        let few = |cores: &mut Cores| (1..IN_A_ROW).all(|_| !near(cores, 0));
        assert!(few(&mut cores));
        assert!(!cores.should_part(2, 3, 0) && !cores.should_part(0, 3, 0) && !cores.should_part(0, 0, 0));
        assert!(few(&mut cores) && near(&mut cores, 0));
    }

    #[test]
    fn moves_that_do_not_last_become_rare() {
        let count = |lasts: bool| {
            let (mut cores, mut moves) = (Cores::default(), 0);
            // Ten seconds of a request each 10 µs.
            for n in 0..1_000_000u64 {
                let apart = lasts && n % 1_000 > 10;
                moves += u32::from(cores.should_part(1, if apart { 2 } else { 1 }, n * 10_000));
            }
            moves
        };
        assert!((10..25).contains(&count(false)), "{}", count(false));
        assert!((900..1_100).contains(&count(true)), "{}", count(true));
    }

    #[test]
    fn a_thread_that_parts_is_elsewhere_and_may_go_anywhere() {
        let allowed = || {
            // SAFETY: as in `leave_core`.
            unsafe {
                let mut set: libc::cpu_set_t = zeroed();
                assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
                (0..8 * size_of::<libc::cpu_set_t>()).filter(|core| libc::CPU_ISSET(*core, &set)).collect::<Vec<_>>()
            }
        };
        let before = allowed();
        assert_eq!(leave_core().unwrap(), before.len() > 1);
        assert_eq!(allowed(), before);
        // On one core alone there is nowhere to go.
        // SAFETY: as in `leave_core`.
        unsafe {
            let mut one: libc::cpu_set_t = zeroed();
            libc::CPU_SET(before[0], &mut one);
            assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &one), 0);
        }
        assert!(!leave_core().unwrap());
        assert_eq!(allowed(), before[..1]);
    }
}
