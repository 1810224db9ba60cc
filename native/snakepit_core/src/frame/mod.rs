//! Lane frames (`native/PROTOCOL.md`): their kinds, flags and headers, written and checked. No other Rust module has these
//! numbers, and [`LAYOUT`] is what the tests of the other languages compare theirs with.

mod layout;

pub use layout::{LAYOUT, Section};

/// How a frame's buffers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    Inline = 0,
    ZeroCopy = 1,
    Grpc = 2,
}

impl Way {
    /// The way with this number, if there is one.
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Inline),
            1 => Some(Self::ZeroCopy),
            2 => Some(Self::Grpc),
            _ => None,
        }
    }
}

/// Bytes of either header.
pub const HEADER: usize = 32;
/// Bytes of a table entry of the way zero_copy.
pub const PLACE: usize = 32;
/// Bytes of a table entry of the other ways, which is a length.
pub const LENGTH: usize = 8;
/// Bytes of a token.
pub const TOKEN: usize = 8;
/// Buffers of the way inline start at multiples of this, counted from the header.
pub const INLINE_ALIGN: usize = 64;
/// One frame refers to at most this many buffers.
pub const MAX_BUFFERS: usize = 65_536;
/// The most bytes of a frame, its length not counted: the BEAM's sockets take no longer one.
pub const MAX_FRAME: usize = (1 << 31) - 2;
/// Request flag: the reply's way is forced.
pub const FLAG_FORCED: u8 = 1;
/// Request flag: the caller takes a stream.
pub const FLAG_STREAM: u8 = 2;
/// Request flag: the next call may come at once; the worker does well to spin for it.
pub const FLAG_SPIN: u8 = 4;
/// Request flag: the caller of a stream wants what the generator returns at its end.
pub const FLAG_RETURN: u8 = 8;
/// Reply flag: a warmer or larger arena would have let this reply go by zero_copy.
pub const FLAG_WANTED_MEMORY: u8 = 1;
/// Reply flag: no buffer was copied, all lay in the arena.
pub const FLAG_IN_PLACE: u8 = 2;
/// All flags of a reply. The bits above are free for its reader.
pub const REPLY_FLAGS: u8 = FLAG_WANTED_MEMORY | FLAG_IN_PLACE;

/// A wait as a byte of a reply's header: 0 is less than a microsecond; from 1 on there are eight to a doubling.
pub fn wait_code(ns: u64) -> u8 {
    let us = ns / 1000;
    let Some(k) = us.checked_ilog2() else { return 0 };
    let eighths = ((us << 3) >> k) & 7;
    u8::try_from(1 + 8 * u64::from(k) + eighths).unwrap_or(u8::MAX)
}

/// The least nanoseconds of such a byte.
pub fn wait_ns(code: u8) -> u64 {
    let Some(code) = code.checked_sub(1) else { return 0 };
    (u64::from(code % 8 + 8) << (code / 8) >> 3) * 1000
}

/// Bytes of a frame's table entries.
pub const fn entry(way: Way) -> usize {
    match way {
        Way::ZeroCopy => PLACE,
        Way::Inline | Way::Grpc => LENGTH,
    }
}

/// Where a buffer lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub chunk: u64,
    pub offset: u64,
    pub len: u64,
    pub token: u64,
}

impl Place {
    fn write(&self, out: &mut Vec<u8>) {
        for n in [self.chunk, self.offset, self.len, self.token] {
            out.extend_from_slice(&n.to_le_bytes());
        }
    }
}

/// The buffers of a frame, as its table lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// Byte ranges of the frame itself.
    Inline(Vec<std::ops::Range<usize>>),
    ZeroCopy(Vec<Place>),
    /// Lengths of the buffers that came beside the frame.
    Grpc(Vec<u64>),
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ask {
    Call = 1,
    /// gRPC only: the reply that waits for it.
    Fetch = 2,
    Synchronize = 3,
}

impl Ask {
    /// The kind with this number, if there is one.
    pub fn from_u8(n: u8) -> Option<Self> {
        [Self::Call, Self::Fetch, Self::Synchronize].into_iter().find(|ask| *ask as u8 == n)
    }
}

