//! The latest call of each lane of a worker: what ran when the worker died, and which call a lane still has to finish.

use snakepit_core::call;
use snakepit_core::locks::locked;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Envelopes up to this size are kept for the correlation id at their end.
const KEPT_ENVELOPE: usize = 4096;

/// A call whose request was made. One per lane, reused by the next call: nothing is allocated for it.
struct Issued {
    id: u64,
    stream: bool,
    /// Whether the request has tokens: of places in it, or of slots that it gives back. Unsent, it takes them with it.
    holds: bool,
    /// Whether its last reply was read.
    read: bool,
    /// It is known that the worker did not get it.
    unsent: bool,
    at: Instant,
    command: String,
    /// The envelope, if it names a caller and is not large; else empty.
    envelope: Vec<u8>,
}

/// A call whose last reply nobody has read.
pub struct Unanswered {
    pub lane: u32,
    pub command: String,
    pub correlation_id: Option<String>,
    pub ms: u64,
}

/// By lane: the latest call that was written for it.
#[derive(Default)]
pub struct IssuedCalls(Mutex<HashMap<u32, Issued>>);

impl IssuedCalls {
    fn calls(&self) -> MutexGuard<'_, HashMap<u32, Issued>> {
        locked(&self.0)
    }

    /// A request was made: its caller may die before it is sent.
    pub fn issue(&self, lane: u32, id: u64, stream: bool, holds: bool, envelope: &[u8]) {
        let at = Instant::now();
        let mut calls = self.calls();
        let issued = calls.entry(lane).or_insert_with(|| Issued {
            id,
            stream,
            holds,
            read: false,
            unsent: false,
            at,
            command: String::new(),
            envelope: Vec::new(),
        });
        (issued.id, issued.stream, issued.holds, issued.at) = (id, stream, holds, at);
        (issued.read, issued.unsent) = (false, false);
        call::command(envelope, &mut issued.command);
        issued.envelope.clear();
        if envelope.len() <= KEPT_ENVELOPE && call::names_caller(envelope) {
            issued.envelope.extend_from_slice(envelope);
        }
    }

    /// The latest call of a lane could not be sent: it never ran.
    pub fn unsent(&self, lane: u32) {
        if let Some(issued) = self.calls().get_mut(&lane) {
            issued.unsent = true;
        }
    }

    /// The calls that run on this worker, or ran when it died.
    pub fn unanswered(&self) -> Vec<Unanswered> {
        let calls = self.calls();
        let open = calls.iter().filter(|(_, issued)| !issued.read && !issued.unsent);
        open.map(|(lane, issued)| Unanswered {
            lane: *lane,
            command: issued.command.clone(),
            correlation_id: call::correlation_id(&issued.envelope),
            ms: issued.at.elapsed().as_millis() as u64,
        })
        .collect()
    }

    /// The last reply of this call was read, and what it grants and returns was taken.
    pub fn finish(&self, id: u64) {
        if let Some(call) = self.calls().values_mut().find(|call| call.id == id) {
            call.read = true;
        }
    }

    /// The latest call of a lane: its id, whether it is a stream, whether its request has tokens, and whether its last
    /// reply was read.
    pub fn last(&self, lane: u32) -> Option<(u64, bool, bool, bool)> {
        self.calls().get(&lane).map(|issued| (issued.id, issued.stream, issued.holds, issued.read))
    }
}
