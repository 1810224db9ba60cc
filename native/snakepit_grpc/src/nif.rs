//! The NIFs and what their terms stand for.

use crate::beam::{self, Caller, Pins};
use crate::wire::{self, Pieces};
use crate::{client, runtime};
use rustler::{Atom, Binary, Encoder, Env, LocalPid, Monitor, NifResult, Reference, Resource, ResourceArc, Term};
use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
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
    /// The caller wants the next item of its stream.
    more: Notify,
}

#[rustler::resource_impl]
impl Resource for Call {
    fn down<'a>(&'a self, _: Env<'a>, _: LocalPid, _: Monitor) {
        self.abort();
    }
}

impl Call {
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
    let started = Call::start(env, |call| async move {
        let _call = call;
        match client::call(channel, request, deadline(timeout_ms)).await {
            Ok(payload) => caller.answer(payload),
            Err(status) => caller.fail(&status),
        };
    });
    Ok(match started {
        Ok(_) => beam::ok().to_term(env),
        Err(reason) => env.error_tuple(reason),
    })
}

#[rustler::nif]
fn stream_few<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    reference: Reference<'a>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    start_stream(env, &channel, reference, frame, buffers, timeout_ms)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn stream_dirty<'a>(
    env: Env<'a>,
    channel: ResourceArc<ChannelHandle>,
    reference: Reference<'a>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    start_stream(env, &channel, reference, frame, buffers, timeout_ms)
}

fn start_stream<'a>(
    env: Env<'a>,
    channel: &ChannelHandle,
    reference: Reference<'a>,
    frame: Binary<'a>,
    buffers: Vec<Binary<'a>>,
    timeout_ms: u64,
) -> NifResult<Term<'a>> {
    let Ok(request) = pieces(frame, buffers) else { return Ok(env.error_tuple(too_large())) };
    let (channel, caller) = (channel.0.clone(), Caller::new(env, reference));
    let started = Call::start(env, |call| async move {
        let timeout = deadline(timeout_ms);
        let work = async {
            let mut items = client::stream(channel, request, timeout).await?;
            while let Some(payload) = items.message().await? {
                if !caller.item(payload) {
                    return Ok(false);
                }
                // The next one stays in the connection's window, and when that is full, with the worker.
                call.more.notified().await;
            }
            Ok(true)
        };
        match client::within(timeout, work).await {
            Ok(true) => caller.done(),
            Ok(false) => false,
            Err(status) => caller.fail(&status),
        };
    });
    Ok(match started {
        Ok(call) => (beam::ok(), call).encode(env),
        Err(reason) => env.error_tuple(reason),
    })
}

#[rustler::nif]
fn next(call: ResourceArc<Call>) -> Atom {
    call.more.notify_one();
    beam::ok()
}

#[rustler::nif]
fn cancel(call: ResourceArc<Call>) -> Atom {
    call.abort();
    beam::ok()
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