/// The kind of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Result = 1,
    Error = 2,
    /// One item of a stream.
    Item = 3,
    /// The end of a stream.
    End = 4,
    /// It waits to be fetched by gRPC.
    Fetch = 5,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub fn from_u8(n: u8) -> Option<Self> {
        [Self::Result, Self::Error, Self::Item, Self::End, Self::Fetch].into_iter().find(|kind| *kind as u8 == n)
    }

    /// Whether the call has no further reply after one of this kind.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Result | Self::Error | Self::End)
    }
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: Ask,
    pub way: Way,
    pub reply_mask: u8,
    pub flags: u8,
    pub call_id: u64,
    pub timeout_ms: u32,
    pub lane: u16,
    /// The core that the caller runs on, counted from 1; 0 if it is not known, or does not matter.
    pub core: u16,
}

impl Request {
    /// Appends header, table and tokens; the envelope follows them. For the way inline, `lens` are the buffers'
    /// lengths; for zero_copy, `places` are used instead.
    pub fn write(&self, out: &mut Vec<u8>, envelope: usize, lens: &[u64], places: &[Place], freed: &[u64]) {
        let count = if self.way == Way::ZeroCopy { places.len() } else { lens.len() };
        out.extend_from_slice(&[self.kind as u8, self.way as u8, self.reply_mask, self.flags]);
        out.extend_from_slice(&(envelope as u32).to_le_bytes());
        out.extend_from_slice(&self.call_id.to_le_bytes());
        // Two numbers of two bytes.
        let lane = u32::from(self.lane) | u32::from(self.core) << 16;
        for n in [self.timeout_ms, count as u32, freed.len() as u32, lane] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        if self.way == Way::ZeroCopy {
            places.iter().for_each(|place| place.write(out));
        } else {
            lens.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        freed.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }
}

/// A request's header as a worker reads it. Nothing in it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub kind: u8,
    pub way: u8,
    pub reply_mask: u8,
    pub flags: u8,
    pub envelope: usize,
    pub call_id: u64,
    pub timeout_ms: u32,
    pub buffers: usize,
    pub freed: usize,
    pub lane: u16,
    pub core: u16,
}

impl RequestHead {
    /// `None` where the bytes are fewer than a header.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER>()?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Some(Self {
            kind: head[0],
            way: head[1],
            reply_mask: head[2],
            flags: head[3],
            envelope: number(4) as usize,
            call_id: u64::from(number(8)) | u64::from(number(12)) << 32,
            timeout_ms: number(16),
            buffers: number(20) as usize,
            freed: number(24) as usize,
            lane: u16::from_le_bytes([head[28], head[29]]),
            core: u16::from_le_bytes([head[30], head[31]]),
        })
    }

    /// Reads what follows the header in the same frame, checking every length and count against it.
    pub fn body(&self, frame: &[u8]) -> Result<RequestBody, BadFrame> {
        let mut c = Cursor { bytes: frame, at: 0 };
        c.take(HEADER)?;
        let way = Way::from_u8(self.way).ok_or(BadFrame("unknown way"))?;
        let (table, freed, envelope) = c.body(way, self.buffers, self.freed, self.envelope)?;
        Ok(RequestBody { table, freed, envelope })
    }
}

/// The part of a request after its header. Ranges refer to the frame it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestBody {
    pub table: Table,
    pub freed: Vec<u64>,
    pub envelope: std::ops::Range<usize>,
}

/// The zero bytes that bring `at` to the next inline buffer's start.
pub fn padding(at: usize) -> usize {
    at.wrapping_neg() % INLINE_ALIGN
}

