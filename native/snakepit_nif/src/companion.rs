//! Frames to and from the companion: `postcard`, of message types both sides share.

use crate::atoms;
use rustler::{Binary, Encoder, Env, NewBinary, NifMap, Term};
use snakepit_core::companion::{self, Event, Exit, Request, Shortage, Stream};

fn frame<'a>(env: Env<'a>, request: &Request) -> Term<'a> {
    NewBinary::from_slice(env, &companion::encode(request)).into()
}

/// As `limits` of `Snakepit.Pool.Options`.
#[derive(NifMap)]
struct Limits {
    memory: Option<u64>,
    open_files: Option<u64>,
    nice: Option<i8>,
    cpus: Option<Vec<u16>>,
}

// One argument per field of the request.
#[expect(clippy::too_many_arguments)]
#[rustler::nif]
fn companion_start<'a>(
    env: Env<'a>,
    id: u64,
    program: String,
    arguments: Vec<String>,
    set: Vec<(String, String)>,
    unset_env: Vec<String>,
    cwd: Option<String>,
    limits: Limits,
) -> Term<'a> {
    let limits = companion::Limits {
        memory: limits.memory,
        open_files: limits.open_files,
        nice: limits.nice,
        cpus: limits.cpus.unwrap_or_default(),
    };
    frame(env, &Request::Start { id, program, args: arguments, env: set, unset_env, cwd, limits })
}

#[rustler::nif]
fn companion_stop<'a>(env: Env<'a>, id: u64, grace_ms: u32) -> Term<'a> {
    frame(env, &Request::Stop { id, grace_ms })
}

#[rustler::nif]
fn companion_kill<'a>(env: Env<'a>, id: u64) -> Term<'a> {
    frame(env, &Request::Kill { id })
}

#[rustler::nif]
fn companion_event<'a>(env: Env<'a>, bytes: Binary<'a>) -> Term<'a> {
    let text = |bytes: &[u8]| -> Term<'a> { NewBinary::from_slice(env, bytes).into() };
    match companion::decode::<Event>(bytes.as_slice()) {
        Ok(Event::Started { id, pid }) => (atoms::started(), id, pid).encode(env),
        Ok(Event::StartFailed { id, reason }) => (atoms::start_failed(), id, reason).encode(env),
        Ok(Event::Output { id, stream, line, truncated }) => {
            let stream = if stream == Stream::Stdout { atoms::stdout() } else { atoms::stderr() };
            (atoms::output(), id, stream, text(&line), truncated).encode(env)
        }
        Ok(Event::Exited { id, status, shortage, stderr_tail }) => {
            let status = match (status, shortage) {
                (Exit::Code(n), _) => (atoms::status(), n).encode(env),
                (Exit::Signal(n), None) => (atoms::signal(), n).encode(env),
                (Exit::Signal(n), Some(Shortage::Shared)) => (atoms::signal(), n, atoms::out_of_memory()).encode(env),
                (Exit::Signal(n), Some(Shortage::Limit(bytes))) => {
                    (atoms::signal(), n, (atoms::out_of_memory(), bytes)).encode(env)
                }
            };
            (atoms::exited(), id, status, text(&stderr_tail)).encode(env)
        }
        Ok(Event::Dropped { id, lines }) => (atoms::dropped(), id, lines).encode(env),
        Ok(Event::BadFrame { reason }) => (atoms::bad_frame(), reason).encode(env),
        Err(error) => (atoms::bad_frame(), error.to_string()).encode(env),
    }
}
