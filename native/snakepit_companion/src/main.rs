//! The companion: a port program of the BEAM that owns the Python workers.
//!
//! It speaks the messages of [`snakepit_core::companion`] in `{packet, 4}` frames on stdin and stdout. A process that
//! [`watchdog`] watches does everything, in one thread: `PR_SET_PDEATHSIG` fires when the *thread* that forked dies, so it
//! must live as long as the process, and a single one cannot disagree with itself about which process ids are still
//! ours.

mod cgroup;
mod inbox;
mod limits;
mod lines;
mod memory;
mod outbox;
mod reaper;
mod spawn;
mod supervisor;
mod watchdog;
mod worker;

use std::io::IsTerminal;
use std::process::ExitCode;

const USAGE: &str = "\
snakepit_companion starts and watches the Python workers of Snakepit. The Erlang VM runs it as a port and
talks to it in binary on stdin and stdout; there is nothing to do with it by hand.

  snakepit_companion --version   prints its version";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.len() == 1 && args[0] == "--version" {
        println!("snakepit_companion {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if !args.is_empty() || std::io::stdin().is_terminal() || std::io::stdout().is_terminal() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match watchdog::run(supervisor::run) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("snakepit_companion: {error}");
            ExitCode::FAILURE
        }
    }
}
