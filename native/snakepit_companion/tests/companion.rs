//! Runs the real binary with real children. Nothing here sleeps to let something happen: events are awaited, and the
//! ends of processes through pidfds, which also work for processes that are not our children.

use snakepit_core::companion::{
    Event, Exit, Limits, MAX_FRAME, MAX_LINE, MAX_TAIL, Request, Shortage, Stream, decode, encode,
};
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Long enough for any machine; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(30);

/// Signals that may be sent to all processes at once and are meant for the VM.
const FOR_THE_VM: [i32; 6] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

struct Companion {
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<Event>,
    /// Lets the reader read; without it the companion's stdout fills up.
    gate: Option<Sender<()>>,
    seen: VecDeque<Event>,
}

impl Companion {
    fn start() -> Self {
        let mut companion = Self::start_unread();
        companion.read();
        companion
    }

    /// A companion whose events nobody reads until `read`.
    fn start_unread() -> Self {
        Self::start_by(&mut Command::new(env!("CARGO_BIN_EXE_snakepit_companion")))
    }

    fn start_by(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, mut stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let ((gate, opened), (sender, events)) = (channel(), channel());
        std::thread::spawn(move || {
            let _ = opened.recv();
            let mut prefix = [0; 4];
            while stdout.read_exact(&mut prefix).is_ok() {
                let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
                stdout.read_exact(&mut frame).unwrap();
                let _ = sender.send(decode(&frame).unwrap());
            }
        });
        Self { child, stdin, events, gate: Some(gate), seen: VecDeque::new() }
    }

    fn read(&mut self) {
        self.gate = None;
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn send_frame(&mut self, frame: &[u8]) {
        self.send_raw(&[&(frame.len() as u32).to_be_bytes(), frame].concat());
    }

    fn send(&mut self, request: &Request) {
        self.send_frame(&encode(request));
    }

    fn next(&mut self) -> Event {
        self.events.recv_timeout(LONG).expect("an event")
    }

    /// The next event for which `pick` answers; others are kept in `seen`.
    fn until<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.next();
            if let Some(found) = pick(&event) {
                return found;
            }
            self.seen.push_back(event);
        }
    }

    fn run(&mut self, id: u64, program: &str, args: &[&str]) {
        self.send(&start(id, program, args));
    }

    /// Starts a shell script and waits until it runs.
    fn shell(&mut self, id: u64, script: &str) -> Process {
        self.run(id, "sh", &["-c", script]);
        Process::open(self.started(id))
    }

    fn started(&mut self, id: u64) -> u32 {
        self.until(|event| match event {
            Event::Started { id: other, pid } if *other == id => Some(*pid),
            Event::StartFailed { reason, .. } => panic!("{reason}"),
            _ => None,
        })
    }

    /// Shows that it still serves: `id` can be started and ends well.
    fn passes(&mut self, id: u64) {
        self.run(id, "true", &[]);
        assert_eq!(self.exited(id).0, Exit::Code(0));
    }

    fn line(&mut self, id: u64) -> String {
        self.until(|event| match event {
            Event::Output { id: other, stream: Stream::Stdout, line, .. } if *other == id => {
                Some(String::from_utf8(line.clone()).unwrap())
            }
            _ => None,
        })
    }

    fn exited(&mut self, id: u64) -> (Exit, Vec<u8>) {
        self.until(|event| match event {
            Event::Exited { id: other, status, stderr_tail, .. } if *other == id => {
                Some((*status, stderr_tail.clone()))
            }
            _ => None,
        })
    }

    /// To the process that the companion is for its parent, which is the watchdog.
    fn signal(&self, signal: i32) {
        // SAFETY: the companion is our child and was not waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// The process that does everything.
    fn server(&self) -> Process {
        let watchdog = self.child.id();
        Process::named(&fs::read_to_string(format!("/proc/{watchdog}/task/{watchdog}/children")).unwrap())
    }

    fn close(&mut self) -> ExitStatus {
        self.stdin = None;
        self.child.wait().unwrap()
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

fn start(id: u64, program: &str, args: &[&str]) -> Request {
    Request::Start {
        id,
        program: program.into(),
        args: args.iter().map(|arg| arg.to_string()).collect(),
        env: vec![],
        unset_env: vec![],
        cwd: None,
        limits: Limits::default(),
    }
}

fn limited(id: u64, limits: Limits, script: &str) -> Request {
    let Request::Start { program, args, env, unset_env, cwd, .. } = start(id, "sh", &["-c", script]) else {
        unreachable!()
    };
    Request::Start { id, program, args, env, unset_env, cwd, limits }
}

/// A process that may be anyone's child.
struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    fn open(pid: u32) -> Self {
        // SAFETY: takes two integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        assert!(fd >= 0, "no process {pid}");
        // SAFETY: the call above made it, and nobody else has it.
        Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(fd as i32) } }
    }

    fn named(line: &str) -> Self {
        Self::open(line.trim().parse().unwrap())
    }

    /// Waits until it has ended. It may still be a zombie: who reaps it is not always up to us.
    fn wait(&self) {
        let mut fd = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&mut fd, 1, LONG.as_millis() as i32) };
        assert_eq!(ready, 1, "process {} lives", self.pid);
    }

    /// Signals a process that was not reaped, so that the number is its own.
    fn signal(&self, signal: i32) {
        // SAFETY: takes two integers.
        assert_eq!(unsafe { libc::kill(self.pid as i32, signal) }, 0);
    }

    fn stat(&self) -> Option<Vec<String>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        Some(after_name.split(' ').map(str::to_string).collect())
    }

    /// Gone, without even a zombie.
    fn is_reaped(&self) -> bool {
        self.stat().is_none()
    }

    fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| stat[0] != "Z")
    }
}

