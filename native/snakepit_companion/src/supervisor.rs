//! The loop: waits for requests, output, ends of processes and deadlines, and deals with each.

use crate::inbox::{Inbox, TooLong};
use crate::memory::Kills;
use crate::outbox::Outbox;
use crate::reaper;
use crate::spawn::{Program, spawn};
use crate::watchdog::signals;
use crate::worker::Worker;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid};
use snakepit_core::companion::{Event, MAX_FRAME, Request, Stream, decode};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A source of events to wait for.
#[derive(Clone, Copy)]
enum Source {
    Stdin,
    Stdout,
    Signals,
    Worker(u64, Stream),
}

/// Why the loop ended.
enum End {
    /// The VM is gone or closed the port, or the watchdog is gone.
    Quiet,
    /// The bytes from the VM can no longer be understood.
    LostFraming,
}

struct Supervisor {
    inbox: Inbox,
    outbox: Outbox,
    workers: HashMap<u64, Worker>,
    ids: HashMap<Pid, u64>,
    kills: Kills,
    watchdog: Pid,
}

/// Serves the VM until it is gone, then ends every process. Returns the exit status.
pub fn run(watchdog: Pid) -> io::Result<u8> {
    let signals = prepare()?;
    let mut supervisor = Supervisor {
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        workers: HashMap::new(),
        ids: HashMap::new(),
        kills: Kills::new(),
        watchdog,
    };
    let end = supervisor.serve(&signals);
    // At once, all of them, before anything that could take time.
    supervisor.workers.values_mut().for_each(Worker::kill);
    reaper::end_all();
    match end? {
        End::Quiet => Ok(0),
        End::LostFraming => {
            supervisor.last_flush();
            Ok(1)
        }
    }
}

fn prepare() -> io::Result<SignalFd> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let stdout = io::stdout();
    let flags = OFlag::from_bits_retain(fcntl(&stdout, FcntlArg::F_GETFL)?);
    fcntl(&stdout, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;

    Ok(SignalFd::with_flags(&signals(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl Supervisor {
    fn serve(&mut self, signals: &SignalFd) -> io::Result<End> {
        loop {
            for (source, events) in self.wait(signals)? {
                match source {
                    Source::Stdin => {
                        if let Some(end) = self.read_requests()? {
                            return Ok(end);
                        }
                    }
                    // Nobody reads: the port was closed, which closes stdin as well.
                    Source::Stdout if events.contains(PollFlags::POLLERR) => return Ok(End::Quiet),
                    Source::Stdout => {}
                    Source::Signals => {
                        if self.read_signals(signals)? {
                            return Ok(End::Quiet);
                        }
                    }
                    Source::Worker(id, stream) => {
                        if let Some(worker) = self.workers.get_mut(&id) {
                            worker.drain(stream, &mut self.outbox);
                        }
                    }
                }
            }
            self.tick();
            match self.outbox.flush(io::stdout()) {
                Err(Errno::EPIPE) => return Ok(End::Quiet),
                other => other?,
            }
            if self.outbox.has_eased() {
                self.workers.values_mut().for_each(|worker| worker.report_dropped(&mut self.outbox));
            }
        }
    }

    /// Blocks until something is to be done; requests come first, so that a flood of output cannot delay a kill.
    fn wait(&self, signals: &SignalFd) -> io::Result<Vec<(Source, PollFlags)>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let writable = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let mut sources = vec![Source::Stdin, Source::Signals, Source::Stdout];
        let mut fds = vec![
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdout.as_fd(), writable),
        ];
        for (&id, worker) in &self.workers {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = worker.pipe(stream) {
                    sources.push(Source::Worker(id, stream));
                    fds.push(PollFd::new(fd, PollFlags::POLLIN));
                }
            }
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(ready).filter(|(_, events)| !events.is_empty()).collect())
    }

    fn timeout(&self) -> PollTimeout {
        let now = Instant::now();
        let Some(at) = self.workers.values().filter_map(|worker| worker.deadline(now)).min() else {
            return PollTimeout::NONE;
        };
        // Rounded up: waking a moment early would spin until the deadline.
        let wait = at.saturating_duration_since(now) + Duration::from_micros(999);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    fn read_requests(&mut self) -> io::Result<Option<End>> {
        let mut buffer = [0; 64 << 10];
        match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(0) => return Ok(Some(End::Quiet)),
            Ok(len) => self.inbox.extend(&buffer[..len]),
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        loop {
            let request = match self.inbox.next_frame() {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => decode::<Request>(frame),
                Err(TooLong(len)) => {
                    self.bad_frame(format!("length prefix of {len} bytes, limit {MAX_FRAME}"));
                    return Ok(Some(End::LostFraming));
                }
            };
            match request {
                Ok(request) => self.obey(request),
                Err(error) => self.bad_frame(error.to_string()),
            }
        }
    }

    fn obey(&mut self, request: Request) {
        match request {
            Request::Start { id, program, args, env, unset_env, cwd, limits } => {
                let Entry::Vacant(slot) = self.workers.entry(id) else {
                    // Not StartFailed: that would speak of the process which has the id.
                    return self.bad_frame(format!("start: id {id} is in use"));
                };
                let program = Program {
                    id,
                    program: &program,
                    args: &args,
                    env: &env,
                    unset_env: &unset_env,
                    cwd: cwd.as_deref(),
                    limits: &limits,
                };
                // A kill by the kernel before now is not the reason of this one's end.
                self.kills.forget();
                match spawn(&program) {
                    Ok(spawned) => {
                        let pid = spawned.pid;
                        let worker = slot.insert(Worker::new(id, spawned));
                        self.ids.insert(worker.pid(), id);
                        self.outbox.push(&Event::Started { id, pid });
                    }
                    Err(reason) => self.outbox.push(&Event::StartFailed { id, reason }),
                }
            }
            Request::Stop { id, grace_ms } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.stop(Duration::from_millis(grace_ms.into()));
                }
            }
            Request::Kill { id } => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.kill();
                }
            }
        }
    }

    /// True if it is time to go.
    fn read_signals(&mut self, signals: &SignalFd) -> io::Result<bool> {
        while signals.read_signal()?.is_some() {}
        if getppid() != self.watchdog {
            return Ok(true);
        }
        while let Some((pid, status)) = reaper::next_zombie() {
            match self.ids.remove(&pid).and_then(|id| self.workers.get_mut(&id)) {
                Some(worker) => worker.leader_exited(status, &mut self.kills),
                // Left behind by some worker.
                None => reaper::reap(pid),
            }
        }
        Ok(false)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.workers.values_mut().for_each(|worker| worker.tick(now, &mut self.outbox));
        for (_, worker) in self.workers.extract_if(|_, worker| worker.is_gone()) {
            worker.finish(&mut self.outbox);
        }
    }

    fn bad_frame(&mut self, reason: String) {
        self.outbox.push(&Event::BadFrame { reason });
    }

    /// Gives a VM that still reads a moment to learn why we go.
    fn last_flush(&mut self) {
        let stdout = io::stdout();
        while !self.outbox.is_empty() {
            let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
            if !matches!(poll(&mut fds, 100_u8), Ok(1)) || self.outbox.flush(&stdout).is_err() {
                return;
            }
        }
    }
}
