//! The one place atomics come from, so that loom can replace them.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, Ordering};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicPtr, Ordering};
