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

    /// The shortest form that holds it, as of all numbers and lengths.
    #[inline]
    pub fn int(&mut self, n: i64) {
        if let Ok(n) = u64::try_from(n) {
            self.uint(n);
        } else if n >= -32 {
            self.out.push(n as u8);
        } else if let Ok(n) = i8::try_from(n) {
            self.out.extend_from_slice(&[0xd0, n as u8]);
        } else if let Ok(n) = i16::try_from(n) {
            let [a, b] = n.to_be_bytes();
            self.out.extend_from_slice(&[0xd1, a, b]);
        } else if let Ok(n) = i32::try_from(n) {
            let [a, b, c, d] = n.to_be_bytes();
            self.out.extend_from_slice(&[0xd2, a, b, c, d]);
        } else {
            self.eight(0xd3, n.to_be_bytes());
        }
    }

    #[inline]
    pub fn uint(&mut self, n: u64) {
        if n < 128 {
            self.out.push(n as u8);
        } else if let Ok(n) = u8::try_from(n) {
            self.out.extend_from_slice(&[0xcc, n]);
        } else if let Ok(n) = u16::try_from(n) {
            let [a, b] = n.to_be_bytes();
            self.out.extend_from_slice(&[0xcd, a, b]);
        } else if let Ok(n) = u32::try_from(n) {
            let [a, b, c, d] = n.to_be_bytes();
            self.out.extend_from_slice(&[0xce, a, b, c, d]);
        } else {
            self.eight(0xcf, n.to_be_bytes());
        }
    }

    #[inline]
    pub fn float(&mut self, x: f64) {
        self.eight(0xcb, x.to_be_bytes());
    }

    #[inline]
    fn eight(&mut self, marker: u8, [a, b, c, d, e, f, g, h]: [u8; 8]) {
        self.out.extend_from_slice(&[marker, a, b, c, d, e, f, g, h]);
    }

    #[inline]
    pub fn str(&mut self, s: &str) {
        self.str_head(s.len() as u32);
        self.out.extend_from_slice(s.as_bytes());
    }

    #[inline]
    fn str_head(&mut self, len: u32) {
        if len < 32 {
            self.out.push(0xa0 | len as u8);
        } else if let Ok(len) = u8::try_from(len) {
            self.out.extend_from_slice(&[0xd9, len]);
        } else {
            encode::write_str_len(&mut self.out, len).expect("memory");
        }
    }

    /// A string of these bytes; false, and nothing is written, if they are not UTF-8.
    ///
    /// They are read once, and what was written is checked: they may lie in memory that somebody else writes to.
    #[inline]
    pub fn text(&mut self, bytes: &[u8]) -> bool {
        let start = self.out.len();
        self.str_head(bytes.len() as u32);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(ours: impl FnOnce(&mut Writer), theirs: impl FnOnce(&mut Vec<u8>)) {
        let (mut writer, mut expected) = (Writer::default(), Vec::new());
        ours(&mut writer);
        theirs(&mut expected);
        assert_eq!(writer.as_slice(), expected);
    }

    fn check(n: i64) {
        same(|w| w.int(n), |out| assert!(encode::write_sint(out, n).is_ok()));
        let u = n as u64;
        same(|w| w.uint(u), |out| assert!(encode::write_uint(out, u).is_ok()));
    }

    #[test]
    fn the_ends_of_each_form() {
        for bits in [5, 7, 8, 15, 16, 31, 32, 63] {
            for near in -2..=2 {
                let n = (1_i128 << bits) + near;
                check(n as i64);
                check((-n) as i64);
            }
        }
        for len in [0, 1, 31, 32, 255, 256, 65_535, 65_536] {
            let text = "x".repeat(len);
            same(|w| w.str(&text), |out| encode::write_str(out, &text).unwrap());
            same(|w| assert!(w.text(text.as_bytes())), |out| encode::write_str(out, &text).unwrap());
        }
    }

    proptest! {
        #[test]
        fn numbers_have_the_form_that_the_library_gives_them(n: i64, x: f64, shift in 0..64) {
            check(n);
            check(n >> shift);
            same(|w| w.float(x), |out| encode::write_f64(out, x).unwrap());
        }
    }
}
