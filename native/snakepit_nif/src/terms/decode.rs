//! Envelope and buffers to Elixir terms.

use super::dtypes::DTYPES;
use super::shown::step;
use crate::atoms;
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Term};
use snakepit_core::MAX_DIMS;
use snakepit_core::decimal;
use snakepit_core::reader::{BadValue, Budget, Reader, Token};
use snakepit_core::writer::ext;

/// Why an envelope was not decoded.
pub enum Failure {
    /// The worker broke the protocol.
    Protocol(&'static str),
    /// The tool returned what Elixir cannot hold: where (innermost first), what, and words for it.
    Value { path: Vec<String>, reason: Atom, detail: String },
}

impl From<BadValue> for Failure {
    fn from(bad: BadValue) -> Self {
        Self::Protocol(bad.0)
    }
}

type Decoded<'a> = Result<Term<'a>, Failure>;

fn at<'a>(result: Decoded<'a>, step: impl FnOnce() -> String) -> Decoded<'a> {
    result.map_err(|failure| match failure {
        Failure::Value { mut path, reason, detail } => {
            path.push(step());
            Failure::Value { path, reason, detail }
        }
        other => other,
    })
}

/// Room for so many values is made at once. A count may be a lie; it grows with what is really there.
const ROOM: usize = 4096;
/// The BEAM's tuples have at most this many elements.
const MAX_ARITY: usize = (1 << 24) - 1;

const BAD_EXT: Failure = Failure::Protocol("an extension's payload is not what its code says");

/// The context that decoding needs besides the bytes.
pub struct Decoder<'a, 'b> {
    pub env: Env<'a>,
    pub buffers: &'b [Term<'a>],
    /// `%MapSet{}` as this Elixir makes it.
    pub empty_set: Term<'a>,
    /// Whether the `Decimal` library is there, whose struct a decimal is then; else `Snakepit.Decimal`.
    pub decimal: bool,
}

