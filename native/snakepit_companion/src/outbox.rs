//! Events on their way to the VM. It may read slowly or not at all; what waits for it here is bounded.

use nix::errno::Errno;
use snakepit_core::companion::{Event, encode};
use std::os::fd::AsFd;

/// From this many waiting bytes on, lines of output are dropped.
const FULL: usize = 1 << 20;

/// Frames that were not written yet.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Outbox {
    /// No room for what may be dropped.
    pub fn is_full(&self) -> bool {
        self.waiting() >= FULL
    }

    /// Room enough to say how much was dropped.
    pub fn has_eased(&self) -> bool {
        self.waiting() < FULL / 2
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Adds an event, full or not: all but lines are few, and none may be lost.
    pub fn push(&mut self, event: &Event) {
        let frame = encode(event);
        self.bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(&frame);
    }

    /// Writes what the non-blocking `to` takes.
    pub fn flush(&mut self, to: impl AsFd) -> Result<(), Errno> {
        while !self.is_empty() {
            match nix::unistd::write(&to, &self.bytes[self.start..]) {
                Ok(written) => self.start += written,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        if self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
            // After a flood or a long silence of the VM.
            self.bytes.shrink_to(2 * FULL);
        }
        Ok(())
    }
}
