//! Starts one process that owns nothing of ours and cannot outlive us.

use crate::cgroup::Cgroup;
use crate::limits::{self, Prepared};
use crate::watchdog::FOR_THE_VM;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{getpid, getppid, setsid};
use snakepit_core::companion::Limits;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A process that has just replaced its image, leader of a session and process group of its own.
pub struct Spawned {
    pub pid: u32,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// If it was given one.
    pub cgroup: Option<Cgroup>,
}

/// The program that [`spawn`] starts, as in `Request::Start`.
pub struct Program<'a> {
    pub id: u64,
    pub program: &'a str,
    pub args: &'a [String],
    pub env: &'a [(String, String)],
    pub unset_env: &'a [String],
    pub cwd: Option<&'a str>,
    pub limits: &'a Limits,
}

/// Starts it and waits until its `exec` succeeded; else says why it did not.
pub fn spawn(what: &Program<'_>) -> Result<Spawned, String> {
    let mut command = Command::new(what.program);
    for name in what.unset_env {
        command.env_remove(checked_name(name)?);
    }
    for (name, value) in what.env {
        command.env(checked_name(name)?, value);
    }
    if let Some(cwd) = what.cwd {
        // exec's own error could not tell a missing directory from a missing program.
        if !Path::new(cwd).is_dir() {
            return Err(format!("{cwd:?} is not a directory"));
        }
        command.current_dir(cwd);
    }
    command.args(what.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cgroup = what.limits.memory.and_then(|bytes| Cgroup::new(what.id, bytes));
    let prepared = Prepared::new(what.limits, cgroup.as_ref().and_then(Cgroup::procs))?;
    let companion = getpid();
    // SAFETY: the closure runs between fork and exec and makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(move || in_child(companion, &prepared)) };

    // The handle is dropped without waiting: the reaper does that.
    let mut child = command.spawn().map_err(|error| {
        limits::explain(&error, what.limits).unwrap_or_else(|| format!("cannot start {:?}: {error}", what.program))
    })?;
    match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => {
            Ok(Spawned { pid: child.id(), stdout: stdout.into(), stderr: stderr.into(), cgroup })
        }
        _ => unreachable!("both were asked to be pipes"),
    }
}

fn checked_name(name: &str) -> Result<&str, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("{name:?} cannot be the name of an environment variable"));
    }
    Ok(name)
}

/// Async-signal-safe.
fn in_child(companion: nix::unistd::Pid, limits: &Prepared) -> io::Result<()> {
    setsid()?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL)?;
    if getppid() != companion {
        // It died before the line above: no signal will come.
        // SAFETY: _exit touches no state of this process.
        unsafe { libc::_exit(127) };
    }
    for signal in 1..=libc::SIGRTMAX() {
        // Fails for KILL, STOP and the two that libc keeps, none of which can be ignored.
        // SAFETY: SIG_DFL installs no handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // Until a worker has handlers of its own, which are no one's default and so not passed on to programs it starts.
    for signal in FOR_THE_VM {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { libc::signal(signal as i32, libc::SIG_IGN) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // Closes, on exec, the files that the VM leaked into us. Our own close on exec anyway, so a kernel without this
    // call loses little.
    // SAFETY: marks files, closes none here: the pipe that reports a failed exec stays open until then.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    limits.apply()
}
