//! Cuts what arrives on stdin into frames.

use snakepit_core::companion::MAX_FRAME;

/// Bytes that arrived and are not yet a whole frame.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

/// A length prefix over the limit: where the next frame begins is no longer known.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl Inbox {
    /// Adds bytes as they were read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let rest = &self.bytes[self.start..];
        let Some((prefix, body)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_FRAME {
            return Err(TooLong(len));
        }
        if body.len() < len {
            return Ok(None);
        }
        let from = self.start + 4;
        self.start = from + len;
        Ok(Some(&self.bytes[from..from + len]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let sent: [&[u8]; 4] = [b"one", b"", b"three", &[7; 300]];
        let mut wire = Vec::new();
        for frame in sent {
            wire.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            wire.extend_from_slice(frame);
        }
        for step in 1..wire.len() {
            let (mut inbox, mut got) = (Inbox::default(), Vec::new());
            for piece in wire.chunks(step) {
                inbox.extend(piece);
                while let Some(frame) = inbox.next_frame().unwrap() {
                    got.push(frame.to_vec());
                }
            }
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_body_comes() {
        let mut inbox = Inbox::default();
        inbox.extend(&(MAX_FRAME as u32 + 1).to_be_bytes());
        assert_eq!(inbox.next_frame(), Err(TooLong(MAX_FRAME + 1)));
    }
}
