//! One process: its output, and how far its end has come.

use crate::cgroup::Cgroup;
use crate::lines::{Lines, Tail};
use crate::outbox::Outbox;
use crate::reaper::reap;
use crate::spawn::Spawned;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use snakepit_core::companion::{Event, Exit, Stream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long `Exited` waits for killed members of the group that the kernel cannot end yet.
const LINGER: Duration = Duration::from_secs(2);

/// At most this much of a pipe is read in one go, so that a flood from one worker cannot starve the others.
const READ: usize = 64 << 10;

struct Pipe {
    fd: OwnedFd,
    lines: Lines,
}

/// A process that was started and whose `Exited` was not sent.
pub struct Worker {
    id: u64,
    pid: Pid,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    cgroup: Option<Cgroup>,
    tail: Tail,
    dropped: u64,
    kill_at: Option<Instant>,
    ended: Option<Ended>,
}

struct Ended {
    status: Exit,
    linger_until: Instant,
}

impl Worker {
    pub fn new(id: u64, spawned: Spawned) -> Self {
        let pipe = |fd: OwnedFd| {
            // Cannot fail on a descriptor that is open.
            let _ = fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            Some(Pipe { fd, lines: Lines::default() })
        };
        Self {
            id,
            pid: Pid::from_raw(spawned.pid as i32),
            stdout: pipe(spawned.stdout),
            stderr: pipe(spawned.stderr),
            cgroup: spawned.cgroup,
            tail: Tail::default(),
            dropped: 0,
            kill_at: None,
            ended: None,
        }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its open pipe, to wait for.
    pub fn pipe(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        let pipe = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        pipe.as_ref().map(|pipe| pipe.fd.as_fd())
    }

    /// Signals the whole group. Only until the leader was reaped: from then on the number may be someone else's.
    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // Fails only if the group changed its user; its leader then has to go by itself.
            let _ = killpg(self.pid, signal);
        }
        if let (Signal::SIGKILL, Some(cgroup)) = (signal, &self.cgroup) {
            cgroup.kill();
        }
    }

    /// TERM now, KILL after `grace`.
    pub fn stop(&mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When [`Self::tick`] is due.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.ended {
            // The end of a process that is not our child makes no noise: look again soon.
            Some(_) => Some(now + Duration::from_millis(10)),
            None => self.kill_at,
        }
    }

    /// Does what has become due.
    pub fn tick(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.signal(Signal::SIGKILL);
        }
    }

    /// The leader is a zombie: kill what is left of its group while the number is still ours, then reap it.
    pub fn leader_exited(&mut self, status: Exit) {
        self.signal(Signal::SIGKILL);
        reap(self.pid);
        self.ended = Some(Ended { status, linger_until: Instant::now() + LINGER });
    }

    /// The leader was reaped and nobody is left in its group and its cgroup, which is removed.
    pub fn is_gone(&self) -> bool {
        let empty = || killpg(self.pid, None) == Err(Errno::ESRCH) && self.cgroup.as_ref().is_none_or(Cgroup::remove);
        self.ended.as_ref().is_some_and(|ended| empty() || ended.linger_until <= Instant::now())
    }

    /// Reads what is there of one pipe. True if there may be more.
    pub fn drain(&mut self, stream: Stream, outbox: &mut Outbox) -> bool {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(mut pipe) = slot.take() else { return false };
        let mut buffer = [0; READ];
        let (id, dropped) = (self.id, &mut self.dropped);
        let mut emit = |line: &[u8], truncated| emit(id, dropped, outbox, stream, line, truncated);
        match nix::unistd::read(&pipe.fd, &mut buffer) {
            Ok(0) => {
                pipe.lines.finish(emit);
                false
            }
            Ok(len) => {
                if stream == Stream::Stderr {
                    self.tail.push(&buffer[..len]);
                }
                pipe.lines.feed(&buffer[..len], &mut emit);
                *slot = Some(pipe);
                true
            }
            Err(errno) => {
                if matches!(errno, Errno::EAGAIN | Errno::EINTR) {
                    *slot = Some(pipe);
                } else {
                    pipe.lines.finish(emit);
                }
                errno == Errno::EINTR
            }
        }
    }

    /// Says how many lines were dropped, if any were.
    pub fn report_dropped(&mut self, outbox: &mut Outbox) {
        if self.dropped > 0 {
            outbox.push(&Event::Dropped { id: self.id, lines: self.dropped });
            self.dropped = 0;
        }
    }

    /// Its last words. What it wrote before it died is in the pipes; who holds them open beyond its group (a daemon it
    /// left behind) is not waited for.
    pub fn finish(mut self, outbox: &mut Outbox) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A pipe holds at most 1 MiB (fs.pipe-max-size); more than that was written after the end.
            let mut left = (1 << 20) / READ + 1;
            while left > 0 && self.drain(stream, outbox) {
                left -= 1;
            }
        }
        for (stream, slot) in [(Stream::Stdout, self.stdout.take()), (Stream::Stderr, self.stderr.take())] {
            if let Some(mut pipe) = slot {
                let (id, dropped) = (self.id, &mut self.dropped);
                pipe.lines.finish(|line, truncated| emit(id, dropped, outbox, stream, line, truncated));
            }
        }
        self.report_dropped(outbox);
        if let Some(ended) = self.ended {
            let stderr_tail = self.tail.bytes().to_vec();
            outbox.push(&Event::Exited { id: self.id, status: ended.status, stderr_tail });
        }
    }
}

fn emit(id: u64, dropped: &mut u64, outbox: &mut Outbox, stream: Stream, line: &[u8], truncated: bool) {
    if outbox.is_full() {
        *dropped += 1;
        return;
    }
    if *dropped > 0 {
        outbox.push(&Event::Dropped { id, lines: *dropped });
        *dropped = 0;
    }
    outbox.push(&Event::Output { id, stream, line: line.to_vec(), truncated });
}
