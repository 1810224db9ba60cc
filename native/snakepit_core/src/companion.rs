//! The messages between the VM and its companion, the port program that owns the Python workers.
//!
//! Each message is one `{packet, 4}` frame holding one postcard value. Both ends are built together from this
//! module, so there is no version in the frames; [`decode`] still trusts nothing it is given.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;

/// Larger frames are refused on both sides.
pub const MAX_FRAME: usize = 16 << 20;

/// Longer lines of a worker's output are cut here.
pub const MAX_LINE: usize = 4 << 10;

/// How much of the end of its stderr an [`Event::Exited`] carries.
pub const MAX_TAIL: usize = 16 << 10;

/// A request of the VM to the companion.
///
/// `id` is chosen by the VM and names one process from `Start` to `StartFailed` or `Exited`. A `Stop` or `Kill`
/// with an unknown id is ignored: the process may have just gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Starts a process in a session and process group of its own.
    Start {
        /// Its name in every later message. One that is in use makes an [`Event::BadFrame`].
        id: u64,
        /// A path, or a name to look up in `PATH`.
        program: String,
        /// Arguments after the program's own name.
        args: Vec<String>,
        /// Added to the environment that the companion inherited.
        env: Vec<(String, String)>,
        /// Taken out of that environment first.
        unset_env: Vec<String>,
        /// Working directory; the companion's own by default.
        cwd: Option<String>,
        /// Its limits. One that cannot be applied makes an [`Event::StartFailed`].
        limits: Limits,
    },
    /// The VM asked the process to end: KILL to it if it has not after the grace period.
    Stop {
        /// Which process.
        id: u64,
        /// Milliseconds until KILL. A second `Stop` can only make it shorter.
        grace_ms: u32,
    },
    /// KILL to the process. The rest of its group is then ended as after any other end.
    Kill {
        /// Which process.
        id: u64,
    },
}

/// The limits of a process. An absent one is as the companion's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes. Where a cgroup can be made for it: of all its memory and that of what it starts, and who needs more is
    /// killed. Elsewhere: of its own private memory (`RLIMIT_DATA`), and who asks for more is refused.
    pub memory: Option<u64>,
    /// Descriptors (`RLIMIT_NOFILE`).
    pub open_files: Option<u64>,
    /// -20 (first to run) to 19.
    pub nice: Option<i8>,
    /// The only CPUs to run on, unless empty.
    pub cpus: Vec<u16>,
}

/// The companion's messages to the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The program runs: its `exec` succeeded.
    Started {
        /// As in [`Request::Start`].
        id: u64,
        /// Process id, and id of its session and process group.
        pid: u32,
    },
    /// There is no such process and there was none; the id is free again.
    StartFailed {
        /// As in [`Request::Start`].
        id: u64,
        /// For people.
        reason: String,
    },
    /// One line of output, without its newline.
    Output {
        /// As in [`Request::Start`].
        id: u64,
        /// Where it was written.
        stream: Stream,
        /// Any bytes: it need not be UTF-8.
        line: Vec<u8>,
        /// The line was longer than [`MAX_LINE`]; the rest of it is lost.
        truncated: bool,
    },
    /// The process is gone, and its whole process group with it: the rest of the group got TERM, and KILL a moment
    /// later. The last event of an id.
    Exited {
        /// As in [`Request::Start`].
        id: u64,
        /// How it ended.
        status: Exit,
        /// Whether the kernel killed it because memory ran out.
        shortage: Option<Shortage>,
        /// The last [`MAX_TAIL`] bytes of its stderr, whether or not they were sent as lines.
        stderr_tail: Vec<u8>,
    },
    /// Lines that were not sent since the last `Dropped` of this id, because the VM did not read fast enough.
    Dropped {
        /// As in [`Request::Start`].
        id: u64,
        /// How many.
        lines: u64,
    },
    /// A request could not be understood or makes no sense; nothing was done for it.
    BadFrame {
        /// For people.
        reason: String,
    },
}

/// Which output of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Which memory ran out when the kernel killed a process for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shortage {
    /// The memory that [`Limits::memory`] allowed, in bytes.
    Limit(u64),
    /// That of the machine or container. Most likely: the kernel killed something there at that time.
    Shared,
}

