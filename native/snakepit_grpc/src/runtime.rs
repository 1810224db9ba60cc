//! The threads that do the I/O: one runtime, made when it is first needed, there until the VM ends.

use bytes::Bytes;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();

/// The runtime, or why the system would not give us threads.
pub fn get() -> Result<&'static Runtime, String> {
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(2)
            .thread_name("snakepit_grpc")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the I/O threads: {error}"))
    });
    runtime.as_ref().map_err(Clone::clone)
}

/// Drops `bytes` on another thread.
pub fn drop_later(bytes: Bytes) {
    if let Ok(runtime) = get() {
        runtime.spawn_blocking(move || drop(bytes));
    }
}