/// A reply, taken apart. Ranges refer to the frame it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub kind: Kind,
    pub way: Way,
    /// Some of [`REPLY_FLAGS`].
    pub flags: u8,
    /// How long the worker's lane waited for the interpreter's lock before it could look at the request; see [`wait_ns`].
    pub gil: u8,
    pub call_id: u64,
    pub tool_ns: u64,
    pub released: Vec<u64>,
    pub envelope: std::ops::Range<usize>,
    pub table: Table,
}

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame(pub &'static str);

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadFrame> {
        let end = self.at.checked_add(len).ok_or(BadFrame("a length overflows"))?;
        let part = self.bytes.get(self.at..end).ok_or(BadFrame("the frame is shorter than its header says"))?;
        self.at = end;
        Ok(part)
    }

    fn u32(&mut self) -> Result<u32, BadFrame> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64, BadFrame> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    /// Refuses a count before anything is allocated for it.
    fn room_for(&self, count: usize, each: usize) -> Result<(), BadFrame> {
        match count.checked_mul(each) {
            Some(need) if need <= self.bytes.len() - self.at => Ok(()),
            _ => Err(BadFrame("a count is larger than the frame")),
        }
    }

    /// All that follows a header: table, tokens, envelope, and the buffers of the way inline.
    #[inline(always)]
    fn body(
        &mut self,
        way: Way,
        buffers: usize,
        tokens: usize,
        envelope: usize,
    ) -> Result<(Table, Vec<u64>, std::ops::Range<usize>), BadFrame> {
        if buffers > MAX_BUFFERS {
            return Err(BadFrame("too many buffers"));
        }
        self.room_for(buffers, entry(way))?;
        let mut lens = Vec::new();
        let mut places = Vec::new();
        for _ in 0..buffers {
            if way == Way::ZeroCopy {
                places.push(Place { chunk: self.u64()?, offset: self.u64()?, len: self.u64()?, token: self.u64()? });
            } else {
                lens.push(self.u64()?);
            }
        }
        self.room_for(tokens, TOKEN)?;
        let tokens = (0..tokens).map(|_| self.u64()).collect::<Result<_, _>>()?;
        let start = self.at;
        self.take(envelope)?;
        let envelope = start..self.at;
        let table = match way {
            Way::ZeroCopy => Table::ZeroCopy(places),
            Way::Grpc => Table::Grpc(lens),
            Way::Inline => {
                let mut ranges = Vec::with_capacity(lens.len());
                for len in lens {
                    self.take(padding(self.at))?;
                    let start = self.at;
                    self.take(usize::try_from(len).map_err(|_| BadFrame("a length overflows"))?)?;
                    ranges.push(start..self.at);
                }
                Table::Inline(ranges)
            }
        };
        if self.at != self.bytes.len() {
            return Err(BadFrame("bytes after the end of the frame"));
        }
        Ok((table, tokens, envelope))
    }
}

/// The sizes in a reply's header, known before the rest is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub envelope: usize,
    pub buffers: usize,
    pub released: usize,
}

impl Counts {
    /// Reads a whole header; the numbers are not checked against the frame.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER>()?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        Some(Self {
            envelope: number(layout::REPLY_ENVELOPE),
            buffers: number(layout::REPLY_BUFFERS),
            released: number(layout::REPLY_RELEASED),
        })
    }

    /// Where the tokens that a reply of this way releases stand in it; its envelope follows them.
    pub fn released_at(&self, way: Way) -> std::ops::Range<usize> {
        let start = HEADER + self.buffers * entry(way);
        start..start + self.released * TOKEN
    }
}

impl Reply {
    /// Takes the released tokens out of a reply that was written up to its envelope's end, or further.
    pub fn forget_released(written: &mut Vec<u8>) {
        let way = written.get(1).and_then(|way| Way::from_u8(*way));
        let Some((counts, way)) = Counts::read(written).zip(way) else { return };
        written.drain(counts.released_at(way));
        written[layout::REPLY_RELEASED..HEADER].fill(0);
    }

