//! Terms: binaries in, binaries out, and messages to the caller.

use crate::failure::{code, code_name, describe};
use crate::proto::snakepit::Payload;
use crate::runtime;
use crate::wire::COPY_BELOW;
use bytes::Bytes;
use rustler::env::SavedTerm;
use rustler::{Atom, Binary, Encoder, Env, LocalPid, NewBinary, OwnedEnv, Reference, Resource, ResourceArc, Term};
use snakepit_core::locks::locked;
use std::sync::{Arc, Mutex};
use tonic::Status;

rustler::atoms! { ok, error, item, done, snakepit_grpc }

/// Received bytes below this are copied into the binary: a resource of their own would cost more, and would keep the
/// whole message they came in alive.
const REFER_FROM: usize = 64 << 10;

/// Giving back this much memory takes longer than a scheduler should stop for.
const QUEUE_DROP_FROM: usize = 8 << 20;

/// Binaries of a caller, kept alive without copying while they are sent.
#[derive(Default)]
pub struct Pins(Option<Arc<Mutex<OwnedEnv>>>);

impl Pins {
    /// The bytes of `binary`; small ones are copied.
    pub fn bytes(&mut self, binary: Binary<'_>) -> Bytes {
        if binary.len() < COPY_BELOW {
            return Bytes::copy_from_slice(&binary);
        }
        let owner = self.0.get_or_insert_with(|| Arc::new(Mutex::new(OwnedEnv::new())));
        let env = locked(owner);
        // A copy of the term, not of the bytes, which live outside of any heap from 65 bytes on.
        let slice = env.run(|env| Binary::from_term(binary.to_term(env)).map(|own| std::ptr::from_ref(own.as_slice())));
        match slice {
            Ok(slice) => Bytes::from_owner(Pinned { slice, _owner: owner.clone() }),
            Err(_) => unreachable!("it was a binary a moment ago"),
        }
    }
}

struct Pinned {
    slice: *const [u8],
    /// Holds the term to which `slice` belongs. Never cleared, only dropped.
    _owner: Arc<Mutex<OwnedEnv>>,
}

// SAFETY: binaries are immutable, and an environment of its own belongs to no thread.
unsafe impl Send for Pinned {}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the owner keeps the binary, whose bytes neither move nor change: inspecting it ended any right of its
        // maker to append to it in place.
        unsafe { &*self.slice }
    }
}

/// Received bytes that a binary of the BEAM refers to.
struct Received(Bytes);

#[rustler::resource_impl]
impl Resource for Received {}

impl Drop for Received {
    fn drop(&mut self) {
        if self.0.len() >= QUEUE_DROP_FROM {
            runtime::drop_later(std::mem::take(&mut self.0));
        }
    }
}

fn binary(env: Env<'_>, bytes: Bytes) -> Term<'_> {
    if bytes.len() < REFER_FROM {
        let mut binary = NewBinary::new(env, bytes.len());
        binary.copy_from_slice(&bytes);
        return binary.into();
    }
    ResourceArc::new(Received(bytes)).make_binary(env, |received| &received.0).to_term(env)
}

/// The process to answer, and the reference of its answer.
pub struct Caller {
    pid: LocalPid,
    /// The reference and where it lives. Locked for no longer than a copy of it takes.
    reference: Mutex<(OwnedEnv, SavedTerm)>,
}

impl Caller {
    /// The calling process.
    pub fn new(env: Env<'_>, reference: Reference<'_>) -> Self {
        let own = OwnedEnv::new();
        let saved = own.save(reference);
        Self { pid: env.pid(), reference: Mutex::new((own, saved)) }
    }

    /// `{:ok, frame, buffers}`
    pub fn answer(&self, payload: Payload) -> bool {
        self.send(|env| payload_term(env, ok(), payload))
    }

    /// `{:item, frame, buffers}`
    pub fn item(&self, payload: Payload) -> bool {
        self.send(|env| payload_term(env, item(), payload))
    }

    /// `:done`
    pub fn done(&self) -> bool {
        self.send(|env| done().to_term(env))
    }

    /// `{:ok, value}`
    pub fn value(&self, value: Atom) -> bool {
        self.send(|env| (ok(), value).encode(env))
    }

    /// `{:error, code, message}`
    pub fn fail(&self, status: &Status) -> bool {
        self.send(|env| failure(env, status))
    }

    /// False if nobody is there to read it.
    fn send(&self, message: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> bool {
        OwnedEnv::new()
            .send_and_clear(&self.pid, |env| {
                let saved = locked(&self.reference);
                let reference = saved.0.run(|own| saved.1.load(own).in_env(env));
                (snakepit_grpc(), reference, message(env)).encode(env)
            })
            .is_ok()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // A worker's answer must not be able to make its caller wait for ever, whatever code it trips over.
        if std::thread::panicking() {
            self.fail(&Status::internal("the gRPC client failed on this answer"));
        }
    }
}

/// `{:error, code, message}`
pub fn failure<'a>(env: Env<'a>, status: &Status) -> Term<'a> {
    let code = Atom::from_str(env, code_name(code(status))).unwrap_or(error());
    (error(), code, describe(status)).encode(env)
}

fn payload_term(env: Env<'_>, tag: Atom, payload: Payload) -> Term<'_> {
    let buffers: Vec<Term<'_>> = payload.buffers.into_iter().map(|bytes| binary(env, bytes)).collect();
    (tag, binary(env, payload.frame), buffers).encode(env)
}
