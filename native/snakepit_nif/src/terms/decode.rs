//! Envelope and buffers to Elixir terms.

use super::dtypes::DTYPES;
use super::shown::step;
use crate::atoms;
use rustler::sys::{self, ErlNifTerm};
use rustler::types::tuple::make_tuple;
use rustler::{Atom, Binary, Encoder, Env, NewBinary, Term};
use snakepit_core::MAX_DIMS;
use snakepit_core::decimal;
use snakepit_core::reader::{BadValue, Budget, Number, Reader, Token};
use snakepit_core::writer::ext;
use std::cell::Cell;

/// Why an envelope was not decoded.
pub enum Failure {
    /// The worker broke the protocol.
    Protocol(&'static str),
    /// The tool returned what Elixir cannot hold: where (innermost first), what, and words for it.
    Value { path: Vec<String>, reason: Atom, detail: String },
}

/// A failure where it is made: small, as every value's result has room for it.
pub struct Boxed(Box<Failure>);

impl Boxed {
    #[cold]
    fn protocol(what: &'static str) -> Self {
        Self(Box::new(Failure::Protocol(what)))
    }
}

impl From<BadValue> for Boxed {
    fn from(bad: BadValue) -> Self {
        Self::protocol(bad.0)
    }
}

type Decoded<'a> = Result<Term<'a>, Boxed>;
/// A term without its environment, so that it is returned in registers.
type Made = Result<ErlNifTerm, Boxed>;

fn at<T>(result: Result<T, Boxed>, step: impl FnOnce() -> String) -> Result<T, Boxed> {
    result.map_err(|mut failure| {
        if let Failure::Value { path, .. } = &mut *failure.0 {
            path.push(step());
        }
        failure
    })
}

/// The BEAM's tuples have at most this many elements.
const MAX_ARITY: usize = (1 << 24) - 1;

const BAD_EXT: BadValue = BadValue("an extension's payload is not what its code says");

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
    pub fn envelope(&self, bytes: &[u8]) -> Result<Term<'a>, Failure> {
        let budget = Budget::default();
        let mut reader = Reader::new(bytes, &budget);
        let mut run = Run { decoder: self, stack: STACK.take(), keys: [None; KEYS] };
        let done = run.value(&mut reader).and_then(|term| reader.finish().map(|()| term).map_err(Boxed::from));
        if run.stack.capacity() <= KEPT {
            run.stack.clear();
            STACK.set(run.stack);
        }
        done.map(|term| self.term(term)).map_err(|failure| *failure.0)
    }

    fn term(&self, made: ErlNifTerm) -> Term<'a> {
        // SAFETY: made in this environment, by `Run`.
        unsafe { Term::new(self.env, made) }
    }
}

/// A scheduler keeps the stack of its latest envelope for the next one, up to so many values.
const KEPT: usize = 1 << 19;

/// From so many values on, a list is worth a look at whether all are numbers.
const MANY: usize = 64;

