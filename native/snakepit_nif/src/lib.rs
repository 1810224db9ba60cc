//! Snakepit's main NIF library: each function decodes its arguments, calls what does the work, and encodes the answer.
//!
//! Nothing here blocks: locks are held for bookkeeping only, never across a copy or a system call (`lane.rs` says why its
//! own is), and what may take
//! more than a millisecond either runs on a dirty scheduler or answers `:dirty`, upon which `Snakepit.Native` calls its
//! dirty twin. The Elixir side of every function, with its contract, is in `lib/snakepit/native.ex`.

mod arenas;
mod atoms;
mod busy_poll;
mod calls;
mod cancel;
mod checkout_queue;
mod chunk;
mod companion;
mod cost_model;
mod decode;
mod encode;
mod lane;
mod memory;
mod slot;

rustler::init!("Elixir.Snakepit.Native", load = load);

fn load(env: rustler::Env, _info: rustler::Term) -> bool {
    chunk::survive_file_size_limit();
    lane::load(env)
}
