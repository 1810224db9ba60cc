//! Writes the MessagePack of an envelope: `rmp` for the bytes, Snakepit's extensions on top.

use rmp::encode;

/// Extension codes of `native/PROTOCOL.md`, *Envelope*.
pub mod ext {
    pub const BIG_INT: i8 = 1;
    pub const TUPLE: i8 = 2;
    pub const SET: i8 = 3;
    pub const BYTES: i8 = 4;
    pub const STR: i8 = 5;
    pub const TENSOR: i8 = 6;
    pub const DATE: i8 = 7;
    pub const TIME: i8 = 8;
    pub const NAIVE_DATETIME: i8 = 9;
    pub const DATETIME: i8 = 10;
    pub const DECIMAL: i8 = 11;
}

/// An envelope in the making. Writing to memory does not fail.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
}

/// Where an open extension started; see [`Writer::open_ext`].
pub struct OpenExt(usize);

/// An extension's header is always written in its longest form, so that its length can be filled in afterwards.
const EXT32_HEADER: usize = 6;

impl From<Vec<u8>> for Writer {
    /// Writes behind what is there.
    fn from(out: Vec<u8>) -> Self {
        Self { out }
    }
}

impl From<Writer> for Vec<u8> {
    fn from(writer: Writer) -> Self {
        writer.out
    }
}

impl Writer {
    /// An empty envelope with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// Makes room for so many more bytes; false if there is no memory for them. What is written into it takes no more.
    #[must_use]
    pub fn try_reserve(&mut self, more: usize) -> bool {
        self.out.try_reserve(more).is_ok()
    }

    pub fn nil(&mut self) {
        self.out.push(0xc0);
    }

    pub fn bool(&mut self, b: bool) {
        self.out.push(if b { 0xc3 } else { 0xc2 });
    }

    pub fn int(&mut self, n: i64) {
        encode::write_sint(&mut self.out, n).expect("memory");
    }

    pub fn uint(&mut self, n: u64) {
        encode::write_uint(&mut self.out, n).expect("memory");
    }

    pub fn float(&mut self, x: f64) {
        encode::write_f64(&mut self.out, x).expect("memory");
    }

    pub fn str(&mut self, s: &str) {
        encode::write_str(&mut self.out, s).expect("memory");
    }

    /// A string of these bytes; false, and nothing is written, if they are not UTF-8.
    ///
    /// They are read once, and what was written is checked: they may lie in memory that somebody else writes to.
    pub fn text(&mut self, bytes: &[u8]) -> bool {
        let start = self.out.len();
        encode::write_str_len(&mut self.out, bytes.len() as u32).expect("memory");
        let at = self.out.len();
        self.out.extend_from_slice(bytes);
        let sound = crate::utf8(&self.out[at..]).is_some();
        if !sound {
            self.out.truncate(start);
        }
        sound
    }

    pub fn bin(&mut self, b: &[u8]) {
        encode::write_bin(&mut self.out, b).expect("memory");
    }

    /// The header of an array; its `len` values follow.
    pub fn array(&mut self, len: u32) {
        encode::write_array_len(&mut self.out, len).expect("memory");
    }

    /// The header of a map; its `len` pairs follow.
    pub fn map(&mut self, len: u32) {
        encode::write_map_len(&mut self.out, len).expect("memory");
    }

    /// A buffer that travels out of band, as bytes or as str.
    pub fn buffer(&mut self, code: i8, index: u32) {
        encode::write_ext_meta(&mut self.out, 4, code).expect("memory");
        self.out.extend_from_slice(&index.to_le_bytes());
    }

    /// An integer that fits neither i64 nor u64: little-endian magnitude.
    pub fn big_int(&mut self, negative: bool, magnitude: &[u8]) {
        let used = magnitude.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
        encode::write_ext_meta(&mut self.out, used as u32 + 1, ext::BIG_INT).expect("memory");
        self.out.push(u8::from(negative));
        self.out.extend_from_slice(&magnitude[..used]);
    }

    /// Starts an extension whose payload is whatever is written until [`Self::close_ext`].
    pub fn open_ext(&mut self, code: i8) -> OpenExt {
        let start = self.out.len();
        self.out.extend_from_slice(&[0xc9, 0, 0, 0, 0, code as u8]);
        OpenExt(start)
    }

    /// Ends it. False if the payload is longer than an extension can be (4 GiB - 1).
    #[must_use]
    pub fn close_ext(&mut self, open: OpenExt) -> bool {
        let len = self.out.len() - open.0 - EXT32_HEADER;
        let Ok(len) = u32::try_from(len) else { return false };
        self.out[open.0 + 1..open.0 + 5].copy_from_slice(&len.to_be_bytes());
        true
    }
}