thread_local! {
    static STACK: Cell<Vec<ErlNifTerm>> = const { Cell::new(Vec::new()) };
    static ETF: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One envelope on its way.
struct Run<'a, 'b, 'd, 'e> {
    decoder: &'d Decoder<'a, 'b>,
    /// The values so far of all containers that are not whole yet. It grows with what is there, whatever counts say.
    stack: Vec<ErlNifTerm>,
    /// Keys that were made: rows have the same ones, and share them.
    keys: [Option<(&'e str, ErlNifTerm)>; KEYS],
}

/// So many keys are remembered.
const KEYS: usize = 64;

impl<'a, 'e> Run<'a, '_, '_, 'e> {
    fn env(&self) -> Env<'a> {
        self.decoder.env
    }

    #[inline]
    fn value(&mut self, r: &mut Reader<'e>) -> Made {
        match r.number() {
            Some(Number::Int(n)) => Ok(self.int(n)),
            Some(Number::Float(x)) => Ok(self.float(x)),
            None => self.other(r),
        }
    }

    /// A value that is no number, or none that is read at once.
    fn other(&mut self, r: &mut Reader<'e>) -> Made {
        let env = self.env();
        Ok(match r.next()? {
            Token::Str(s) => NewBinary::from_slice(env, s.as_bytes()).into(),
            Token::Map(n) => return self.map(r, n),
            Token::Array(n) => return self.list(r, n),
            Token::Nil => atoms::nil().to_term(env),
            Token::Bool(b) => b.encode(env),
            Token::Int(n) => n.encode(env),
            Token::Uint(n) => n.encode(env),
            Token::Float(x) => return Ok(self.float(x)),
            Token::Bin(b) => NewBinary::from_slice(env, b).into(),
            Token::Ext(code, payload) => self.extension(r, code, payload)?,
        }
        .as_c_arg())
    }

    #[inline]
    fn int(&self, n: i64) -> ErlNifTerm {
        // SAFETY: the environment of the NIF that runs.
        unsafe { sys::enif_make_int64(self.env().as_c_arg(), n) }
    }

    /// The BEAM's floats are finite; the rest are atoms, as in Nx.
    #[inline]
    fn float(&self, x: f64) -> ErlNifTerm {
        if x.is_finite() {
            // SAFETY: the environment of the NIF that runs.
            return unsafe { sys::enif_make_double(self.env().as_c_arg(), x) };
        }
        let atom = if x.is_nan() {
            atoms::nan()
        } else if x > 0.0 {
            atoms::infinity()
        } else {
            atoms::neg_infinity()
        };
        atom.as_c_arg()
    }

    fn list(&mut self, r: &mut Reader<'e>, n: usize) -> Made {
        if n >= MANY
            && let Some(list) = self.numbers(r, n)
        {
            return Ok(list);
        }
        let start = self.items(r, n)?;
        let items = &self.stack[start..];
        // SAFETY: as many terms of this environment, which is that of the NIF that runs.
        let list = unsafe { sys::enif_make_list_from_array(self.env().as_c_arg(), items.as_ptr(), items.len() as u32) };
        self.stack.truncate(start);
        Ok(list)
    }

    /// A long list of numbers, made by the VM's own reader: it makes room for all of them at once, where each would have
    /// its own. `None`, with nothing read, if anything else is in it.
    fn numbers(&mut self, r: &mut Reader<'e>, n: usize) -> Option<ErlNifTerm> {
        let mut ahead = r.clone();
        ahead.enter().ok()?;
        let mut etf = ETF.take();
        etf.clear();
        // LIST_EXT
        etf.extend_from_slice(&[131, 108]);
        etf.extend_from_slice(&u32::try_from(n).ok()?.to_be_bytes());
        let whole = (0..n).all(|_| match ahead.number() {
            Some(Number::Float(x)) if x.is_finite() => {
                let [a, b, c, d, e, f, g, h] = x.to_be_bytes();
                // NEW_FLOAT_EXT
                etf.extend_from_slice(&[70, a, b, c, d, e, f, g, h]);
                true
            }
            Some(Number::Int(n)) => {
                if let Ok(n) = i32::try_from(n) {
                    let [a, b, c, d] = n.to_be_bytes();
                    // INTEGER_EXT
                    etf.extend_from_slice(&[98, a, b, c, d]);
                } else {
                    let [a, b, c, d, e, f, g, h] = n.unsigned_abs().to_le_bytes();
                    // SMALL_BIG_EXT
                    etf.extend_from_slice(&[110, 8, u8::from(n < 0), a, b, c, d, e, f, g, h]);
                }
                true
            }
            _ => false,
        });
        // NIL_EXT
        etf.push(106);
        let made = whole.then(|| self.env().binary_to_term(&etf)).flatten();
        if etf.capacity() <= KEPT * size_of::<ErlNifTerm>() {
            ETF.set(etf);
        }
        let (list, _) = made?;
        ahead.leave();
        *r = ahead;
        Some(list.as_c_arg())
    }

    /// Puts so many values on the stack; where they begin.
    fn items(&mut self, r: &mut Reader<'e>, n: usize) -> Result<usize, Boxed> {
        r.enter()?;
        let start = self.stack.len();
        for i in 0..n {
            let item = at(self.value(r), || format!("[{i}]"))?;
            self.stack.push(item);
        }
        r.leave();
        Ok(start)
    }

    /// The terms on the stack from there on; they leave it.
    fn taken(&mut self, start: usize) -> Vec<Term<'a>> {
        let items = self.stack.drain(start..);
        items.map(|item| self.decoder.term(item)).collect()
    }

    fn map(&mut self, r: &mut Reader<'e>, n: usize) -> Made {
        r.enter()?;
        let start = self.stack.len();
        for _ in 0..n {
            let key = self.key(r)?;
            self.stack.push(key);
            let item = at(self.value(r), || step(self.decoder.term(key)))?;
            self.stack.push(item);
        }
        r.leave();
        // Keys first, then values.
        let pairs = self.stack.len();
        for i in 0..n {
            self.stack.push(self.stack[start + 2 * i]);
        }
        for i in 0..n {
            self.stack.push(self.stack[start + 2 * i + 1]);
        }
        let (keys, values) = self.stack[pairs..].split_at(n);
        let mut map = atoms::nil().as_c_arg();
        // SAFETY: `n` keys and as many values of this environment, which is that of the NIF that runs.
        let made = unsafe {
            sys::enif_make_map_from_arrays(self.env().as_c_arg(), keys.as_ptr(), values.as_ptr(), n, &raw mut map)
        };
        self.stack.truncate(start);
        if made != 0 { Ok(map) } else { Err(Boxed::protocol("a map has a key twice")) }
    }

    fn key(&mut self, r: &mut Reader<'e>) -> Made {
        let env = self.env();
        match r.next()? {
            Token::Str(s) => {
                let bytes = s.as_bytes();
                let ends = bytes.first().zip(bytes.last()).map_or(0, |(a, z)| usize::from(*a) + 5 * usize::from(*z));
                let place = &mut self.keys[(ends + 11 * bytes.len()) % KEYS];
                if let Some((_, key)) = place.filter(|(known, _)| *known == s) {
                    return Ok(key);
                }
                let key = Term::from(NewBinary::from_slice(env, bytes)).as_c_arg();
                *place = Some((s, key));
                Ok(key)
            }
            Token::Int(n) => Ok(self.int(n)),
            Token::Uint(n) => Ok(n.encode(env).as_c_arg()),
            _ => Err(Boxed::protocol("a map's key is neither a str nor an integer")),
        }
    }

    fn extension(&mut self, r: &mut Reader<'e>, code: i8, payload: &'e [u8]) -> Decoded<'a> {
        match code {
            ext::BIG_INT => self.big_int(payload),
            ext::BYTES | ext::STR => self.buffer(payload),
            ext::TUPLE => {
                let items = self.nested(r, payload)?;
                if items.len() > MAX_ARITY {
                    return value(atoms::too_large(), "a tuple of more elements than the BEAM can hold");
                }
                Ok(make_tuple(self.env(), &items))
            }
            ext::SET => self.set(r, payload),
            ext::TENSOR => self.tensor(r, payload),
            ext::DATE => self.calendar(r, payload, atoms::elixir_date(), 3),
            ext::TIME => self.calendar(r, payload, atoms::elixir_time(), 4),
            ext::NAIVE_DATETIME => self.calendar(r, payload, atoms::elixir_naive_datetime(), 7),
            ext::DATETIME => self.calendar(r, payload, atoms::elixir_datetime(), 11),
            ext::DECIMAL => self.decimal(r, payload),
            _ => Err(Boxed::protocol("an unknown extension")),
        }
    }

    /// The array that fills an extension's payload.
    fn nested(&mut self, r: &mut Reader<'e>, payload: &'e [u8]) -> Result<Vec<Term<'a>>, Boxed> {
        r.enter()?;
        let mut inner = r.inside(payload);
        let Token::Array(n) = inner.next()? else { return Err(BAD_EXT.into()) };
        let start = self.items(&mut inner, n)?;
        inner.finish()?;
        r.leave();
        Ok(self.taken(start))
    }

    fn big_int(&self, payload: &'e [u8]) -> Decoded<'a> {
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
        match self.env().binary_to_term(&etf) {
            Some((term, _)) => Ok(term),
            None => value(atoms::too_large(), "an integer larger than the BEAM can hold"),
        }
    }

    fn buffer(&self, payload: &'e [u8]) -> Decoded<'a> {
        let index = u32::from_le_bytes(payload.try_into().map_err(|_| BAD_EXT)?);
        self.decoder
            .buffers
            .get(index as usize)
            .copied()
            .ok_or_else(|| Boxed::protocol("a buffer index is out of range"))
    }

    fn set(&mut self, r: &mut Reader<'e>, payload: &'e [u8]) -> Decoded<'a> {
        let items = self.nested(r, payload)?;
        let empty = Vec::<Term>::new().encode(self.env());
        // Members that are equal in Elixir but not in Python (b"a" and "a") are refused: one of them would be lost.
        match Term::map_from_term_arrays(self.env(), &items, &vec![empty; items.len()]) {
            Ok(map) => self.decoder.empty_set.map_put(atoms::map(), map).map_err(|_| Boxed::protocol("no MapSet")),
            Err(_) => {
                value(atoms::key_collision(), "two members of this set are one in Elixir, such as b\"a\" and \"a\"")
            }
        }
    }

    fn tensor(&self, r: &mut Reader<'e>, payload: &'e [u8]) -> Decoded<'a> {
        r.enter()?;
        let mut inner = r.inside(payload);
        let (Token::Array(3), Token::Str(dtype), Token::Array(rank)) = (inner.next()?, inner.next()?, inner.next()?)
        else {
            return Err(BAD_EXT.into());
        };
        let (kind, bits, _) = DTYPES.iter().find(|(_, _, name)| *name == dtype).ok_or(BAD_EXT)?;
        if rank > MAX_DIMS {
            return Err(Boxed::protocol("a tensor has more than 64 dimensions"));
        }
        let mut dims = Vec::with_capacity(rank);
        for _ in 0..rank {
            match inner.next()? {
                Token::Int(n) => dims.push(u64::try_from(n).map_err(|_| BAD_EXT)?),
                _ => return Err(BAD_EXT.into()),
            }
        }
        let data = match inner.next()? {
            Token::Bin(b) => NewBinary::from_slice(self.env(), b).into(),
            Token::Ext(ext::BYTES, index) => self.buffer(index)?,
            _ => return Err(BAD_EXT.into()),
        };
        inner.finish()?;
        r.leave();
        let want = dims.iter().try_fold(u64::from(bits / 8), |n, d| n.checked_mul(*d));
        let len = Binary::from_term(data).map(|b| b.len() as u64).ok();
        if want.is_none() || want != len {
            return Err(Boxed::protocol("a tensor's data is not as long as its shape says"));
        }
        let env = self.env();
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
        let (mut keys, mut values) = (vec![atoms::__struct__().to_term(self.env())], vec![name.to_term(self.env())]);
        for (key, value) in fields {
            keys.push(key.to_term(self.env()));
            values.push(*value);
        }
        Term::map_from_term_arrays(self.env(), &keys, &values).map_err(|_| Boxed::from(BAD_EXT))
    }

    /// Dates and times: `n` items, the first of them numbers that must name a real day or time.
    fn calendar(&mut self, r: &mut Reader<'e>, payload: &'e [u8], name: Atom, n: usize) -> Decoded<'a> {
        let items = self.nested(r, payload)?;
        if items.len() != n {
            return Err(BAD_EXT.into());
        }
        let number = |i: usize| items[i].decode::<i64>().map_err(|_| BAD_EXT);
        let within = |i: usize, low: i64, high: i64| match number(i)? {
            v if (low..=high).contains(&v) => Ok(items[i]),
            _ => Err(BAD_EXT),
        };
        let mut fields = vec![(atoms::calendar(), atoms::iso().to_term(self.env()))];
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
            fields.push((atoms::microsecond(), (us, 6).encode(self.env())));
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

    fn decimal(&self, r: &mut Reader<'e>, payload: &'e [u8]) -> Decoded<'a> {
        let mut inner = r.inside(payload);
        let Token::Str(text) = inner.next()? else { return Err(BAD_EXT.into()) };
        inner.finish()?;
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (coef, exp) = match digits {
            "NaN" => (atoms::nan_upper().to_term(self.env()), 0),
            "Infinity" => (atoms::inf().to_term(self.env()), 0),
            _ => self.coefficient(digits)?,
        };
        let env = self.env();
        let fields = [(atoms::sign(), sign.encode(env)), (atoms::coef(), coef), (atoms::exp(), exp.encode(env))];
        let name = if self.decoder.decimal { atoms::elixir_decimal() } else { atoms::elixir_snakepit_decimal() };
        self.structure(name, &fields)
    }

    /// `12.50E+3` as coefficient 1250 and exponent 1.
    fn coefficient(&self, text: &str) -> Result<(Term<'a>, i64), Boxed> {
        let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().map_err(|_| BAD_EXT)?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.len() > decimal::MAX_DIGITS {
            return Err(BAD_EXT.into());
        }
        let exp = exponent.checked_sub(fraction.len() as i64).ok_or(BAD_EXT)?;
        Ok((self.large(false, &decimal::magnitude(&digits))?, exp))
    }
}

fn value<'a>(reason: Atom, detail: &str) -> Decoded<'a> {
    Err(Boxed(Box::new(Failure::Value { path: Vec::new(), reason, detail: detail.to_owned() })))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}
