//! Cuts a worker's output into lines and remembers its end. Bounded whatever the worker writes.

use snakepit_core::companion::{MAX_LINE, MAX_TAIL};
use std::time::{Duration, Instant};

/// An unfinished line is sent after so long a silence.
const SILENCE: Duration = Duration::from_millis(250);

/// Or when it began so long ago, and bytes of it keep coming.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// At most one overwritten or unfinished line in so long: a progress bar may draw itself thousands of times a second.
const PACE: Duration = Duration::from_millis(250);

/// Splits a stream of bytes into lines.
///
/// A newline, or a carriage return and a newline, ends a line, which is always sent. A carriage return alone overwrites
/// what was written so far: that is sent as well, but of many in a short time only the newest. Text sent before its
/// end came is not sent again with the rest of its line.
#[derive(Default)]
pub struct Lines {
    /// The part of the current line that is not sent yet.
    text: Vec<u8>,
    /// The current line outgrew the limit; the rest of it is dropped.
    cut: bool,
    /// The last byte was a carriage return: with a newline it would be one end.
    returned: bool,
    /// Something of the current line was sent or overwritten: if nothing else comes, its end is no empty line.
    begun: bool,
    /// The text overwritten last, while it is not sent yet.
    overwritten: Option<(Vec<u8>, bool)>,
    /// When the next of these, or of unfinished lines, may be sent.
    next: Option<Instant>,
    /// When the first and the last byte of `text` came.
    came: Option<(Instant, Instant)>,
}

