//! Cuts a worker's output into lines and remembers its end. Bounded whatever the worker writes.

use snakepit_core::companion::{MAX_LINE, MAX_TAIL};

/// Splits a stream of bytes at newlines.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The current line was sent cut; its rest is dropped.
    skipping: bool,
}

impl Lines {
    /// Calls `emit(line, truncated)` for each line that ends in `bytes` or outgrows the limit there.
    pub fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.skipping {
                self.skipping = !ended;
                continue;
            }
            let room = MAX_LINE - self.partial.len();
            let truncated = text.len() > room;
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ended || truncated {
                emit(&self.partial, truncated);
                self.partial.clear();
                self.skipping = !ended;
            }
        }
    }

    /// Emits the last line, if it lacks its newline.
    pub fn finish(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if !self.partial.is_empty() {
            emit(&self.partial, false);
            self.partial.clear();
        }
    }
}

/// The last [`MAX_TAIL`] bytes of a stream.
#[derive(Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// Adds bytes at the end.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(MAX_TAIL)..];
        // Twice the size before it moves, so that each byte moves at most once.
        if self.0.len() + bytes.len() > 2 * MAX_TAIL {
            self.0.drain(..self.0.len() + bytes.len() - MAX_TAIL);
        }
        self.0.extend_from_slice(bytes);
    }

    /// What is remembered.
    pub fn bytes(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(MAX_TAIL)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &[u8], step: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for piece in input.chunks(step) {
            lines.feed(piece, |line, truncated| got.push((line.to_vec(), truncated)));
        }
        lines.finish(|line, truncated| got.push((line.to_vec(), truncated)));
        got
    }

    fn expected(input: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut lines: Vec<_> = input.split(|&byte| byte == b'\n').collect();
        lines.pop_if(|last| last.is_empty());
        lines.iter().map(|line| (line[..line.len().min(MAX_LINE)].to_vec(), line.len() > MAX_LINE)).collect()
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let mut input = b"a\n\nb\xff\xfe\n".to_vec();
        for len in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE] {
            input.extend(std::iter::repeat_n(b'x', len));
            input.push(b'\n');
        }
        for end in [&b""[..], b"no newline", &[b'y'; MAX_LINE + 5]] {
            let input = [&input, end].concat();
            for step in [1, 2, 3, 100, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, input.len()] {
                assert_eq!(cut(&input, step), expected(&input), "step {step}");
            }
        }
    }

    #[test]
    fn the_tail_is_the_end() {
        let input: Vec<u8> = (0..5 * MAX_TAIL).map(|n| (n % 251) as u8).collect();
        for step in [1, 7, MAX_TAIL - 1, MAX_TAIL, MAX_TAIL + 1, input.len()] {
            let mut tail = Tail::default();
            for piece in input.chunks(step) {
                tail.push(piece);
            }
            assert_eq!(tail.bytes(), &input[4 * MAX_TAIL..], "step {step}");
        }
        let mut short = Tail::default();
        short.push(b"short");
        assert_eq!(short.bytes(), b"short");
    }
}