impl<'a> Decoder<'a, '_> {
    /// The one value an envelope holds.
    pub fn envelope(&self, bytes: &[u8]) -> Decoded<'a> {
        let budget = Budget::default();
        let mut reader = Reader::new(bytes, &budget);
        let term = self.value(&mut reader)?;
        reader.finish()?;
        Ok(term)
    }

    fn value(&self, r: &mut Reader) -> Decoded<'a> {
        let env = self.env;
        match r.next()? {
            Token::Nil => Ok(atoms::nil().to_term(env)),
            Token::Bool(b) => Ok(b.encode(env)),
            Token::Int(n) => Ok(n.encode(env)),
            Token::Uint(n) => Ok(n.encode(env)),
            Token::Float(x) => Ok(self.float(x)),
            Token::Str(s) => Ok(NewBinary::from_slice(env, s.as_bytes()).into()),
            Token::Bin(b) => Ok(NewBinary::from_slice(env, b).into()),
            Token::Array(n) => Ok(self.items(r, n)?.encode(env)),
            Token::Map(n) => self.map(r, n),
            Token::Ext(code, payload) => self.extension(r, code, payload),
        }
    }

    /// The BEAM's floats are finite; the rest are atoms, as in Nx.
    fn float(&self, x: f64) -> Term<'a> {
        if x.is_finite() {
            x.encode(self.env)
        } else if x.is_nan() {
            atoms::nan().to_term(self.env)
        } else if x > 0.0 {
            atoms::infinity().to_term(self.env)
        } else {
            atoms::neg_infinity().to_term(self.env)
        }
    }

    fn items(&self, r: &mut Reader, n: usize) -> Result<Vec<Term<'a>>, Failure> {
        r.enter()?;
        let mut items = Vec::with_capacity(n.min(ROOM));
        for i in 0..n {
            items.push(at(self.value(r), || format!("[{i}]"))?);
        }
        r.leave();
        Ok(items)
    }

    fn map(&self, r: &mut Reader, n: usize) -> Decoded<'a> {
        r.enter()?;
        let (mut keys, mut values) = (Vec::with_capacity(n.min(ROOM)), Vec::with_capacity(n.min(ROOM)));
        for _ in 0..n {
            let key = self.key(r)?;
            keys.push(key);
            values.push(at(self.value(r), || step(key))?);
        }
        r.leave();
        Term::map_from_term_arrays(self.env, &keys, &values).map_err(|_| Failure::Protocol("a map has a key twice"))
    }

    fn key(&self, r: &mut Reader) -> Decoded<'a> {
        let env = self.env;
        match r.next()? {
            Token::Str(s) => Ok(NewBinary::from_slice(env, s.as_bytes()).into()),
            Token::Int(n) => Ok(n.encode(env)),
            Token::Uint(n) => Ok(n.encode(env)),
            _ => Err(Failure::Protocol("a map's key is neither a str nor an integer")),
        }
    }

    fn extension(&self, r: &mut Reader, code: i8, payload: &[u8]) -> Decoded<'a> {
        match code {
            ext::BIG_INT => self.big_int(payload),
            ext::BYTES | ext::STR => self.buffer(payload),
            ext::TUPLE => {
                let items = self.nested(r, payload)?;
                if items.len() > MAX_ARITY {
                    return value(atoms::too_large(), "a tuple of more elements than the BEAM can hold");
                }
                Ok(make_tuple(self.env, &items))
            }
            ext::SET => self.set(r, payload),
            ext::TENSOR => self.tensor(r, payload),
            ext::DATE => self.calendar(r, payload, atoms::elixir_date(), 3),
            ext::TIME => self.calendar(r, payload, atoms::elixir_time(), 4),
            ext::NAIVE_DATETIME => self.calendar(r, payload, atoms::elixir_naive_datetime(), 7),
            ext::DATETIME => self.calendar(r, payload, atoms::elixir_datetime(), 11),
            ext::DECIMAL => self.decimal(r, payload),
            _ => Err(Failure::Protocol("an unknown extension")),
        }
    }

    /// The array that fills an extension's payload.
    fn nested(&self, r: &mut Reader, payload: &[u8]) -> Result<Vec<Term<'a>>, Failure> {
        r.enter()?;
        let mut inner = r.inside(payload);
        let Token::Array(n) = inner.next()? else { return Err(BAD_EXT) };
        let items = self.items(&mut inner, n)?;
        inner.finish()?;
        r.leave();
        Ok(items)
    }

    fn big_int(&self, payload: &[u8]) -> Decoded<'a> {
        let (sign, magnitude) = payload.split_first().ok_or(BAD_EXT)?;
        self.large(*sign != 0, magnitude)
    }

    fn large(&self, negative: bool, magnitude: &[u8]) -> Decoded<'a> {
        // The BEAM refuses (raises for) integers above 2^26 bits or so; erts' own reader is asked, with bytes of ours.
        let mut etf = vec![131];
        match u8::try_from(magnitude.len()) {
            Ok(n) => etf.extend_from_slice(&[110, n, u8::from(negative)]),
            Err(_) => {
                let n = u32::try_from(magnitude.len()).map_err(|_| BAD_EXT)?;
                etf.push(111);
                etf.extend_from_slice(&n.to_be_bytes());
                etf.push(u8::from(negative));
            }
        }
        etf.extend_from_slice(magnitude);
        match self.env.binary_to_term(&etf) {
            Some((term, _)) => Ok(term),
            None => value(atoms::too_large(), "an integer larger than the BEAM can hold"),
        }
    }

    fn buffer(&self, payload: &[u8]) -> Decoded<'a> {
        let index = u32::from_le_bytes(payload.try_into().map_err(|_| BAD_EXT)?);
        self.buffers.get(index as usize).copied().ok_or(Failure::Protocol("a buffer index is out of range"))
    }

    fn set(&self, r: &mut Reader, payload: &[u8]) -> Decoded<'a> {
        let items = self.nested(r, payload)?;
        let empty = Vec::<Term>::new().encode(self.env);
        // Members that are equal in Elixir but not in Python (b"a" and "a") are refused: one of them would be lost.
        match Term::map_from_term_arrays(self.env, &items, &vec![empty; items.len()]) {
            Ok(map) => self.empty_set.map_put(atoms::map(), map).map_err(|_| Failure::Protocol("no MapSet")),
            Err(_) => {
                value(atoms::key_collision(), "two members of this set are one in Elixir, such as b\"a\" and \"a\"")
            }
        }
    }

    fn tensor(&self, r: &mut Reader, payload: &[u8]) -> Decoded<'a> {
        r.enter()?;
        let mut inner = r.inside(payload);
        let (Token::Array(3), Token::Str(dtype), Token::Array(rank)) = (inner.next()?, inner.next()?, inner.next()?)
        else {
            return Err(BAD_EXT);
        };
        let (kind, bits, _) = DTYPES.iter().find(|(_, _, name)| *name == dtype).ok_or(BAD_EXT)?;
        if rank > MAX_DIMS {
            return Err(Failure::Protocol("a tensor has more than 64 dimensions"));
        }
        let mut dims = Vec::with_capacity(rank);
        for _ in 0..rank {
            match inner.next()? {
                Token::Int(n) => dims.push(u64::try_from(n).map_err(|_| BAD_EXT)?),
                _ => return Err(BAD_EXT),
            }
        }
        let data = match inner.next()? {
            Token::Bin(b) => NewBinary::from_slice(self.env, b).into(),
            Token::Ext(ext::BYTES, index) => self.buffer(index)?,
            _ => return Err(BAD_EXT),
        };
        inner.finish()?;
        r.leave();
        let want = dims.iter().try_fold(u64::from(bits / 8), |n, d| n.checked_mul(*d));
        let len = Binary::from_term(data).map(|b| b.len() as u64).ok();
        if want.is_none() || want != len {
            return Err(Failure::Protocol("a tensor's data is not as long as its shape says"));
        }
        let env = self.env;
        let nil = atoms::nil().to_term(env);
        let shape: Vec<Term> = dims.iter().map(|d| d.encode(env)).collect();
        self.structure(
            atoms::elixir_tensor(),
            &[
                (atoms::type_(), (kind(), *bits).encode(env)),
                (atoms::shape(), make_tuple(env, &shape)),
                (atoms::names(), vec![nil; rank].encode(env)),
                (atoms::data(), data),
            ],
        )
    }

    fn structure(&self, name: Atom, fields: &[(Atom, Term<'a>)]) -> Decoded<'a> {
        let (mut keys, mut values) = (vec![atoms::__struct__().to_term(self.env)], vec![name.to_term(self.env)]);
        for (key, value) in fields {
            keys.push(key.to_term(self.env));
            values.push(*value);
        }
        Term::map_from_term_arrays(self.env, &keys, &values).map_err(|_| BAD_EXT)
    }

    /// Dates and times: `n` items, the first of them numbers that must name a real day or time.
    fn calendar(&self, r: &mut Reader, payload: &[u8], name: Atom, n: usize) -> Decoded<'a> {
        let items = self.nested(r, payload)?;
        if items.len() != n {
            return Err(BAD_EXT);
        }
        let number = |i: usize| items[i].decode::<i64>().map_err(|_| BAD_EXT);
        let within = |i: usize, low: i64, high: i64| match number(i)? {
            v if (low..=high).contains(&v) => Ok(items[i]),
            _ => Err(BAD_EXT),
        };
        let mut fields = vec![(atoms::calendar(), atoms::iso().to_term(self.env))];
        let mut time_at = 0;
        if n != 4 {
            let last = days_in_month(number(0)?, number(1)?);
            fields.push((atoms::year(), within(0, 1, 9999)?));
            fields.push((atoms::month(), within(1, 1, 12)?));
            fields.push((atoms::day(), within(2, 1, last)?));
            time_at = 3;
        }
        if n != 3 {
            fields.push((atoms::hour(), within(time_at, 0, 23)?));
            fields.push((atoms::minute(), within(time_at + 1, 0, 59)?));
            fields.push((atoms::second(), within(time_at + 2, 0, 59)?));
            let us = within(time_at + 3, 0, 999_999)?;
            fields.push((atoms::microsecond(), (us, 6).encode(self.env)));
        }
        if n == 11 {
            let text = |i: usize| Binary::from_term(items[i]).map(|_| items[i]).map_err(|_| BAD_EXT);
            fields.push((atoms::time_zone(), text(7)?));
            fields.push((atoms::zone_abbr(), text(8)?));
            fields.push((atoms::utc_offset(), within(9, -172_800, 172_800)?));
            fields.push((atoms::std_offset(), within(10, -172_800, 172_800)?));
        }
        self.structure(name, &fields)
    }

    fn decimal(&self, r: &mut Reader, payload: &[u8]) -> Decoded<'a> {
        let mut inner = r.inside(payload);
        let Token::Str(text) = inner.next()? else { return Err(BAD_EXT) };
        inner.finish()?;
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (coef, exp) = match digits {
            "NaN" => (atoms::nan_upper().to_term(self.env), 0),
            "Infinity" => (atoms::inf().to_term(self.env), 0),
            _ => self.coefficient(digits)?,
        };
        let env = self.env;
        let fields = [(atoms::sign(), sign.encode(env)), (atoms::coef(), coef), (atoms::exp(), exp.encode(env))];
        let name = if self.decimal { atoms::elixir_decimal() } else { atoms::elixir_snakepit_decimal() };
        self.structure(name, &fields)
    }

    /// `12.50E+3` as coefficient 1250 and exponent 1.
    fn coefficient(&self, text: &str) -> Result<(Term<'a>, i64), Failure> {
        let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().map_err(|_| BAD_EXT)?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.len() > decimal::MAX_DIGITS {
            return Err(BAD_EXT);
        }
        let exp = exponent.checked_sub(fraction.len() as i64).ok_or(BAD_EXT)?;
        Ok((self.large(false, &decimal::magnitude(&digits))?, exp))
    }
}

fn value<'a>(reason: Atom, detail: &str) -> Decoded<'a> {
    Err(Failure::Value { path: Vec::new(), reason, detail: detail.to_owned() })
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
