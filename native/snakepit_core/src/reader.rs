//! Reads the MessagePack of an envelope that came from the other side: every length and count is checked against what is
//! there before anything is made of it.

use crate::{MAX_DEPTH, MAX_VALUES};
use rmp::Marker;
use std::cell::Cell;

/// Why an envelope was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadValue(pub &'static str);

const SHORT: BadValue = BadValue("the envelope is cut short");

/// The next value, or the head of it: after `Array(n)` come n values, after `Map(n)` n pairs.
#[derive(Debug)]
pub enum Token<'a> {
    Nil,
    Bool(bool),
    Int(i64),
    /// Only for what an `i64` cannot hold.
    Uint(u64),
    Float(f64),
    Str(&'a str),
    Bin(&'a [u8]),
    Array(usize),
    Map(usize),
    Ext(i8, &'a [u8]),
}

/// A number that is read at once; see [`Reader::number`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Int(i64),
    Float(f64),
}

/// The number of values that an envelope's containers may still have; shared with the readers of nested payloads.
pub struct Budget(Cell<u32>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(MAX_VALUES))
    }
}

/// A pull parser over one envelope, or over the payload of an extension in it. A copy reads ahead.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    budget: &'a Budget,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], budget: &'a Budget) -> Self {
        Self { rest: bytes, budget, depth: 0 }
    }

    /// A reader for the values inside an extension.
    pub fn inside(&self, payload: &'a [u8]) -> Self {
        Self { rest: payload, budget: self.budget, depth: self.depth }
    }

    /// For decoders that do not count their depth themselves: called before descending into a container; [`Self::leave`] after it.
    pub fn enter(&mut self) -> Result<(), BadValue> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(BadValue("values are nested deeper than 128")) } else { Ok(()) }
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// An error unless all bytes were read.
    pub fn finish(&self) -> Result<(), BadValue> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadValue("bytes after the end of a value")) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], BadValue> {
        let (part, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(part)
    }

    fn be<const N: usize>(&mut self) -> Result<[u8; N], BadValue> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }

    fn len8(&mut self) -> Result<usize, BadValue> {
        Ok(usize::from(self.be::<1>()?[0]))
    }

    fn len16(&mut self) -> Result<usize, BadValue> {
        Ok(usize::from(u16::from_be_bytes(self.be()?)))
    }

    fn len32(&mut self) -> Result<usize, BadValue> {
        Ok(u32::from_be_bytes(self.be()?) as usize)
    }

    fn str(&mut self, len: usize) -> Result<Token<'a>, BadValue> {
        let bytes = self.take(len)?;
        crate::utf8(bytes).map(Token::Str).ok_or(BadValue("a str is not UTF-8"))
    }

    /// Each value takes a byte at least, so that a count larger than what is left is a lie. All that a container says it
    /// has is taken from the budget at once: whoever makes room for it never makes more than the budget allows, however
    /// deep containers lie in each other.
    fn count(&self, len: usize, each: usize) -> Result<usize, BadValue> {
        let values = len.saturating_mul(each);
        if values > self.rest.len() {
            return Err(SHORT);
        }
        match (self.budget.0.get() as usize).checked_sub(values) {
            Some(left) => {
                self.budget.0.set(left as u32);
                Ok(len)
            }
            None => Err(BadValue("an envelope has more than 2^26 values")),
        }
    }

    fn ext(&mut self, len: usize) -> Result<Token<'a>, BadValue> {
        let code = self.be::<1>()?[0] as i8;
        Ok(Token::Ext(code, self.take(len)?))
    }

    /// The next value, if it is a float or an integer within `i64`: the usual item of a large list, without the way through
    /// a [`Token`]. `None` leaves all as it is, for [`Self::next`] to say what is there.
    #[inline(always)]
    pub fn number(&mut self) -> Option<Number> {
        let (&marker, rest) = self.rest.split_first()?;
        macro_rules! int {
            ($kind:ty) => {{
                let (bytes, rest) = rest.split_first_chunk()?;
                (Number::Int(i64::from(<$kind>::from_be_bytes(*bytes))), rest)
            }};
        }
        let (number, rest) = match marker {
            0xcb => {
                let (bytes, rest) = rest.split_first_chunk()?;
                (Number::Float(f64::from_be_bytes(*bytes)), rest)
            }
            0x00..=0x7f => (Number::Int(i64::from(marker)), rest),
            0xe0..=0xff => (Number::Int(i64::from(marker as i8)), rest),
            0xcc => int!(u8),
            0xcd => int!(u16),
            0xce => int!(u32),
            0xcf => {
                let (bytes, rest) = rest.split_first_chunk()?;
                (Number::Int(i64::try_from(u64::from_be_bytes(*bytes)).ok()?), rest)
            }
            0xd0 => int!(i8),
            0xd1 => int!(i16),
            0xd2 => int!(i32),
            0xd3 => int!(i64),
            _ => return None,
        };
        self.rest = rest;
        Some(number)
    }

    /// The next token.
    #[expect(clippy::should_implement_trait, reason = "fallible, and not an iteration: a token may head others")]
    pub fn next(&mut self) -> Result<Token<'a>, BadValue> {
        match Marker::from_u8(self.be::<1>()?[0]) {
            Marker::FixPos(n) => Ok(Token::Int(i64::from(n))),
            Marker::FixNeg(n) => Ok(Token::Int(i64::from(n))),
            Marker::Null => Ok(Token::Nil),
            Marker::True => Ok(Token::Bool(true)),
            Marker::False => Ok(Token::Bool(false)),
            Marker::U8 => Ok(Token::Int(i64::from(self.be::<1>()?[0]))),
            Marker::U16 => Ok(Token::Int(i64::from(u16::from_be_bytes(self.be()?)))),
            Marker::U32 => Ok(Token::Int(i64::from(u32::from_be_bytes(self.be()?)))),
            Marker::U64 => {
                let n = u64::from_be_bytes(self.be()?);
                Ok(i64::try_from(n).map_or(Token::Uint(n), Token::Int))
            }
            Marker::I8 => Ok(Token::Int(i64::from(i8::from_be_bytes(self.be()?)))),
            Marker::I16 => Ok(Token::Int(i64::from(i16::from_be_bytes(self.be()?)))),
            Marker::I32 => Ok(Token::Int(i64::from(i32::from_be_bytes(self.be()?)))),
            Marker::I64 => Ok(Token::Int(i64::from_be_bytes(self.be()?))),
            Marker::F32 => Ok(Token::Float(f64::from(f32::from_be_bytes(self.be()?)))),
            Marker::F64 => Ok(Token::Float(f64::from_be_bytes(self.be()?))),
            Marker::FixStr(n) => self.str(usize::from(n)),
            Marker::Str8 => self.len8().and_then(|n| self.str(n)),
            Marker::Str16 => self.len16().and_then(|n| self.str(n)),
            Marker::Str32 => self.len32().and_then(|n| self.str(n)),
            Marker::Bin8 => self.len8().and_then(|n| self.take(n)).map(Token::Bin),
            Marker::Bin16 => self.len16().and_then(|n| self.take(n)).map(Token::Bin),
            Marker::Bin32 => self.len32().and_then(|n| self.take(n)).map(Token::Bin),
            Marker::FixArray(n) => self.count(usize::from(n), 1).map(Token::Array),
            Marker::Array16 => self.len16().and_then(|n| self.count(n, 1)).map(Token::Array),
            Marker::Array32 => self.len32().and_then(|n| self.count(n, 1)).map(Token::Array),
            Marker::FixMap(n) => self.count(usize::from(n), 2).map(Token::Map),
            Marker::Map16 => self.len16().and_then(|n| self.count(n, 2)).map(Token::Map),
            Marker::Map32 => self.len32().and_then(|n| self.count(n, 2)).map(Token::Map),
            Marker::FixExt1 => self.ext(1),
            Marker::FixExt2 => self.ext(2),
            Marker::FixExt4 => self.ext(4),
            Marker::FixExt8 => self.ext(8),
            Marker::FixExt16 => self.ext(16),
            Marker::Ext8 => self.len8().and_then(|n| self.ext(n)),
            Marker::Ext16 => self.len16().and_then(|n| self.ext(n)),
            Marker::Ext32 => self.len32().and_then(|n| self.ext(n)),
            Marker::Reserved => Err(BadValue("a reserved MessagePack byte")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{Writer, ext};
    use proptest::prelude::*;

    /// The naive model: a tree written by `Writer`, read back by `Reader`.
    #[derive(Clone, Debug, PartialEq)]
    enum Tree {
        Nil,
        Bool(bool),
        Int(i64),
        Uint(u64),
        Float(u64),
        Str(String),
        Bin(Vec<u8>),
        Array(Vec<Tree>),
        Map(Vec<(Tree, Tree)>),
        Tuple(Vec<Tree>),
        BigInt(bool, Vec<u8>),
        Buffer(u32),
    }

    fn write(w: &mut Writer, tree: &Tree) {
        match tree {
            Tree::Nil => w.nil(),
            Tree::Bool(b) => w.bool(*b),
            Tree::Int(n) => w.int(*n),
            Tree::Uint(n) => w.uint(*n),
            Tree::Float(bits) => w.float(f64::from_bits(*bits)),
            Tree::Str(s) => w.str(s),
            Tree::Bin(b) => w.bin(b),
            Tree::Array(items) => {
                w.array(items.len() as u32);
                items.iter().for_each(|i| write(w, i));
            }
            Tree::Map(pairs) => {
                w.map(pairs.len() as u32);
                pairs.iter().for_each(|(k, v)| {
                    write(w, k);
                    write(w, v);
                });
            }
            Tree::Tuple(items) => {
                let open = w.open_ext(ext::TUPLE);
                write(w, &Tree::Array(items.clone()));
                assert!(w.close_ext(open));
            }
            Tree::BigInt(negative, magnitude) => w.big_int(*negative, magnitude),
            Tree::Buffer(i) => w.buffer(ext::BYTES, *i),
        }
    }

    fn read(r: &mut Reader) -> Result<Tree, BadValue> {
        Ok(match r.next()? {
            Token::Nil => Tree::Nil,
            Token::Bool(b) => Tree::Bool(b),
            Token::Int(n) => Tree::Int(n),
            Token::Uint(n) => Tree::Uint(n),
            Token::Float(x) => Tree::Float(x.to_bits()),
            Token::Str(s) => Tree::Str(s.to_owned()),
            Token::Bin(b) => Tree::Bin(b.to_vec()),
            Token::Array(n) => {
                r.enter()?;
                let items = (0..n).map(|_| read(r)).collect::<Result<_, _>>()?;
                r.leave();
                Tree::Array(items)
            }
            Token::Map(n) => {
                r.enter()?;
                let pairs = (0..n).map(|_| Ok((read(r)?, read(r)?))).collect::<Result<_, _>>()?;
                r.leave();
                Tree::Map(pairs)
            }
            Token::Ext(ext::TUPLE, payload) => {
                r.enter()?;
                let mut inner = r.inside(payload);
                let Tree::Array(items) = read(&mut inner)? else { return Err(BadValue("not an array")) };
                inner.finish()?;
                r.leave();
                Tree::Tuple(items)
            }
            Token::Ext(ext::BIG_INT, payload) => {
                let (sign, magnitude) = payload.split_first().ok_or(SHORT)?;
                Tree::BigInt(*sign == 1, magnitude.to_vec())
            }
            Token::Ext(ext::BYTES, payload) => Tree::Buffer(u32::from_le_bytes(payload.try_into().map_err(|_| SHORT)?)),
            Token::Ext(..) => return Err(BadValue("unknown extension")),
        })
    }

    fn parse(bytes: &[u8]) -> Result<Tree, BadValue> {
        let budget = Budget::default();
        let mut r = Reader::new(bytes, &budget);
        let tree = read(&mut r)?;
        r.finish()?;
        Ok(tree)
    }

    fn trees() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            Just(Tree::Nil),
            any::<bool>().prop_map(Tree::Bool),
            any::<i64>().prop_map(Tree::Int),
            (i64::MAX as u64 + 1..).prop_map(Tree::Uint),
            any::<u64>().prop_map(Tree::Float),
            ".{0,40}".prop_map(Tree::Str),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Tree::Bin),
            (any::<bool>(), prop::collection::vec(any::<u8>(), 8..20), 1u8..).prop_map(|(s, mut m, top)| {
                m.push(top);
                Tree::BigInt(s, m)
            }),
            any::<u32>().prop_map(Tree::Buffer),
        ];
        leaf.prop_recursive(6, 200, 20, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..20).prop_map(Tree::Array),
                prop::collection::vec((inner.clone(), inner.clone()), 0..20).prop_map(Tree::Map),
                prop::collection::vec(inner, 0..20).prop_map(Tree::Tuple),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(tree in trees()) {
            let mut w = Writer::default();
            write(&mut w, &tree);
            prop_assert_eq!(parse(w.as_slice()).unwrap(), tree);
        }

        #[test]
        fn a_number_is_the_one_that_a_token_says(bytes in prop::collection::vec(any::<u8>(), 0..12), tree in trees()) {
            let mut w = Writer::default();
            write(&mut w, &tree);
            for bytes in [&bytes[..], w.as_slice()] {
                let budget = Budget::default();
                let (mut quick, mut plain) = (Reader::new(bytes, &budget), Reader::new(bytes, &budget));
                let number = quick.number();
                match (plain.next(), number) {
                    (Ok(Token::Int(n)), Some(Number::Int(m))) => prop_assert_eq!(n, m),
                    (Ok(Token::Float(x)), Some(Number::Float(y))) => prop_assert_eq!(x.to_bits(), y.to_bits()),
                    (Ok(Token::Float(_)), None) => prop_assert_eq!(bytes[0], 0xca),
                    (Ok(Token::Int(_)), None) => prop_assert!(false, "an integer that was not read at once"),
                    (_, number) => prop_assert_eq!(number, None),
                }
                let left = if number.is_some() { plain.rest } else { bytes };
                prop_assert_eq!(quick.rest, left);
            }
        }

        #[test]
        fn a_cut_envelope_is_refused(tree in trees(), at: prop::sample::Index) {
            let mut w = Writer::default();
            write(&mut w, &tree);
            let cut = at.index(w.len());
            prop_assert!(parse(&w.as_slice()[..cut]).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn containers_in_each_other_cannot_claim_more_than_the_budget() {
        let budget = Budget(Cell::new(1000));
        // An array of 600 in an array of 600: bytes are there for either.
        let claims = [&[0xdc, 0x02, 0x58][..], &[0xdc, 0x02, 0x58], &[0xc0; 2000]].concat();
        let mut r = Reader::new(&claims, &budget);
        assert!(matches!(r.next(), Ok(Token::Array(600))));
        assert_eq!(r.next().unwrap_err(), BadValue("an envelope has more than 2^26 values"));
    }

    #[test]
    fn counts_and_depth_are_bounded() {
        assert!(parse(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(parse(&[0xdf, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(parse(&[0xc6, 0xff, 0xff, 0xff, 0xff]).is_err());
        let deep = |n: usize| [vec![0x91; n], vec![0xc0]].concat();
        assert!(parse(&deep(128)).is_ok());
        assert_eq!(parse(&deep(129)), Err(BadValue("values are nested deeper than 128")));
        assert_eq!(parse(&[0xc1]), Err(BadValue("a reserved MessagePack byte")));
    }
}
