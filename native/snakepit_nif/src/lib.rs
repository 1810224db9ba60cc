//! Snakepit's main NIF library: each function decodes its arguments, calls what does the work, and encodes the answer.
//!
//! Nothing here blocks: locks are held for bookkeeping only, never across a copy or a system call (`lane` says why its own
//! is). A function whose work grows with its input either runs on a dirty scheduler or answers `:dirty` beyond a bound
//! (`bounds.rs`), upon which `Snakepit.Native` calls its dirty twin. The Elixir side of every function, with its contract,
//! is in `lib/snakepit/native.ex`.

mod atoms;
mod bounds;
mod busy_poll;
mod call;
mod cancel;
mod checkout_queue;
mod companion;
mod cost_model;
mod lane;
mod memory;
mod terms;

rustler::init!("Elixir.Snakepit.Native", load = load);

fn load(env: rustler::Env, _info: rustler::Term) -> bool {
    memory::chunk::survive_file_size_limit();
    lane::load(env)
}
