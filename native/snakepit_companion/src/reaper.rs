//! Ends of processes. As a subreaper we inherit what workers leave behind: it can be reaped, and killed at the end.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use snakepit_core::companion::Exit;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A child that has ended, and how. It stays a zombie, and its number ours, until [`reap`].
pub fn next_zombie() -> Option<(Pid, Exit)> {
    // Not nix's waitid: it fails on a child that a real-time signal killed.
    // SAFETY: siginfo_t is plain data, for which zeroes are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a valid place to write to.
    while unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) } == -1 {
        if Errno::last() != Errno::EINTR {
            return None;
        }
    }
    // SAFETY: waitid filled the fields of a SIGCHLD, or left zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    (pid != 0).then(|| (Pid::from_raw(pid), exit))
}

/// Lets a zombie go.
pub fn reap(pid: Pid) {
    while waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Err(Errno::EINTR) {}
}

/// From TERM until KILL: for what somebody's end sets off, such as Python's resource trackers, which then unlink what
/// that process left in /dev/shm.
pub const KILL_AFTER: Duration = Duration::from_millis(400);

/// The same for the trackers themselves: they wait for the end of all who share their pipe, and then need a core. That
/// takes milliseconds, but on a machine with too much to do.
pub const KILL_ALL_AFTER: Duration = Duration::from_millis(1500);

/// Ends every child, whatever group or session it went to, and reaps them all.
pub fn end_all() {
    let start = Instant::now();
    let mut seen = HashSet::new();
    // Far more than it takes; but memory that the kernel is slow to give back must not hold up the VM.
    while start.elapsed() < Duration::from_secs(2) {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                let children = children();
                for &child in children.iter().filter(|&&child| seen.insert(child)) {
                    let _ = kill(child, Signal::SIGTERM);
                }
                kill_late(&children, start.elapsed());
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(Errno::ECHILD) => return,
            // The number may be given to another.
            Ok(status) => drop(status.pid().map(|pid| seen.remove(&pid))),
            Err(_) => {}
        }
    }
}

/// KILL to those of these children of ours that have had their moment, so long after they were sent TERM.
pub fn kill_late(children: &[Pid], since: Duration) {
    for &child in children {
        if since >= KILL_ALL_AFTER {
            kill_hard(child);
        } else if since >= KILL_AFTER && !is_tracker(child) {
            let _ = kill(child, Signal::SIGKILL);
        }
    }
}

fn kill_hard(pid: Pid) {
    if getpgid(Some(pid)) == Ok(pid) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    let _ = kill(pid, Signal::SIGKILL);
}

/// Whether it is a process that removes what others leave. It ignores TERM, and ends once they have.
fn is_tracker(pid: Pid) -> bool {
    const NAME: &[u8] = b"multiprocessing.resource_tracker";
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.windows(NAME.len()).any(|part| part == NAME)
}

/// Our children of this process group, zombies too. While there is one, the group's number is nobody else's.
pub fn members(group: Pid) -> Vec<Pid> {
    children().into_iter().filter(|&pid| pid != group && getpgid(Some(pid)) == Ok(group)).collect()
}

/// Our children, adopted ones too. Only we can reap them, so their numbers are safe to signal.
fn children() -> Vec<Pid> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}