#[test]
fn a_process_runs_and_its_status_comes_back() {
    let mut companion = Companion::start();
    companion.run(7, "sh", &["-c", "echo out; echo err >&2; exit 3"]);
    let pid = companion.started(7);
    let (status, tail) = companion.exited(7);
    assert_eq!((status, tail.as_slice()), (Exit::Code(3), &b"err\n"[..]));
    for (stream, text) in [(Stream::Stdout, "out"), (Stream::Stderr, "err")] {
        let event = Event::Output { id: 7, stream, line: text.into(), truncated: false };
        assert!(companion.seen.contains(&event), "{event:?}");
    }
    assert!(fs::metadata(format!("/proc/{pid}")).is_err());
    assert_eq!(companion.close().code(), Some(0));
}

#[test]
fn an_id_can_be_used_again_but_not_twice_at_once() {
    let mut companion = Companion::start();
    companion.passes(1);
    let process = companion.shell(1, "exec sleep 1000");
    companion.run(1, "true", &[]);
    assert!(matches!(companion.next(), Event::BadFrame { reason } if reason.contains("id 1 is in use")));
    assert!(process.is_alive());
}

#[test]
fn what_cannot_start_says_why() {
    let mut companion = Companion::start();
    let failed = |companion: &mut Companion, request: Request| {
        companion.send(&request);
        companion.until(|event| match event {
            Event::StartFailed { id: 5, reason } => Some(reason.clone()),
            Event::Started { .. } => panic!("it started"),
            _ => None,
        })
    };
    let with = |change: fn(&mut Vec<(String, String)>, &mut Option<String>)| {
        let Request::Start { id, program, args, mut env, unset_env, mut cwd, limits } = start(5, "true", &[]) else {
            unreachable!()
        };
        change(&mut env, &mut cwd);
        Request::Start { id, program, args, env, unset_env, cwd, limits }
    };
    assert!(failed(&mut companion, start(5, "/does/not/exist", &[])).contains("/does/not/exist"));
    assert!(failed(&mut companion, start(5, "/etc/passwd", &[])).contains("denied"));
    assert!(failed(&mut companion, start(5, "true", &["a\0b"])).contains("nul"));
    assert!(failed(&mut companion, with(|_, cwd| *cwd = Some("/nowhere".into()))).contains("/nowhere"));
    assert!(failed(&mut companion, with(|env, _| env.push(("A=B".into(), "".into())))).contains("A=B"));
    // The id is free, and nothing is left.
    companion.passes(5);
}

