//! The companion is two processes, so that whichever of them is killed, the other ends everything.
//!
//! Workers die with the one that starts them (`PDEATHSIG`), but not the children of their tools. These are inherited
//! by the nearest subreaper that still lives: the guard, which does nothing but wait for that.

use crate::{cgroup, reaper};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use snakepit_core::companion::Exit;
use std::io;

/// What both processes block and wait for.
pub fn signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Runs `serve` in a process of its own and ends what it leaves behind. Returns its exit status, in both processes.
pub fn run(serve: fn() -> io::Result<u8>) -> io::Result<u8> {
    // Ctrl-C in a terminal is meant for the VM, which tells us what to do.
    // SAFETY: SIG_IGN installs no handler.
    unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }?;
    // A message to a file that may not grow any more (ulimit -f) is lost, and we are not.
    // SAFETY: as above.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    nix::sys::prctl::set_child_subreaper(true)?;
    // Before the fork, so that neither can miss one.
    signals().thread_block()?;
    let guard = getpid();
    // SAFETY: there is one thread, so nothing is locked or half done in the copy.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => watch(child),
        ForkResult::Child => {
            // As if it had been told to go: it ends everything, and needs no guard for that.
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            if getppid() != guard {
                return Ok(0);
            }
            serve()
        }
    }
}

fn watch(child: Pid) -> io::Result<u8> {
    let _ = nix::sys::prctl::set_name(c"snakepit_guard");
    loop {
        match signals().wait()? {
            Signal::SIGCHLD => {}
            signal => {
                // Not reaped, so the number is still its own.
                let _ = kill(child, signal);
            }
        }
        while let Some((pid, exit)) = reaper::next_zombie() {
            reaper::reap(pid);
            if pid == child {
                // The VM learns of the end when we exit, which is after everything is gone.
                reaper::end_all();
                cgroup::sweep(child.as_raw() as u32);
                return Ok(match exit {
                    Exit::Code(status) => status as u8,
                    Exit::Signal(number) => 128 + number as u8,
                });
            }
        }
    }
}
