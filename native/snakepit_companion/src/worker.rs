//! One process: its output, and how far its end has come.

use crate::cgroup::Cgroup;
use crate::lines::{Lines, Tail};
use crate::memory::Kills;
use crate::outbox::Outbox;
use crate::reaper::{self, reap};
use crate::spawn::Spawned;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use snakepit_core::companion::{Event, Exit, Shortage, Stream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long `Exited` waits for members of the group, killed ones too: the kernel may not be able to end them yet.
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
    /// We killed it.
    killed: bool,
    ended: Option<Ended>,
}

struct Ended {
    status: Exit,
    shortage: Option<Shortage>,
    at: Instant,
    /// Others of its group were sent TERM and may be there yet.
    rest: bool,
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
            killed: false,
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

    /// KILL to the leader, unless it has ended: from then on the number may be someone else's.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            self.killed = true;
            // Fails only if it changed its user; it then has to go by itself.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// KILL after `grace`.
    pub fn stop(&mut self, grace: Duration) {
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When [`Self::tick`] is due.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let end = match self.ended {
            // The end of a process that is not our child makes no noise: look again soon.
            Some(_) => Some(now + Duration::from_millis(10)),
            None => self.kill_at,
        };
        let pipes = [&self.stdout, &self.stderr].into_iter().flatten();
        end.into_iter().chain(pipes.filter_map(|pipe| pipe.lines.deadline())).min()
    }

    /// Does what has become due.
    pub fn tick(&mut self, now: Instant, outbox: &mut Outbox) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.kill();
        }
        self.end_rest(now);
        let (id, dropped) = (self.id, &mut self.dropped);
        for (stream, slot) in [(Stream::Stdout, &mut self.stdout), (Stream::Stderr, &mut self.stderr)] {
            if let Some(pipe) = slot {
                pipe.lines.tick(now, |line, truncated| emit(id, dropped, outbox, stream, line, truncated));
            }
        }
    }

    /// The leader is a zombie, which is reaped. Others of its group are to end, too, and have a moment for it.
    pub fn leader_exited(&mut self, status: Exit, kills: &mut Kills) {
        let shortage = self.shortage(status, kills);
        let rest = !reaper::members(self.pid).is_empty();
        if rest {
            let _ = killpg(self.pid, Signal::SIGTERM);
        } else {
            // A member that is no child of ours has to be killed now, while the number is still the leader's.
            self.kill_all();
        }
        reap(self.pid);
        self.ended = Some(Ended { status, shortage, at: Instant::now(), rest });
    }

    fn shortage(&self, status: Exit, kills: &mut Kills) -> Option<Shortage> {
        if status != Exit::Signal(libc::SIGKILL) {
            return None;
        }
        let own = self.cgroup.as_ref().filter(|cgroup| cgroup.kills() > 0);
        own.map(|cgroup| Shortage::Limit(cgroup.limit))
            .or_else(|| (kills.was_one() && !self.killed).then_some(Shortage::Shared))
    }

    fn end_rest(&mut self, now: Instant) {
        let Some(ended) = self.ended.as_mut().filter(|ended| ended.rest) else { return };
        let (since, members) = (now.saturating_duration_since(ended.at), reaper::members(self.pid));
        reaper::kill_late(&members, since);
        if since >= reaper::KILL_ALL_AFTER {
            ended.rest = false;
            if members.is_empty() {
                // The number may be someone else's.
                self.cgroup.iter().for_each(Cgroup::kill);
            } else {
                self.kill_all();
            }
        }
    }

    fn kill_all(&self) {
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.cgroup.iter().for_each(Cgroup::kill);
    }

    /// The leader was reaped and nobody is left in its group and its cgroup, which is removed.
    pub fn is_gone(&self) -> bool {
        let empty = || killpg(self.pid, None) == Err(Errno::ESRCH) && self.cgroup.as_ref().is_none_or(Cgroup::remove);
        self.ended.as_ref().is_some_and(|ended| empty() || ended.at.elapsed() >= LINGER)
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
                pipe.lines.feed(&buffer[..len], Instant::now(), &mut emit);
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

    /// Its last words. Its output from before it died is in the pipes; a process beyond its group that holds them
    /// open (a daemon it left behind) is not waited for.
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
            outbox.push(&Event::Exited { id: self.id, status: ended.status, shortage: ended.shortage, stderr_tail });
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
