//! Ends of processes. As a subreaper we inherit what workers leave behind: it can be reaped, and killed at the end.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use snakepit_core::companion::Exit;
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

/// Kills every child, whatever group or session it went to, and reaps them all.
pub fn end_all() {
    // Far more than it takes; but memory that the kernel is slow to give back must not hold up the VM.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {
                children().into_iter().for_each(kill_hard);
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(Errno::ECHILD) => return,
            _ => {}
        }
    }
}

fn kill_hard(pid: Pid) {
    if getpgid(Some(pid)) == Ok(pid) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
    let _ = kill(pid, Signal::SIGKILL);
}

/// Our children, adopted ones too. Only we can reap them, so their numbers are safe to signal.
fn children() -> Vec<Pid> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}