#[test]
fn a_child_inherits_only_what_it_should() {
    // A descriptor that a careless VM could leave open in us.
    // SAFETY: dup of an open descriptor; the copy stays open on exec.
    let leaked = unsafe { libc::dup(1) };
    assert!(leaked > 2);
    let script = "pwd; echo $ADDED; echo ${HOME-unset}; readlink /proc/$$/fd/0
        cut -d' ' -f1,5,6 /proc/$$/stat; sleep 1000";
    let mut companion = Companion::start();
    companion.send(&Request::Start {
        id: 1,
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("ADDED".into(), "value with = in it".into())],
        unset_env: vec!["HOME".into()],
        cwd: Some("/usr".into()),
        limits: Limits::default(),
    });
    let pid = companion.started(1);
    let lines: Vec<String> = (0..5).map(|_| companion.line(1)).collect();
    assert_eq!(lines[..4], ["/usr", "value with = in it", "unset", "/dev/null"]);
    // Leader of its own group and session.
    assert_eq!(lines[4], format!("{pid} {pid} {pid}"));
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut numbers: Vec<_> = descriptors.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    numbers.sort();
    assert_eq!(numbers, ["0", "1", "2"]);
    // Not asked of a shell, which blocks signals of its own.
    companion.run(2, "grep", &["-E", "Sig(Blk|Ign)", "/proc/self/status"]);
    assert_eq!(companion.line(2), "SigBlk:\t0000000000000000");
    // Signals 32 and 33 are libc's own: it lets nobody touch them.
    let ignored = u64::from_str_radix(companion.line(2).trim_start_matches("SigIgn:\t"), 16).unwrap();
    assert_eq!(ignored & !(3 << 31), FOR_THE_VM.iter().map(|signal| 1 << (signal - 1)).sum());
    // SAFETY: ours, from above.
    unsafe { libc::close(leaked) };
}

#[test]
fn limits_are_applied() {
    let mut companion = Companion::start();
    let script = "ulimit -n; ulimit -Hn; cut -d' ' -f19 /proc/$$/stat; grep Cpus_allowed_list /proc/$$/status";
    let limits = Limits { memory: None, open_files: Some(77), nice: Some(7), cpus: vec![0] };
    companion.send(&limited(1, limits, script));
    for expected in ["77", "77", "7", "Cpus_allowed_list:\t0"] {
        assert_eq!(companion.line(1), expected);
    }
    assert_eq!(companion.exited(1).0, Exit::Code(0));
}

#[test]
fn who_wants_more_memory_than_the_limit_fails_alone() {
    let mut companion = Companion::start();
    let buffer = |size| format!("dd if=/dev/zero of=/dev/null count=1 bs={size} 2>&1");
    let limits = Limits { memory: Some(64 << 20), ..Limits::default() };
    companion.send(&limited(1, limits.clone(), &buffer("16M")));
    assert_eq!(companion.exited(1).0, Exit::Code(0));
    companion.send(&limited(2, limits, &buffer("256M")));
    assert_ne!(companion.exited(2).0, Exit::Code(0));
    companion.send(&limited(3, Limits::default(), &buffer("256M")));
    assert_eq!(companion.exited(3).0, Exit::Code(0));
}

