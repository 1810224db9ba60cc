//! The NIFs and what their terms stand for.

use crate::beam::{self, Caller, Pins};
use crate::proto::snakepit::Payload;
use crate::wire::{self, Pieces};
use crate::{client, runtime};
use rustler::{Atom, Binary, Encoder, Env, LocalPid, Monitor, NifResult, Reference, Resource, ResourceArc, Term};
use snakepit_core::locks::locked;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::transport::Channel;

rustler::atoms! { serving, not_serving, too_large }

struct ChannelHandle(Channel);

// It is only ever cloned, which cannot leave it half done.
impl std::panic::RefUnwindSafe for ChannelHandle {}

#[rustler::resource_impl]
impl Resource for ChannelHandle {}

/// A running call. Watches its caller: when that dies, the call is dropped, which tells the worker.
#[derive(Default)]
struct Call {
    abort: OnceLock<AbortHandle>,
    aborted: AtomicBool,
    /// The next item of a stream is wanted.
    more: Notify,
    turn: Mutex<Turn>,
}

/// A stream as its reader holds it: dropped when nobody can ask for the next item any more.
struct Reading(ResourceArc<Call>);

#[rustler::resource_impl]
impl Resource for Reading {}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The caller that waits for an answer, or how a stream ended.
#[derive(Default)]
enum Turn {
    /// Nobody asked for anything.
    #[default]
    Idle,
    Asked(Caller),
    /// With this failure, or at its end.
    Ended(Option<Status>),
}

#[rustler::resource_impl]
impl Resource for Call {
    fn down<'a>(&'a self, _: Env<'a>, _: LocalPid, _: Monitor) {
        self.abort();
    }
}

impl Call {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        locked(&self.turn)
    }

    /// Hands an item to whoever asked; false if nobody is there to read it.
    fn item(&self, payload: Payload) -> bool {
        let turn = std::mem::take(&mut *self.turn());
        matches!(turn, Turn::Asked(caller) if caller.item(payload))
    }

    /// Answers whoever asked, or asks next, how the stream ended.
    fn end(&self, failure: Option<Status>) {
        let turn = std::mem::replace(&mut *self.turn(), Turn::Ended(failure.clone()));
        if let Turn::Asked(caller) = turn {
            match failure {
                Some(status) => caller.fail(&status),
                None => caller.done(),
            };
        }
    }

    /// Hands its one answer to whoever waits for it.
    fn answer(&self, answer: Result<Payload, Status>) {
        let turn = std::mem::take(&mut *self.turn());
        if let Turn::Asked(caller) = turn {
            match answer {
                Ok(payload) => caller.answer(payload),
                Err(status) => caller.fail(&status),
            };
        }
    }

    /// Nobody waits any more: false if an answer was sent, or is about to be.
    fn withdraw(&self) -> bool {
        let turn = std::mem::take(&mut *self.turn());
        self.abort();
        matches!(turn, Turn::Asked(_))
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        if let Some(task) = self.abort.get() {
            task.abort();
        }
    }

    /// Runs `work` until it ends, is aborted or its caller dies.
    fn start<W>(env: Env<'_>, work: impl FnOnce(ResourceArc<Self>) -> W) -> Result<ResourceArc<Self>, String>
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let runtime = runtime::get()?;
        let call = ResourceArc::new(Self::default());
        env.monitor(&call, &env.pid());
        // The work holds the call, so that the monitor lasts as long as the work.
        let task = runtime.spawn(work(call.clone()));
        let _ = call.abort.set(task.abort_handle());
        // A caller on a dirty scheduler can die before the line above.
        if call.aborted.load(Ordering::SeqCst) {
            call.abort();
        }
        Ok(call)
    }
}

/// Ends a call whose work panicked: its caller must not wait for ever.
struct Ending(ResourceArc<Call>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Some(Status::internal("the gRPC client failed on this answer")));
        }
    }
}

fn deadline(timeout_ms: u64) -> Option<Duration> {
    (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms))
}

fn pieces(frame: Binary<'_>, buffers: Vec<Binary<'_>>) -> Result<Pieces, wire::TooLarge> {
    let mut pins = Pins::default();
    Pieces::payload(pins.bytes(frame), buffers.into_iter().map(|buffer| pins.bytes(buffer)).collect())
}