/// Why a frame could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Longer than [`MAX_FRAME`].
    TooLarge(usize),
    /// Not a message of the expected kind, or cut short.
    Malformed,
    /// A message, then this many bytes more.
    Trailing(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(len) => write!(f, "frame of {len} bytes, limit {MAX_FRAME}"),
            Self::Malformed => write!(f, "malformed frame"),
            Self::Trailing(len) => write!(f, "{len} bytes after the message"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// The bytes of a [`Request`] or [`Event`], without a length prefix.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // A Vec grows, and these types hold nothing that postcard refuses.
    postcard::to_allocvec(message).expect("companion messages always encode")
}

/// Reads a [`Request`] or [`Event`] that fills `frame` exactly.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, DecodeError> {
    if frame.len() > MAX_FRAME {
        return Err(DecodeError::TooLarge(frame.len()));
    }
    match postcard::take_from_bytes(frame) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(DecodeError::Trailing(rest.len())),
        Err(_) => Err(DecodeError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> impl Strategy<Value = Request> {
        let env = proptest::collection::vec((".*", ".*"), 0..4);
        let strings = || proptest::collection::vec(".*", 0..4);
        prop_oneof![
            (any::<u64>(), ".*", strings(), env, strings(), proptest::option::of(".*"), limits()).prop_map(
                |(id, program, args, env, unset_env, cwd, limits)| Request::Start {
                    id,
                    program,
                    args,
                    env,
                    unset_env,
                    cwd,
                    limits
                }
            ),
            any::<(u64, u32)>().prop_map(|(id, grace_ms)| Request::Stop { id, grace_ms }),
            any::<u64>().prop_map(|id| Request::Kill { id }),
        ]
    }

    fn limits() -> impl Strategy<Value = Limits> {
        let number = proptest::option::of(any::<u64>());
        let cpus = proptest::collection::vec(any::<u16>(), 0..4);
        (number.clone(), number, any::<Option<i8>>(), cpus).prop_map(|(memory, open_files, nice, cpus)| Limits {
            memory,
            open_files,
            nice,
            cpus,
        })
    }

    fn event() -> impl Strategy<Value = Event> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
        let exit = prop_oneof![any::<i32>().prop_map(Exit::Code), any::<i32>().prop_map(Exit::Signal)];
        let shortage = prop_oneof![any::<u64>().prop_map(Shortage::Limit), Just(Shortage::Shared)];
        prop_oneof![
            any::<(u64, u32)>().prop_map(|(id, pid)| Event::Started { id, pid }),
            (any::<u64>(), ".*").prop_map(|(id, reason)| Event::StartFailed { id, reason }),
            (any::<u64>(), stream, bytes(), any::<bool>()).prop_map(|(id, stream, line, truncated)| Event::Output {
                id,
                stream,
                line,
                truncated
            }),
            (any::<u64>(), exit, proptest::option::of(shortage), bytes())
                .prop_map(|(id, status, shortage, stderr_tail)| Event::Exited { id, status, shortage, stderr_tail }),
            any::<(u64, u64)>().prop_map(|(id, lines)| Event::Dropped { id, lines }),
            ".*".prop_map(|reason| Event::BadFrame { reason }),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back(message in request()) {
            prop_assert_eq!(decode::<Request>(&encode(&message)), Ok(message));
        }

        #[test]
        fn events_come_back(message in event()) {
            prop_assert_eq!(decode::<Event>(&encode(&message)), Ok(message));
        }

        #[test]
        fn any_cut_is_malformed(message in event(), at in any::<prop::sample::Index>()) {
            let frame = encode(&message);
            let cut = &frame[..at.index(frame.len())];
            prop_assert_eq!(decode::<Event>(cut), Err(DecodeError::Malformed));
        }

        #[test]
        fn random_bytes_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<Request>(&frame);
            let _ = decode::<Event>(&frame);
        }
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut frame = encode(&Request::Kill { id: 7 });
        frame.push(0);
        assert_eq!(decode::<Request>(&frame), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn a_frame_over_the_limit_is_not_read() {
        let frame = vec![0; MAX_FRAME + 1];
        assert_eq!(decode::<Request>(&frame), Err(DecodeError::TooLarge(MAX_FRAME + 1)));
        assert_eq!(decode::<Request>(&frame[1..]), Err(DecodeError::Trailing(MAX_FRAME - 11)));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing_for_it() {
        // Event::BadFrame with a string said to be 2^63 bytes long.
        let frame = [5, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1];
        assert_eq!(decode::<Event>(&frame), Err(DecodeError::Malformed));
    }
}