/// A memory group (version 1) that the companion may be put into; version 2 has none on a machine that has these.
struct Group(std::path::PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let name = format!("snakepit-test-{}", std::process::id());
        let path = std::path::Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/')).join(name);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        let _ = fs::write(group.0.join("memory.memsw.limit_in_bytes"), bytes.to_string());
        Some(group)
    }

    fn join(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_kill_for_want_of_memory_is_distinguished_from_another() {
    let Some(group) = Group::new(64 << 20) else {
        return eprintln!("no memory group of version 1 that this user may make: not tested");
    };
    // It counts in the group that it is in when it starts.
    let program = env!("CARGO_BIN_EXE_snakepit_companion");
    let mut companion = Companion::start_by(Command::new("sh").args(["-c", "read x; exec \"$0\"", program]));
    companion.read();
    group.join(companion.child.id());
    companion.send_raw(b"go\n");
    let shortage = |companion: &mut Companion, id| {
        companion.until(|event| match event {
            Event::Exited { id: other, status, shortage, .. } if *other == id => Some((*status, *shortage)),
            _ => None,
        })
    };
    let killed = Exit::Signal(libc::SIGKILL);
    companion.shell(1, "exec sleep 1000").signal(libc::SIGKILL);
    assert_eq!(shortage(&mut companion, 1), (killed, None));
    companion.run(2, "tail", &["/dev/zero"]);
    assert_eq!(shortage(&mut companion, 2), (killed, Some(Shortage::Shared)));
    companion.shell(3, "echo ready; exec sleep 1000");
    companion.send(&Request::Kill { id: 3 });
    assert_eq!(shortage(&mut companion, 3), (killed, None));
    companion.close();
}

#[test]
fn a_limit_that_cannot_be_applied_is_named() {
    let mut companion = Companion::start();
    let mut failed = |limits: Limits| {
        companion.send(&limited(1, limits, "true"));
        companion.until(|event| match event {
            Event::StartFailed { id: 1, reason } => Some(reason.clone()),
            Event::Started { .. } => panic!("it started"),
            _ => None,
        })
    };
    let files = failed(Limits { open_files: Some(u64::MAX), ..Limits::default() });
    assert_eq!(files, format!("the limit `open_files: {}` cannot be applied: Operation not permitted", u64::MAX));
    let absent = failed(Limits { cpus: vec![0, 1023], ..Limits::default() });
    assert_eq!(absent, "the limit `cpus: [0, 1023]` cannot be applied: Invalid argument");
    let unknown = failed(Limits { cpus: vec![5000], ..Limits::default() });
    assert_eq!(unknown, "the limit `cpus: [5000]` cannot be applied: there is no CPU 5000");
    companion.passes(1);
}

#[test]
fn stop_leaves_time_and_sends_nothing() {
    let mut companion = Companion::start();
    let script = "trap 'echo caught' TERM HUP INT; echo ready; while :; do sleep 0.01; done";
    let process = companion.shell(1, &format!("exec env --default-signal sh -c \"{script}\""));
    assert_eq!(companion.line(1), "ready");
    companion.send(&Request::Stop { id: 1, grace_ms: u32::MAX });
    companion.passes(2);
    assert!(process.is_alive());
    process.signal(libc::SIGTERM);
    // The first that it hears.
    assert_eq!(companion.line(1), "caught");
    assert!(!companion.seen.iter().any(|event| matches!(event, Event::Output { id: 1, .. })));
}

#[test]
fn a_child_that_does_not_end_is_killed_after_its_grace() {
    let mut companion = Companion::start();
    let process = companion.shell(1, "echo ready; while :; do sleep 1000; done");
    assert_eq!(companion.line(1), "ready");
    companion.send(&Request::Stop { id: 1, grace_ms: u32::MAX });
    companion.send(&Request::Stop { id: 1, grace_ms: 50 });
    companion.send(&Request::Stop { id: 1, grace_ms: u32::MAX });
    assert_eq!(companion.exited(1).0, Exit::Signal(libc::SIGKILL));
    assert!(process.is_reaped());
}

#[test]
fn a_stopped_child_can_be_killed() {
    let mut companion = Companion::start();
    let process = companion.shell(1, "echo ready; kill -STOP $$; exit 0");
    assert_eq!(companion.line(1), "ready");
    companion.send(&Request::Kill { id: 1 });
    assert_eq!(companion.exited(1).0, Exit::Signal(libc::SIGKILL));
    assert!(process.is_reaped());
}

#[test]
fn a_real_time_signal_is_reported_too() {
    let mut companion = Companion::start();
    companion.run(1, "sh", &["-c", "kill -40 $$"]);
    assert_eq!(companion.exited(1).0, Exit::Signal(40));
}

/// A leader, and a grandchild in its group that ignores TERM.
const WITH_GRANDCHILD: &str = "sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' & wait";

#[test]
fn nothing_of_the_group_is_left_when_exited_is_sent() {
    let mut companion = Companion::start();
    let leader = companion.shell(1, WITH_GRANDCHILD);
    let grandchild = Process::named(&companion.line(1));
    companion.send(&Request::Kill { id: 1 });
    assert_eq!(companion.exited(1).0, Exit::Signal(libc::SIGKILL));
    assert!(leader.is_reaped() && grandchild.is_reaped());
}

/// In the group of a leader that leaves at once: one that cleans up when it gets TERM, one that does so when whoever
/// has the other end of its pipe is gone (as Python's resource tracker), and who has that and ignores TERM.
const WITH_CLEANERS: &str = "
    env --default-signal=TERM sh -c 'trap \"echo cleaned 1; exit\" TERM; echo ready; while :; do sleep 0.01; done' &
    sleep 1000 | sh -c 'echo ready; read x; echo cleaned 2' multiprocessing.resource_tracker &";

fn cleans_up(companion: &mut Companion, end: impl Fn(&mut Companion)) {
    assert_eq!([companion.line(1), companion.line(1)], ["ready", "ready"]);
    end(companion);
    let mut lines = [companion.line(1), companion.line(1)];
    lines.sort();
    assert_eq!(lines, ["cleaned 1", "cleaned 2"]);
}

#[test]
fn what_a_leader_leaves_has_a_moment_to_clean_up() {
    let mut companion = Companion::start();
    companion.shell(1, &format!("{WITH_CLEANERS} exec sleep 1000"));
    cleans_up(&mut companion, |companion| companion.send(&Request::Kill { id: 1 }));
    assert_eq!(companion.exited(1).0, Exit::Signal(libc::SIGKILL));
    // After an end of its own as well.
    let leader = companion.shell(1, &format!("{WITH_CLEANERS} kill -STOP $$; exit 3"));
    while leader.stat().is_some_and(|stat| stat[0] != "T") {
        std::thread::yield_now();
    }
    cleans_up(&mut companion, |_| leader.signal(libc::SIGCONT));
    assert_eq!(companion.exited(1).0, Exit::Code(3));
}

#[test]
fn what_is_left_has_a_moment_to_clean_up_when_all_ends() {
    // Nobody reads their output any more.
    let dir = std::env::temp_dir().join(format!("snakepit_cleaners_{}", std::process::id()));
    for killed in ["none", "watchdog", "server"] {
        fs::create_dir_all(&dir).unwrap();
        let files = WITH_CLEANERS.replace("echo cleaned ", &format!("touch {}/", dir.display()));
        let mut companion = Companion::start();
        companion.shell(1, &format!("{files} exec sleep 1000"));
        assert_eq!([companion.line(1), companion.line(1)], ["ready", "ready"]);
        let server = companion.server();
        match killed {
            "watchdog" => companion.signal(libc::SIGKILL),
            "server" => server.signal(libc::SIGKILL),
            _ => companion.stdin = None,
        }
        companion.child.wait().unwrap();
        server.wait();
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["1", "2"], "killed: {killed}");
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_crashed_leader_takes_its_group_along() {
    let mut companion = Companion::start();
    let leader = companion.shell(1, WITH_GRANDCHILD);
    let grandchild = Process::named(&companion.line(1));
    // SAFETY: the companion has not reported its end, so the number is still the leader's.
    assert_eq!(unsafe { libc::kill(leader.pid as i32, libc::SIGSEGV) }, 0);
    assert_eq!(companion.exited(1).0, Exit::Signal(libc::SIGSEGV));
    assert!(leader.is_reaped() && grandchild.is_reaped());
}

#[test]
fn a_daemon_does_not_hold_up_exited_and_dies_with_the_companion() {
    let mut companion = Companion::start();
    companion.shell(1, "setsid sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' & wait");
    let daemon = Process::named(&companion.line(1));
    companion.send(&Request::Kill { id: 1 });
    companion.exited(1);
    assert!(daemon.is_alive(), "it left the group, which is its right");
    assert_eq!(companion.close().code(), Some(0));
    assert!(daemon.is_reaped());
}

#[test]
fn end_of_file_ends_everything() {
    let mut companion = Companion::start();
    let leader = companion.shell(1, WITH_GRANDCHILD);
    let grandchild = Process::named(&companion.line(1));
    let stubborn = companion.shell(2, "trap '' TERM; echo ready; kill -STOP $$");
    assert_eq!(companion.line(2), "ready");
    assert_eq!(companion.close().code(), Some(0));
    assert!(leader.is_reaped() && grandchild.is_reaped() && stubborn.is_reaped());
}

#[test]
fn end_of_file_within_a_frame_is_the_same() {
    let mut companion = Companion::start();
    let process = companion.shell(1, "exec sleep 1000");
    companion.send_raw(&[0, 0, 1, 0, 5, 5]);
    assert_eq!(companion.close().code(), Some(0));
    assert!(process.is_reaped());
}

#[test]
fn what_is_sent_to_all_is_for_the_vm() {
    let mut companion = Companion::start();
    let process = companion.shell(1, "echo ready; exec sleep 1000");
    assert_eq!(companion.line(1), "ready");
    let server = companion.server();
    for signal in FOR_THE_VM.into_iter().chain([libc::SIGALRM, libc::SIGTSTP, libc::SIGPIPE]) {
        companion.signal(signal);
        server.signal(signal);
        if FOR_THE_VM.contains(&signal) {
            process.signal(signal);
        }
    }
    // SIGCHLD, which the watchdog's end sends, does not end the server by itself.
    server.signal(libc::SIGCHLD);
    companion.passes(2);
    assert!(process.is_alive());
    assert_eq!(companion.close().code(), Some(0));
}

#[test]
fn a_killed_companion_takes_its_children_along() {
    let mut companion = Companion::start();
    let processes: Vec<_> =
        (0..8).map(|id| companion.shell(id, "trap '' TERM HUP; while :; do read x; done")).collect();
    companion.signal(libc::SIGKILL);
    companion.child.wait().unwrap();
    processes.iter().for_each(Process::wait);
    assert!(!processes.iter().any(Process::is_alive));
}

/// Three that outlive a leader which only the kernel kills: its child, one in a group of its own, and a daemon.
const WITH_DESCENDANTS: &str = "trap '' TERM HUP
    sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' &
    set -m; sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' & set +m
    setsid sh -c 'trap \"\" TERM HUP; echo $$; while :; do sleep 1000; done' & wait";

fn dies_without_a_trace(kill: impl Fn(&Companion)) {
    let mut companion = Companion::start();
    let mut processes = vec![companion.shell(1, WITH_DESCENDANTS)];
    for _ in 0..3 {
        processes.push(Process::named(&companion.line(1)));
    }
    kill(&companion);
    companion.child.wait().unwrap();
    processes.iter().for_each(Process::wait);
}

#[test]
fn a_killed_guard_leaves_nothing_that_workers_started() {
    dies_without_a_trace(|companion| companion.signal(libc::SIGKILL));
}

#[test]
fn a_killed_server_leaves_nothing_that_workers_started() {
    dies_without_a_trace(|companion| {
        companion.server().signal(libc::SIGKILL);
    });
}

#[test]
fn malformed_frames_are_reported_and_survived() {
    let mut companion = Companion::start();
    companion.send_frame(&[]);
    companion.send_frame(&[0xff; 100]);
    companion.send_frame(&[encode(&Request::Kill { id: 1 }), vec![0]].concat());
    for _ in 0..3 {
        assert!(matches!(companion.next(), Event::BadFrame { .. }));
    }
    companion.send(&Request::Kill { id: 99 });
    companion.send(&Request::Stop { id: 99, grace_ms: 0 });
    companion.passes(1);
}

#[test]
fn a_length_over_the_limit_is_the_end() {
    let mut companion = Companion::start();
    let process = companion.shell(1, "exec sleep 1000");
    companion.send_raw(&(MAX_FRAME as u32 + 1).to_be_bytes());
    assert!(matches!(companion.next(), Event::BadFrame { .. }));
    assert_eq!(companion.child.wait().unwrap().code(), Some(1));
    assert!(process.is_reaped());
}

#[test]
fn a_frame_of_the_largest_size_is_taken() {
    let mut companion = Companion::start();
    let mut frame = encode(&Request::Kill { id: 1 });
    frame.resize(MAX_FRAME, 0);
    companion.send_frame(&frame);
    assert!(matches!(companion.next(), Event::BadFrame { .. }));
    companion.passes(1);
}

#[test]
fn lines_are_cut_and_need_not_be_text() {
    let mut companion = Companion::start();
    companion.run(
        1,
        "sh",
        &["-c", "printf '\\377\\376\\n\\n'; head -c 10000 /dev/zero | tr '\\0' x; printf '\\nlast'"],
    );
    companion.exited(1);
    let lines: Vec<(Vec<u8>, bool)> = companion
        .seen
        .drain(..)
        .filter_map(|event| match event {
            Event::Output { line, truncated, .. } => Some((line, truncated)),
            _ => None,
        })
        .collect();
    let x = vec![b'x'; MAX_LINE];
    assert_eq!(lines, [(vec![255, 254], false), (vec![], false), (x, true), (b"last".to_vec(), false)]);
}

#[test]
fn the_tail_of_stderr_is_kept() {
    let mut companion = Companion::start();
    companion.run(1, "sh", &["-c", "seq 100000 >&2; exit 1"]);
    let (_, tail) = companion.exited(1);
    assert_eq!(tail.len(), MAX_TAIL);
    assert!(tail.ends_with(b"\n99999\n100000\n"));
}

#[test]
fn a_flood_is_dropped_and_counted_while_nobody_reads() {
    const LINES: u64 = 3_000_000;
    let mut companion = Companion::start_unread();
    // It can only come to the end if somebody drains its pipe; then it makes a file, which is how we know.
    let dir = std::env::temp_dir().join(format!("snakepit_companion_{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let fifo = dir.join("done");
    let path = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a string that ends in a zero.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    companion.run(1, "sh", &["-c", &format!("seq {LINES}; echo done > {}", fifo.display())]);
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "done\n");
    fs::remove_dir_all(&dir).unwrap();

    companion.read();
    assert_eq!(companion.exited(1).0, Exit::Code(0));
    let (mut lines, mut dropped) = (0, 0);
    for event in &companion.seen {
        match event {
            Event::Output { line, .. } => {
                lines += 1;
                // Each Dropped stands where the lines it counts would be.
                assert_eq!(String::from_utf8_lossy(line), (lines + dropped).to_string());
            }
            Event::Dropped { id: 1, lines } => dropped += lines,
            _ => {}
        }
    }
    assert_eq!(lines + dropped, LINES);
    assert!(dropped > LINES / 2, "{dropped} dropped");
}

#[test]
fn a_flood_does_not_delay_a_kill() {
    let mut companion = Companion::start();
    let process = companion.shell(1, "exec yes");
    let other = companion.shell(2, "exec yes >&2");
    companion.send(&Request::Kill { id: 1 });
    companion.send(&Request::Kill { id: 2 });
    companion.exited(1);
    process.wait();
    other.wait();
}

#[test]
fn many_children_come_and_go() {
    let mut companion = Companion::start();
    let descriptors =
        |companion: &Companion| fs::read_dir(format!("/proc/{}/fd", companion.child.id())).unwrap().count();
    companion.passes(1000);
    let before = descriptors(&companion);
    for id in 0..200 {
        companion.run(id, "sh", &["-c", "echo hello; exit 1"]);
    }
    let mut left = 200;
    let mut hellos = 0;
    while left > 0 {
        match companion.next() {
            Event::Output { .. } => hellos += 1,
            Event::Exited { status, .. } => {
                assert_eq!(status, Exit::Code(1));
                left -= 1;
            }
            Event::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(hellos, 200);
    assert_eq!(descriptors(&companion), before);
}

#[test]
fn by_hand_it_only_explains_itself() {
    let run = |args: &[&str]| {
        let program = env!("CARGO_BIN_EXE_snakepit_companion");
        Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
    };
    let version = run(&["--version"]);
    let text = String::from_utf8(version.stdout).unwrap();
    assert_eq!(text, format!("snakepit_companion {}\n", env!("CARGO_PKG_VERSION")));
    assert!(version.status.success());
    let wrong = run(&["--wrong"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("Python workers"));
}
