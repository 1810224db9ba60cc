//! The companion is two processes, so that whichever of them is killed, the other ends everything.
//!
//! Workers die with the one that starts them (`PDEATHSIG`), but not the children of their tools. These are inherited
//! by the nearest subreaper that still lives: the watchdog, which does nothing but wait for that.

use crate::{cgroup, reaper};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use snakepit_core::companion::Exit;
use std::io;

/// Signals that a terminal, a service manager or a shell may send to every process of a group at once. They are meant
/// for the VM, which shuts down in its own order: running calls may finish. Here and in workers they end nothing.
pub const FOR_THE_VM: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// Signals that would end or stop us, and that a program started by a tool may want. `SIGXFSZ`: a message to a file
/// that may not grow any more (ulimit -f) is lost, but we live on.
const FOR_NOBODY: [Signal; 6] =
    [Signal::SIGALRM, Signal::SIGPIPE, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGXFSZ];

/// The signals that both processes block and wait for.
pub fn signals() -> SigSet {
    SigSet::from(Signal::SIGCHLD)
}

/// Runs `serve` in a process of its own and ends what it leaves behind. Returns its exit status, in both processes.
///
/// `serve` is given the watchdog's process id. When its parent is another, the watchdog is gone; `SIGCHLD` wakes it then.
pub fn run(serve: fn(Pid) -> io::Result<u8>) -> io::Result<u8> {
    for number in FOR_THE_VM.into_iter().chain(FOR_NOBODY) {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    nix::sys::prctl::set_child_subreaper(true)?;
    // Before the fork, so that neither can miss one.
    signals().thread_block()?;
    let watchdog = getpid();
    // SAFETY: there is one thread, so nothing is locked or half done in the copy.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => watch(child),
        ForkResult::Child => {
            // One that nobody else's signal can be mistaken for: it only makes the server look at its parent.
            nix::sys::prctl::set_pdeathsig(Signal::SIGCHLD)?;
            if getppid() != watchdog {
                return Ok(0);
            }
            serve(watchdog)
        }
    }
}

fn watch(child: Pid) -> io::Result<u8> {
    let _ = nix::sys::prctl::set_name(c"snakepit_watch");
    loop {
        signals().wait()?;
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