#[rustler::nif]
fn connect(target: String) -> Result<ResourceArc<ChannelHandle>, String> {
    let _context = runtime::get()?.enter();
    Ok(ResourceArc::new(ChannelHandle(client::connect(&target)?)))
}

#[rustler::nif]
fn call_few<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    reference: Reference<'a>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    start_call(env, &channel, reference, frame, buffers, timeout_ms)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn call_dirty<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    reference: Reference<'a>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    start_call(env, &channel, reference, frame, buffers, timeout_ms)
}

fn start_call<'a>(
    env: Env<'a>,
    channel: &ChannelHandle,
    reference: Reference<'a>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    let Ok(request) = pieces(frame, buffers) else { return Ok(env.error_tuple(too_large())) };
    let (channel, caller) = (channel.0.clone(), Caller::new(env, reference));
    let started = Call::start(env, |call| {
        *call.turn() = Turn::Asked(caller);
        async move {
            let call = Ending(call);
            call.0.answer(client::call(channel, request, deadline(timeout_ms)).await);
        }
    });
    Ok(match started {
        Ok(call) => (beam::ok(), call).encode(env),
        Err(reason) => env.error_tuple(reason),
    })
}

#[rustler::nif]
fn stream_few<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    start_stream(env, &channel, frame, buffers, timeout_ms)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn stream_dirty<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    start_stream(env, &channel, frame, buffers, timeout_ms)
}

fn start_stream<'a>(
    env: Env<'a>,
    channel: &ChannelHandle,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    let Ok(request) = pieces(frame, buffers) else { return Ok(env.error_tuple(too_large())) };
    let channel = channel.0.clone();
    let started = Call::start(env, |call| async move {
        let call = Ending(call);
        let timeout = deadline(timeout_ms);
        let work = async {
            let mut items = client::stream(channel, request, timeout).await?;
            loop {
                // Until then the next one stays in the connection's window, and when that is full, with the worker.
                call.0.more.notified().await;
                let payload = items.message().await?;
                if !payload.is_some_and(|payload| call.0.item(payload)) {
                    return Ok(());
                }
            }
        };
        let ended = client::within(timeout, work).await;
        call.0.end(ended.err());
    });
    Ok(match started {
        Ok(call) => (beam::ok(), ResourceArc::new(Reading(call))).encode(env),
        Err(reason) => env.error_tuple(reason),
    })
}

#[rustler::nif]
fn next<'a>(env: Env<'a>, reading: ResourceArc<Reading>, reference: Reference<'a>) -> Term<'a> {
    let call = &reading.0;
    let mut turn = call.turn();
    if let Turn::Ended(failure) = &*turn {
        return failure.as_ref().map_or_else(|| beam::done().to_term(env), |status| beam::failure(env, status));
    }
    *turn = Turn::Asked(Caller::new(env, reference));
    call.more.notify_one();
    beam::ok().to_term(env)
}

#[rustler::nif]
fn cancel(reading: ResourceArc<Reading>) -> Atom {
    reading.0.abort();
    beam::ok()
}

/// Drops a call: false if its answer was sent, or is about to be.
#[rustler::nif]
fn withdraw(call: ResourceArc<Call>) -> bool {
    call.withdraw()
}

/// The same for a stream whose next item was asked for.
#[rustler::nif]
fn withdraw_stream(reading: ResourceArc<Reading>) -> bool {
    reading.0.withdraw()
}

#[rustler::nif]
fn health<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    reference: Reference<'a>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    let (channel, caller) = (channel.0.clone(), Caller::new(env, reference));
    let started = Call::start(env, |call| async move {
        let _call = call;
        match client::is_serving(channel, deadline(timeout_ms)).await {
            Ok(serves) => caller.value(if serves { serving() } else { not_serving() }),
            Err(status) => caller.fail(&status),
        };
    });
    Ok(match started {
        Ok(_) => beam::ok().to_term(env),
        Err(reason) => env.error_tuple(reason),
    })
}

rustler::init!("Elixir.Snakepit.Grpc.Native");