    /// Appends header, table and tokens of a reply; an envelope of this many bytes follows them, and then the buffers of
    /// the way inline. For zero_copy, `places` are used in place of `lens`.
    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    pub fn write_head(
        out: &mut Vec<u8>,
        kind: Kind,
        way: Way,
        flags: u8,
        gil: u8,
        call_id: u64,
        tool_ns: u64,
        envelope: u32,
        lens: &[u64],
        places: &[Place],
        released: &[u64],
    ) {
        let mut head = Self::bare_head(kind, way, gil, envelope, call_id, tool_ns);
        let count = if way == Way::ZeroCopy { places.len() } else { lens.len() };
        head[2] = flags;
        head[layout::REPLY_BUFFERS..layout::REPLY_RELEASED].copy_from_slice(&(count as u32).to_le_bytes());
        head[layout::REPLY_RELEASED..].copy_from_slice(&(released.len() as u32).to_le_bytes());
        out.extend_from_slice(&head);
        if way == Way::ZeroCopy {
            places.iter().for_each(|place| place.write(out));
        } else {
            lens.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        released.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }

    /// The header of a reply that has an envelope and nothing else.
    pub fn bare_head(kind: Kind, way: Way, gil: u8, envelope: u32, call_id: u64, tool_ns: u64) -> [u8; HEADER] {
        let mut head = [0; HEADER];
        (head[0], head[1], head[3]) = (kind as u8, way as u8, gil);
        head[layout::REPLY_ENVELOPE..8].copy_from_slice(&envelope.to_le_bytes());
        head[8..16].copy_from_slice(&call_id.to_le_bytes());
        head[16..layout::REPLY_BUFFERS].copy_from_slice(&tool_ns.to_le_bytes());
        head
    }

    /// Reads a reply, checking every length and count against the frame.
    pub fn read(bytes: &[u8]) -> Result<Self, BadFrame> {
        let mut c = Cursor { bytes, at: 0 };
        let head = c.take(4)?;
        let kind = Kind::from_u8(head[0]).ok_or(BadFrame("unknown kind of reply"))?;
        let way = Way::from_u8(head[1]).ok_or(BadFrame("unknown way"))?;
        let (flags, gil) = (head[2] & REPLY_FLAGS, head[3]);
        let envelope_len = c.u32()? as usize;
        let call_id = c.u64()?;
        let tool_ns = c.u64()?;
        let buffers = c.u32()? as usize;
        let released = c.u32()? as usize;
        let (table, released, envelope) = c.body(way, buffers, released, envelope_len)?;
        Ok(Self { kind, way, flags, gil, call_id, tool_ns, released, envelope, table })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reply written the plain way, as the worker does.
    fn written(kind: u8, way: u8, call_id: u64, bufs: &[Vec<u8>], released: &[u64], envelope: &[u8]) -> Vec<u8> {
        let mut out = vec![kind, way, 0, 0];
        out.extend((envelope.len() as u32).to_le_bytes());
        out.extend(call_id.to_le_bytes());
        out.extend(7u64.to_le_bytes());
        out.extend((bufs.len() as u32).to_le_bytes());
        out.extend((released.len() as u32).to_le_bytes());
        for (i, b) in bufs.iter().enumerate() {
            match way {
                1 => [9, i as u64, b.len() as u64, 3].iter().for_each(|n| out.extend(n.to_le_bytes())),
                _ => out.extend((b.len() as u64).to_le_bytes()),
            }
        }
        released.iter().for_each(|t| out.extend(t.to_le_bytes()));
        out.extend(envelope);
        if way == 0 {
            for b in bufs {
                out.resize(out.len().next_multiple_of(64), 0);
                out.extend(b);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn reads_what_was_written(
            kind in 1u8..=5, way in 0u8..=2, id: u64,
            bufs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
            released in prop::collection::vec(any::<u64>(), 0..5),
            envelope in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let bytes = written(kind, way, id, &bufs, &released, &envelope);
            let reply = Reply::read(&bytes).unwrap();
            prop_assert_eq!(reply.kind as u8, kind);
            prop_assert_eq!(reply.way as u8, way);
            let counts = Counts { envelope: envelope.len(), buffers: bufs.len(), released: released.len() };
            prop_assert_eq!(Counts::read(&bytes), Some(counts));
            prop_assert_eq!(reply.call_id, id);
            prop_assert_eq!(reply.tool_ns, 7);
            prop_assert_eq!(&bytes[reply.envelope], &envelope[..]);
            prop_assert_eq!(reply.released, released);
            match reply.table {
                Table::Inline(ranges) => {
                    for (r, b) in ranges.iter().zip(&bufs) {
                        prop_assert_eq!(r.start % INLINE_ALIGN, 0);
                        prop_assert_eq!(&bytes[r.clone()], &b[..]);
                    }
                    prop_assert_eq!(ranges.len(), bufs.len());
                }
                Table::ZeroCopy(places) => prop_assert_eq!(places.len(), bufs.len()),
                Table::Grpc(lens) => prop_assert_eq!(lens, bufs.iter().map(|b| b.len() as u64).collect::<Vec<_>>()),
            }
            for cut in 0..bytes.len() {
                prop_assert!(Reply::read(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reply::read(&bytes);
        }

        #[test]
        fn never_panics_on_a_damaged_reply(at in 0usize..120, to: u8) {
            let mut bytes = written(1, 0, 1, &[vec![1; 10]], &[2], b"\xc0");
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Reply::read(&bytes);
        }
    }

    #[test]
    fn a_request_lays_out_as_the_protocol_says() {
        let req = Request {
            kind: Ask::Call,
            way: Way::ZeroCopy,
            reply_mask: 3,
            flags: 0,
            call_id: 0x0102,
            timeout_ms: 5,
            lane: 1,
            core: 2,
        };
        let mut out = Vec::new();
        req.write(&mut out, 9, &[], &[Place { chunk: 1, offset: 64, len: 3, token: 4 }], &[8]);
        assert_eq!(out.len(), HEADER + 32 + 8);
        assert_eq!(&out[..8], [1, 1, 3, 0, 9, 0, 0, 0]);
        assert_eq!(&out[8..16], 0x0102u64.to_le_bytes());
        assert_eq!(&out[16..32], [5, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 2, 0]);
        assert_eq!(&out[40..48], 64u64.to_le_bytes());
        assert_eq!(&out[64..], 8u64.to_le_bytes());
    }

    proptest! {
        /// Each side reads what the other writes.
        #[test]
        fn a_request_and_a_reply_read_as_they_were_written(
            way in 0u8..=2, id: u64, gil: u8,
            bufs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
            tokens in prop::collection::vec(any::<u64>(), 0..5),
            envelope in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let way = Way::from_u8(way).unwrap();
            let lens: Vec<u64> = bufs.iter().map(|b| b.len() as u64).collect();
            let places: Vec<Place> = lens.iter().map(|len| Place { chunk: 9, offset: id, len: *len, token: !id }).collect();
            let finish = |out: &mut Vec<u8>| {
                out.extend_from_slice(&envelope);
                let start = out.len() - envelope.len();
                let mut ranges = Vec::new();
                for b in bufs.iter().filter(|_| way == Way::Inline) {
                    out.resize(out.len() + padding(out.len()), 0);
                    out.extend_from_slice(b);
                    ranges.push(out.len() - b.len()..out.len());
                }
                let table = match way {
                    Way::Inline => Table::Inline(ranges),
                    Way::ZeroCopy => Table::ZeroCopy(places.clone()),
                    Way::Grpc => Table::Grpc(lens.clone()),
                };
                (table, start..start + envelope.len())
            };
            let ask = Request { kind: Ask::Call, way, reply_mask: 7, flags: 0, call_id: id, timeout_ms: 1, lane: 2, core: 3 };
            let mut bytes = Vec::new();
            ask.write(&mut bytes, envelope.len(), &lens, &places, &tokens);
            let (table, range) = finish(&mut bytes);
            let head = RequestHead::read(&bytes).unwrap();
            prop_assert_eq!(head.body(&bytes), Ok(RequestBody { table, freed: tokens.clone(), envelope: range }));
            for cut in 0..bytes.len() {
                prop_assert!(head.body(&bytes[..cut]).is_err());
            }
            let (mut bytes, kind) = (Vec::new(), Kind::Result);
            Reply::write_head(&mut bytes, kind, way, 2, gil, id, 5, envelope.len() as u32, &lens, &places, &tokens);
            let (table, envelope) = finish(&mut bytes);
            let reply = Reply { kind, way, flags: 2, gil, call_id: id, tool_ns: 5, released: tokens, envelope, table };
            prop_assert_eq!(Reply::read(&bytes), Ok(reply));
        }

        #[test]
        fn never_panics_on_a_damaged_request(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = RequestHead::read(&bytes).map(|head| head.body(&bytes));
        }
    }

    #[test]
    fn a_wait_is_known_to_an_eighth() {
        for (ns, code) in
            [(0, 0), (999, 0), (1000, 1), (1999, 1), (2000, 9), (3000, 13), (1 << 63, 255), (u64::MAX, 255)]
        {
            assert_eq!(wait_code(ns), code, "{ns}");
        }
        let mut before = 0;
        for us in 1..100_000u64 {
            let known = wait_ns(wait_code(us * 1000));
            assert!(known <= us * 1000 && known * 8 >= us * 7000 && known >= before, "{us}: {known}");
            before = known;
        }
        assert!((1..=u8::MAX).all(|code| wait_code(wait_ns(code)) == code || code < 25));
    }

    #[test]
    fn a_reply_without_buffers_is_its_head_and_its_envelope() {
        let mut bytes = Reply::bare_head(Kind::Error, Way::Grpc, 9, 3, 1 << 40, 1 << 50).to_vec();
        bytes.extend_from_slice(b"\xa2ok");
        let reply = Reply::read(&bytes).unwrap();
        let expected = Reply {
            kind: Kind::Error,
            way: Way::Grpc,
            flags: 0,
            gil: 9,
            call_id: 1 << 40,
            tool_ns: 1 << 50,
            released: vec![],
            envelope: HEADER..HEADER + 3,
            table: Table::Grpc(vec![]),
        };
        assert_eq!(reply, expected);
    }

    /// Each field of a header that is all zeros but for it.
    #[test]
    fn the_layout_names_the_fields_that_are_written_and_read() {
        let section = |name: &str| LAYOUT.iter().find(|(known, _)| *known == name).unwrap().1;
        let field = |of: &str, name: &str| section(of).iter().find(|(known, _)| *known == name).unwrap().1;
        let number = |bytes: &[u8], at: &[u64]| {
            let part = &bytes[at[0] as usize..(at[0] + at[1]) as usize];
            part.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte))
        };
        let request = Request {
            kind: Ask::Synchronize,
            way: Way::Grpc,
            reply_mask: 5,
            flags: 9,
            call_id: 1 << 40,
            timeout_ms: 70_000,
            lane: 60_000,
            core: 50_000,
        };
        let mut out = Vec::new();
        request.write(&mut out, 90_000, &[1, 2], &[], &[3, 4, 5]);
        let wanted = [
            ("kind", 3),
            ("way", 2),
            ("reply_mask", 5),
            ("flags", 9),
            ("envelope", 90_000),
            ("call_id", 1 << 40),
            ("timeout_ms", 70_000),
            ("buffers", 2),
            ("freed", 3),
            ("lane", 60_000),
            ("core", 50_000),
        ];
        assert_eq!(section("request").len(), wanted.len());
        for (name, value) in wanted {
            assert_eq!(number(&out, field("request", name)), value, "{name}");
        }
        let head = RequestHead {
            kind: 3,
            way: 2,
            reply_mask: 5,
            flags: 9,
            envelope: 90_000,
            call_id: 1 << 40,
            timeout_ms: 70_000,
            buffers: 2,
            freed: 3,
            lane: 60_000,
            core: 50_000,
        };
        assert_eq!(RequestHead::read(&out), Some(head));
        assert_eq!(RequestHead::read(&out[..HEADER - 1]), None);

        let mut bytes = written(4, 2, 1 << 40, &[vec![], vec![]], &[5, 6, 7], &[0xc0; 300]);
        (bytes[2], bytes[3]) = (FLAG_IN_PLACE, 17);
        let reply = Reply::read(&bytes).unwrap();
        let wanted = [
            ("kind", reply.kind as u64),
            ("way", reply.way as u64),
            ("flags", u64::from(reply.flags)),
            ("gil", u64::from(reply.gil)),
            ("envelope", reply.envelope.len() as u64),
            ("call_id", reply.call_id),
            ("tool_ns", reply.tool_ns),
            ("buffers", 2),
            ("released", reply.released.len() as u64),
        ];
        assert_eq!(section("reply").len(), wanted.len());
        for (name, value) in wanted {
            assert_eq!(number(&bytes, field("reply", name)), value, "{name}");
        }
    }
}