impl Lines {
    /// Takes bytes that came now. Calls `emit(line, truncated)` for each line that is to be sent.
    pub fn feed(&mut self, bytes: &[u8], now: Instant, mut emit: impl FnMut(&[u8], bool)) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match piece.split_last() {
                Some((&end @ (b'\n' | b'\r'), text)) => (text, Some(end)),
                _ => (piece, None),
            };
            if self.returned && !(text.is_empty() && end == Some(b'\n')) {
                self.overwrite(now, &mut emit);
            }
            self.returned = end == Some(b'\r');
            self.add(text, now);
            if end == Some(b'\n') {
                self.end(&mut emit);
            }
        }
        self.tick(now, emit);
    }

    /// Tells what is due: call it at [`Self::deadline`].
    pub fn tick(&mut self, now: Instant, mut emit: impl FnMut(&[u8], bool)) {
        if self.text_due().is_some_and(|at| at <= now) {
            self.overwritten = None;
            emit(&self.text, self.cut);
            self.clear_text();
            self.begun = true;
            self.next = Some(now + PACE);
        }
        if self.next.is_none_or(|at| at <= now)
            && let Some((text, cut)) = self.overwritten.take()
        {
            emit(&text, cut);
            self.next = Some(now + PACE);
        }
    }

    /// When [`Self::tick`] has something to tell.
    pub fn deadline(&self) -> Option<Instant> {
        let overwritten = self.overwritten.as_ref().and(self.next);
        self.text_due().into_iter().chain(overwritten).min()
    }

    /// Tells what has no end: none will come.
    pub fn finish(&mut self, mut emit: impl FnMut(&[u8], bool)) {
        if !self.text.is_empty() || self.overwritten.is_some() {
            self.end(&mut emit);
        }
    }

    fn text_due(&self) -> Option<Instant> {
        let (first, last) = self.came?;
        self.next.max(Some((last + SILENCE).min(first + MAX_DELAY)))
    }

    fn add(&mut self, text: &[u8], now: Instant) {
        let fits = if self.cut { 0 } else { text.len().min(MAX_LINE - self.text.len()) };
        self.cut |= text.len() > fits;
        if fits > 0 {
            self.text.extend_from_slice(&text[..fits]);
            self.came = Some((self.came.map_or(now, |(first, _)| first), now));
        }
    }

    fn overwrite(&mut self, now: Instant, emit: &mut impl FnMut(&[u8], bool)) {
        if self.text.is_empty() {
            self.cut = false;
            return;
        }
        self.overwritten = Some((std::mem::take(&mut self.text), std::mem::take(&mut self.cut)));
        self.clear_text();
        self.begun = true;
        self.tick(now, emit);
    }

    fn end(&mut self, emit: &mut impl FnMut(&[u8], bool)) {
        let overwritten = self.overwritten.take();
        if !self.text.is_empty() || !self.begun {
            emit(&self.text, self.cut);
        } else if let Some((text, cut)) = overwritten {
            emit(&text, cut);
        }
        self.clear_text();
        (self.cut, self.begun, self.returned) = (false, false, false);
    }

    fn clear_text(&mut self) {
        self.text.clear();
        self.came = None;
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

    /// The remembered bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(MAX_TAIL)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owned(got: &mut Vec<(Vec<u8>, bool)>) -> impl FnMut(&[u8], bool) {
        |line, truncated| got.push((line.to_vec(), truncated))
    }

    /// All of it at one moment.
    fn cut(input: &[u8], step: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut lines, mut got, now) = (Lines::default(), Vec::new(), Instant::now());
        for piece in input.chunks(step) {
            lines.feed(piece, now, owned(&mut got));
        }
        lines.finish(owned(&mut got));
        got
    }

    /// The lines of input that comes at once: each as it stood at its end; before them the text overwritten first.
    fn expected(input: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut lines: Vec<_> = input.split(|&byte| byte == b'\n').collect();
        let last = lines.pop_if(|last| last.is_empty()).is_none();
        let (mut sent, mut paced, count) = (Vec::new(), false, lines.len());
        for (number, line) in lines.into_iter().enumerate() {
            let ended = !(last && number + 1 == count);
            let line = if ended { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
            let mut states: Vec<_> = line.split(|&byte| byte == b'\r').collect();
            let rest = states.pop().unwrap_or_default();
            let rest = if !ended && rest.is_empty() { states.pop().unwrap_or_default() } else { rest };
            states.retain(|state| !state.is_empty());
            if !paced && !states.is_empty() {
                paced = true;
                sent.push(states.remove(0));
                if rest.is_empty() && states.is_empty() {
                    continue;
                }
            }
            let shown = if rest.is_empty() { states.pop().unwrap_or(rest) } else { rest };
            if ended || !shown.is_empty() {
                sent.push(shown);
            }
        }
        sent.iter().map(|line| (line[..line.len().min(MAX_LINE)].to_vec(), line.len() > MAX_LINE)).collect()
    }

    #[test]
    fn lines_do_not_depend_on_how_the_bytes_arrive() {
        let mut input = b"a\n\nb\xff\xfe\nc\r\n\r\nd\r1\r2\r\r\n\re\n".to_vec();
        for len in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE] {
            for end in [&b"\n"[..], b"\r", b"\r\n"] {
                input.extend(std::iter::repeat_n(b'x', len));
                input.extend_from_slice(end);
            }
        }
        for end in [&b""[..], b"no newline", b"overwritten\r", &[b'y'; MAX_LINE + 5]] {
            let input = [&input, end].concat();
            for step in [1, 2, 3, 100, MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, input.len()] {
                assert_eq!(cut(&input, step), expected(&input), "step {step}");
            }
        }
    }

    /// Pieces of output, and after each so many milliseconds.
    fn timed(pattern: &'static str) -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
        let piece = pattern.prop_map(String::into_bytes);
        proptest::collection::vec((piece, prop_oneof![Just(0), 0..20_u64, 200..1500_u64]), 0..40)
    }

    /// Feeds them as the supervisor does: whatever is due is sent before what comes next.
    fn over_time(pieces: &[(Vec<u8>, u64)]) -> Vec<(Duration, Vec<u8>)> {
        let (mut lines, mut got, start) = (Lines::default(), Vec::new(), Instant::now());
        let mut now = start;
        for (bytes, wait) in pieces {
            lines.feed(bytes, now, |line, _| got.push((now - start, line.to_vec())));
            let until = now + Duration::from_millis(*wait);
            while let Some(at) = lines.deadline().filter(|&at| at <= until) {
                assert!(at > now, "it is due and was not sent");
                now = at;
                lines.tick(now, |line, _| got.push((now - start, line.to_vec())));
            }
            now = until;
        }
        lines.finish(|line, _| got.push((now - start, line.to_vec())));
        got
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_lines_of_the_model(input in "[ab\n\r]{0,60}", step in 1..9_usize) {
            prop_assert_eq!(cut(input.as_bytes(), step), expected(input.as_bytes()));
        }

        #[test]
        fn without_returns_nothing_is_lost_or_sent_twice(pieces in timed("[ab\n]{0,6}")) {
            let sent = over_time(&pieces).into_iter().flat_map(|(_, line)| line);
            let written = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).filter(|&byte| byte != b'\n');
            prop_assert!(sent.eq(written));
        }

        #[test]
        fn lines_with_an_end_are_all_sent(pieces in timed("[ab\r\n]{0,6}")) {
            let written: Vec<u8> = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let sent: Vec<u8> = over_time(&pieces).into_iter().flat_map(|(_, line)| line).collect();
            // The last text of each line, in this order; part of it may have been sent earlier.
            let mut rest = sent.as_slice();
            for line in written.split(|&byte| byte == b'\n') {
                let shown = line.split(|&byte| byte == b'\r').rfind(|state| !state.is_empty()).unwrap_or_default();
                let at = rest.windows(shown.len().max(1)).position(|part| part == shown);
                prop_assert!(shown.is_empty() || at.is_some(), "{:?} of {:?}", shown, sent);
                rest = &rest[at.map_or(0, |at| at + shown.len())..];
            }
        }

        #[test]
        fn what_overwrites_itself_is_sent_at_a_slow_pace(pieces in timed("[a\r]{0,6}")) {
            let sent = over_time(&pieces);
            let end = pieces.iter().map(|(_, wait)| Duration::from_millis(*wait)).sum();
            // But for what the end of the stream brings.
            let times: Vec<_> = sent.iter().map(|(at, _)| *at).filter(|&at| at < end).collect();
            prop_assert!(times.windows(2).all(|two| two[1] - two[0] >= PACE), "{:?}", times);
        }
    }

    #[test]
    fn a_line_without_an_end_is_sent_after_a_moment_and_once() {
        let (mut lines, mut got, start) = (Lines::default(), Vec::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        lines.feed(b"Loading", at(0), owned(&mut got));
        assert_eq!(lines.deadline(), Some(at(250)));
        lines.tick(at(249), owned(&mut got));
        assert!(got.is_empty());
        lines.tick(at(250), owned(&mut got));
        assert_eq!(got, [(b"Loading".to_vec(), false)]);
        assert_eq!(lines.deadline(), None);
        lines.feed(b"\nnext\n", at(300), owned(&mut got));
        assert_eq!(got[1..], [(b"next".to_vec(), false)]);
        // Dots that keep coming are not held back for ever.
        for ms in (400..1400).step_by(100) {
            lines.feed(b".", at(ms), owned(&mut got));
        }
        lines.tick(lines.deadline().unwrap(), owned(&mut got));
        assert_eq!(got[2..], [(b"..........".to_vec(), false)]);
    }

    #[test]
    fn a_progress_bar_is_sent_four_times_a_second_and_at_its_end() {
        let (mut lines, mut got, start) = (Lines::default(), Vec::new(), Instant::now());
        for n in 0..2000 {
            lines.feed(format!("\r{n}").as_bytes(), start + Duration::from_millis(n), owned(&mut got));
        }
        lines.feed(b"\n", start + Duration::from_millis(2000), owned(&mut got));
        let numbers: Vec<u64> = got.iter().map(|(line, _)| String::from_utf8_lossy(line).parse().unwrap()).collect();
        assert_eq!(numbers, [0, 250, 500, 750, 1000, 1250, 1500, 1750, 1999]);
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
