//! Shared memory as a worker has it: its own arena, the chunks of others that it reads, and Python's views of both.
//!
//! | module | what it owns |
//! |---|---|
//! | [`mapping`] | mapped chunks |
//! | [`view`] | what Python gets to see of them, and what its end gives back |
//! | [`borrowed`] | the chunks that requests refer to |
//! | [`arena`] | the worker's own memory, where results are written |
//! | [`holders`] | whether somebody else may still write to a result |
//! | [`buffers`] | what travels beside an envelope |
//! | [`replies`] | the way of a reply's buffers, and the reply |
//! | [`reply`] | a reply that the Python package sends |
//!
//! Locks in here are held for bookkeeping only: under none of them is an object of Python made, called or let go of. So
//! no destructor can come back for a lock that its own thread holds, and none is waited for by a thread that the
//! interpreter's lock keeps from running. A forked child touches none of them: another thread, which it does not have,
//! may have held one for ever.

pub mod arena;
pub mod borrowed;
pub mod buffers;
pub mod holders;
pub mod mapping;
pub mod replies;
pub mod reply;
pub mod view;
