//! Elixir terms to envelope and buffers.

use crate::atoms;
use crate::chunk::Chunk;
use rustler::types::map::MapIterator;
use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Env, ListIterator, Term, TermType};
use snakepit_core::cost_model::Kind;
use snakepit_core::writer::{OpenExt, Writer, ext};
use snakepit_core::{MAX_DEPTH, MAX_DIMS, MAX_VALUES};
use std::collections::HashSet;

/// Work a call on an ordinary scheduler may do before it asks for a dirty one: about 100 µs.
pub const CLEAN_VALUES: u32 = 4_000;
pub const CLEAN_BYTES: usize = 512 * 1024;

/// Why a term was not encoded.
pub enum Refusal {
    /// The caller's mistake: where (innermost first), what, and words for it.
    Term { path: Vec<String>, reason: Atom, detail: String },
    /// Too much work for an ordinary scheduler.
    Dirty,
    /// A struct that Elixir must turn into something else first (`Nx.Tensor`).
    Convert,
}

type Encoded = Result<(), Refusal>;

fn refuse<T>(reason: Atom, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Term { path: Vec::new(), reason, detail: detail.into() })
}

/// Adds a step to the path of a refusal on its way up; costs nothing when all is well.
fn at<T>(result: Result<T, Refusal>, step: impl FnOnce() -> String) -> Result<T, Refusal> {
    result.map_err(|refusal| match refusal {
        Refusal::Term { mut path, reason, detail } => {
            path.push(step());
            Refusal::Term { path, reason, detail }
        }
        other => other,
    })
}

/// One request in the making.
pub struct Encoder<'a> {
    env: Env<'a>,
    pub out: Writer,
    /// What travels out of band.
    pub buffers: Vec<Binary<'a>>,
    pub buffer_bytes: usize,
    /// Of these, how many lie in no chunk yet.
    pub fresh_bytes: usize,
    /// What all buffers are, or that they are several things.
    pub kind: Option<Kind>,
    inline_limit: usize,
    values_left: u32,
    bytes_left: usize,
    clean: bool,
}

impl<'a> Encoder<'a> {
    /// `clean`: stop with [`Refusal::Dirty`] when the work is too much for an ordinary scheduler.
    pub fn new(env: Env<'a>, inline_limit: usize, clean: bool) -> Self {
        Self {
            env,
            out: Writer::with_capacity(256),
            buffers: Vec::new(),
            buffer_bytes: 0,
            fresh_bytes: 0,
            kind: None,
            inline_limit: inline_limit.max(1),
            values_left: if clean { CLEAN_VALUES } else { MAX_VALUES },
            bytes_left: if clean { CLEAN_BYTES } else { usize::MAX },
            clean,
        }
    }

    fn count(&mut self) -> Encoded {
        if self.values_left == 0 {
            if self.clean {
                return Err(Refusal::Dirty);
            }
            return refuse(atoms::too_many_values(), "more than 2^26 values");
        }
        self.values_left -= 1;
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Encoded {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(Refusal::Dirty),
        }
    }

    /// Any supported term.
    pub fn term(&mut self, term: Term<'a>, depth: u32) -> Encoded {
        self.count()?;
        if depth > MAX_DEPTH {
            return refuse(atoms::too_deep(), "nested deeper than 128");
        }
        match term.get_type() {
            TermType::Atom => self.atom(term),
            TermType::Integer => self.integer(term),
            TermType::Float => {
                self.out.float(number(term)?);
                Ok(())
            }
            TermType::Binary => self.text(term),
            TermType::List => self.list(term, depth),
            TermType::Tuple => {
                let Ok(items) = get_tuple(term) else { return unsupported("a tuple that cannot be read") };
                self.payload(ext::TUPLE, |this| {
                    this.out.array(items.len() as u32);
                    for (i, item) in items.into_iter().enumerate() {
                        at(this.term(item, depth + 1), || format!("[{i}]"))?;
                    }
                    Ok(())
                })
            }
            TermType::Map => match term.map_get(atoms::__struct__()) {
                Ok(name) => self.structure(term, name, depth),
                Err(_) => self.map(term, depth),
            },
            TermType::Fun => unsupported("a function"),
            TermType::Pid => unsupported("a pid"),
            TermType::Port => unsupported("a port"),
            TermType::Ref => unsupported("a reference"),
            TermType::Unknown => unsupported("a term of an unknown kind"),
        }
    }

    fn atom(&mut self, term: Term<'a>) -> Encoded {
        let out = &mut self.out;
        if term == atoms::nil().to_term(self.env) {
            out.nil();
        } else if term == atoms::true_().to_term(self.env) {
            out.bool(true);
        } else if term == atoms::false_().to_term(self.env) {
            out.bool(false);
        } else if term == atoms::nan().to_term(self.env) {
            out.float(f64::NAN);
        } else if term == atoms::infinity().to_term(self.env) {
            out.float(f64::INFINITY);
        } else if term == atoms::neg_infinity().to_term(self.env) {
            out.float(f64::NEG_INFINITY);
        } else {
            out.str(&atom_text(term)?);
        }
        Ok(())
    }

    fn integer(&mut self, term: Term<'a>) -> Encoded {
        if let Ok(n) = term.decode::<i64>() {
            self.out.int(n);
        } else if let Ok(n) = term.decode::<u64>() {
            self.out.uint(n);
        } else {
            let (negative, magnitude) = big_integer(term)?;
            self.spend(magnitude.len())?;
            self.out.big_int(negative, &magnitude);
        }
        Ok(())
    }

    fn text(&mut self, term: Term<'a>) -> Encoded {
        let Ok(binary) = Binary::from_term(term) else {
            return unsupported("a bitstring whose length is no multiple of 8 bits");
        };
        let bytes = binary.as_slice();
        self.spend(bytes.len())?;
        let Ok(text) = simdutf8_check(bytes) else {
            let s = if bytes.len() == 1 { "" } else { "s" };
            return refuse(atoms::not_utf8(), format!("a binary of {} byte{s} that is not UTF-8", bytes.len()));
        };
        if bytes.len() >= self.inline_limit {
            let index = self.buffer(binary, Kind::Text)?;
            self.out.buffer(ext::STR, index);
        } else {
            self.out.str(text);
        }
        Ok(())
    }

    /// Bytes: within the envelope when small, else out of band.
    fn bytes(&mut self, binary: Binary<'a>, kind: Kind) -> Encoded {
        if binary.len() >= self.inline_limit {
            let index = self.buffer(binary, kind)?;
            self.out.buffer(ext::BYTES, index);
        } else {
            self.spend(binary.len())?;
            self.out.bin(binary.as_slice());
        }
        Ok(())
    }

    fn buffer(&mut self, binary: Binary<'a>, kind: Kind) -> Result<u32, Refusal> {
        if self.buffers.len() == snakepit_core::frame::MAX_BUFFERS {
            return refuse(atoms::too_many_buffers(), "more than 65536 large values in one call");
        }
        self.buffer_bytes += binary.len();
        if !Chunk::covers(binary.as_slice()) {
            self.fresh_bytes += binary.len();
        }
        self.kind = Some(if self.kind.is_none_or(|k| k == kind) { kind } else { Kind::Mixed });
        self.buffers.push(binary);
        Ok(self.buffers.len() as u32 - 1)
    }

    fn list(&mut self, term: Term<'a>, depth: u32) -> Encoded {
        let Ok(len) = term.list_length() else {
            return unsupported("an improper list");
        };
        let Ok(short) = u32::try_from(len) else { return refuse(atoms::too_many_values(), "more than 2^26 values") };
        if short > self.values_left && self.clean {
            return Err(Refusal::Dirty);
        }
        self.out.array(short);
        let Ok(items) = term.decode::<ListIterator>() else { return unsupported("an improper list") };
        for (i, item) in items.enumerate() {
            at(self.term(item, depth + 1), || format!("[{i}]"))?;
        }
        Ok(())
    }

    fn map(&mut self, term: Term<'a>, depth: u32) -> Encoded {
        let size = term.map_size().unwrap_or(0);
        if size > self.values_left as usize && self.clean {
            return Err(Refusal::Dirty);
        }
        self.out.map(size as u32);
        let (mut atoms_seen, mut texts_seen) = (false, false);
        for (key, value) in MapIterator::new(term).into_iter().flatten() {
            self.count()?;
            match key.get_type() {
                TermType::Atom => {
                    atoms_seen = true;
                    self.out.str(&atom_text(key)?);
                }
                TermType::Binary => {
                    texts_seen = true;
                    self.key(key)?;
                }
                TermType::Integer if key.decode::<i64>().is_ok() || key.decode::<u64>().is_ok() => self.integer(key)?,
                _ => {
                    let detail = format!("the key {}: keys are strings, atoms or 64-bit integers", shown(key));
                    return refuse(atoms::unsupported_key(), detail);
                }
            }
            at(self.term(value, depth + 1), || step(key))?;
        }
        if atoms_seen && texts_seen { self.no_collision(term) } else { Ok(()) }
    }

    fn key(&mut self, key: Term<'a>) -> Encoded {
        let text = Binary::from_term(key).ok().map(|b| b.as_slice()).and_then(|b| simdutf8_check(b).ok());
        match text {
            Some(text) => {
                self.spend(text.len())?;
                self.out.str(text);
                Ok(())
            }
            None => refuse(atoms::unsupported_key(), format!("the key {}: it is not UTF-8", shown(key))),
        }
    }

    /// An atom and a string of the same letters are one key in Python.
    fn no_collision(&self, term: Term<'a>) -> Encoded {
        let mut names: HashSet<Vec<u8>> = HashSet::new();
        for (key, _) in MapIterator::new(term).into_iter().flatten() {
            let name = match key.get_type() {
                TermType::Atom => atom_text(key)?.into_bytes(),
                TermType::Binary => Binary::from_term(key).map(|b| b.as_slice().to_vec()).unwrap_or_default(),
                _ => continue,
            };
            if let Some(name) = names.replace(name) {
                let name = String::from_utf8_lossy(&name).into_owned();
                return refuse(atoms::key_collision(), format!("{name:?} is a key twice, as an atom and as a string"));
            }
        }
        Ok(())
    }

    fn payload(&mut self, code: i8, inner: impl FnOnce(&mut Self) -> Encoded) -> Encoded {
        let open: OpenExt = self.out.open_ext(code);
        inner(self)?;
        if self.out.close_ext(open) { Ok(()) } else { refuse(atoms::too_large(), "more than 4 GiB in one value") }
    }

    fn structure(&mut self, term: Term<'a>, name: Term<'a>, depth: u32) -> Encoded {
        let name = atom_text(name)?;
        match name.as_str() {
            "Elixir.Snakepit.Bytes" => match field(term, atoms::data()).and_then(|d| Binary::from_term(d).ok()) {
                Some(data) => self.bytes(data, Kind::Binary),
                None => unsupported("a %Snakepit.Bytes{} whose data is no binary"),
            },
            "Elixir.Snakepit.Tensor" => self.tensor(term),
            "Elixir.MapSet" => self.set(term, depth),
            "Elixir.Date" => self.calendar(term, ext::DATE, &DATE),
            "Elixir.Time" => self.calendar(term, ext::TIME, &TIME),
            "Elixir.NaiveDateTime" => self.calendar(term, ext::NAIVE_DATETIME, &NAIVE),
            "Elixir.DateTime" => self.calendar(term, ext::DATETIME, &NAIVE),
            "Elixir.Decimal" | "Elixir.Snakepit.Decimal" => self.decimal(term),
            "Elixir.Nx.Tensor" => Err(Refusal::Convert),
            other => {
                let module = other.strip_prefix("Elixir.").unwrap_or(other);
                unsupported(format!("the struct %{module}{{}}"))
            }
        }
    }

    fn set(&mut self, term: Term<'a>, depth: u32) -> Encoded {
        let Some(inner) = field(term, atoms::map()).filter(|m| m.is_map()) else {
            return unsupported("a MapSet of an unknown layout");
        };
        self.payload(ext::SET, |this| {
            this.out.array(inner.map_size().unwrap_or(0) as u32);
            for (item, _) in MapIterator::new(inner).into_iter().flatten() {
                at(this.term(item, depth + 1), || format!("(member {})", shown(item)))?;
            }
            Ok(())
        })
    }

    fn tensor(&mut self, term: Term<'a>) -> Encoded {
        let bad = |what: String| refuse(atoms::bad_tensor(), what);
        let Some(data) = field(term, atoms::data()).and_then(|d| Binary::from_term(d).ok()) else {
            return at(bad("a tensor's data must be a binary".into()), || ".data".into());
        };
        let kind = field(term, atoms::type_()).and_then(|t| t.decode::<(Atom, u32)>().ok());
        let Some((dtype, item)) = kind.and_then(|(k, bits)| dtype_name(k, bits)) else {
            let what = "a tensor's type must be one of Snakepit.Tensor's types, such as {:f, 32}";
            return at(bad(what.into()), || ".type".into());
        };
        let shape = field(term, atoms::shape()).and_then(|s| get_tuple(s).ok());
        let dims: Option<Vec<u64>> = shape.and_then(|s| s.into_iter().map(|d| d.decode().ok()).collect());
        let Some(dims) = dims.filter(|d| d.len() <= MAX_DIMS) else {
            let what = "a tensor's shape must be a tuple of at most 64 non-negative integers";
            return at(bad(what.into()), || ".shape".into());
        };
        let want = dims.iter().try_fold(item, |n, d| n.checked_mul(*d));
        if want != Some(data.len() as u64) {
            let want = want.map_or("more than 2^64".to_owned(), |n| n.to_string());
            let what = format!("a {dtype} tensor of shape {dims:?} takes {want} B, its data has {}", data.len());
            return at(bad(what), || ".data".into());
        }
        self.payload(ext::TENSOR, |this| {
            this.out.array(3);
            this.out.str(dtype);
            this.out.array(dims.len() as u32);
            dims.iter().for_each(|d| this.out.uint(*d));
            this.bytes(data, Kind::Tensor)
        })
    }

    fn calendar(&mut self, term: Term<'a>, code: i8, fields: &[Field]) -> Encoded {
        let iso = field(term, atoms::calendar()).is_some_and(|c| c == atoms::iso().to_term(self.env));
        if !iso {
            return unsupported("a date or time of another calendar than Calendar.ISO");
        }
        let mut numbers = [0i64; 7];
        for (i, (name, low, high)) in fields.iter().enumerate() {
            let value = field(term, name());
            let number = if name() == atoms::microsecond() {
                value.and_then(|v| v.decode::<(i64, i64)>().ok()).map(|(us, _)| us)
            } else {
                value.and_then(|v| v.decode::<i64>().ok())
            };
            match number {
                Some(n) if (*low..=*high).contains(&n) => numbers[i] = n,
                _ => {
                    let what = format!(
                        "Python's datetime takes {low} to {high} here, got {}",
                        value.map_or("nothing".into(), shown)
                    );
                    return at(refuse(atoms::bad_date(), what), || step(name().to_term(self.env)));
                }
            }
        }
        let zone = if code == ext::DATETIME { Some(zone(term)?) } else { None };
        self.payload(code, |this| {
            this.out.array(fields.len() as u32 + if zone.is_some() { 4 } else { 0 });
            numbers[..fields.len()].iter().for_each(|n| this.out.int(*n));
            if let Some((name, abbreviation, utc, dst)) = zone {
                this.out.str(&name);
                this.out.str(&abbreviation);
                this.out.int(utc);
                this.out.int(dst);
            }
            Ok(())
        })
    }

    fn decimal(&mut self, term: Term<'a>) -> Encoded {
        let sign: Option<i64> = field(term, atoms::sign()).and_then(|s| s.decode().ok());
        let exponent: Option<i64> = field(term, atoms::exp()).and_then(|e| e.decode().ok());
        let (Some(sign), Some(exponent), Some(coef)) = (sign, exponent, field(term, atoms::coef())) else {
            return unsupported("a %Decimal{} of an unknown layout");
        };
        let minus = if sign < 0 { "-" } else { "" };
        let text = match coef.get_type() {
            TermType::Atom if coef == atoms::inf().to_term(self.env) => format!("{minus}Infinity"),
            TermType::Atom if coef == atoms::nan_upper().to_term(self.env) => "NaN".to_owned(),
            TermType::Integer => format!("{minus}{}E{exponent}", digits(coef)?),
            _ => return unsupported("a %Decimal{} of an unknown layout"),
        };
        self.payload(ext::DECIMAL, |this| {
            this.out.str(&text);
            Ok(())
        })
    }
}

/// A field's name, and the lowest and highest value Python takes.
type Field = (fn() -> Atom, i64, i64);
const DATE: [Field; 3] = [(atoms::year, 1, 9999), (atoms::month, 1, 12), (atoms::day, 1, 31)];
const TIME: [Field; 4] =
    [(atoms::hour, 0, 23), (atoms::minute, 0, 59), (atoms::second, 0, 59), (atoms::microsecond, 0, 999_999)];
const NAIVE: [Field; 7] = [DATE[0], DATE[1], DATE[2], TIME[0], TIME[1], TIME[2], TIME[3]];

fn zone(term: Term) -> Result<(String, String, i64, i64), Refusal> {
    let text = |name: Atom| field(term, name).and_then(|t| t.decode::<String>().ok());
    let int = |name: Atom| field(term, name).and_then(|t| t.decode::<i64>().ok());
    let all = (text(atoms::time_zone()), text(atoms::zone_abbr()), int(atoms::utc_offset()), int(atoms::std_offset()));
    match all {
        (Some(name), Some(abbreviation), Some(utc), Some(dst)) => Ok((name, abbreviation, utc, dst)),
        _ => refuse(atoms::bad_date(), "a DateTime whose time zone is incomplete"),
    }
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, Refusal> {
    refuse(atoms::unsupported_type(), what)
}

fn number(term: Term) -> Result<f64, Refusal> {
    term.decode().or_else(|_| unsupported("a float that cannot be read"))
}

fn field<'a>(term: Term<'a>, name: Atom) -> Option<Term<'a>> {
    term.map_get(name).ok()
}

/// An atom's name. Before NIF 2.17 the API knows Latin-1 alone, so other names are read from the external format.
fn atom_text(term: Term) -> Result<String, Refusal> {
    if let Ok(name) = term.atom_to_string() {
        return Ok(name);
    }
    let bytes = term.to_binary();
    // 131, then SMALL_ATOM_UTF8_EXT (119, length) or ATOM_UTF8_EXT (118, length as u16).
    let name = match bytes.as_slice() {
        [131, 119, _, name @ ..] | [131, 118, _, _, name @ ..] => std::str::from_utf8(name).ok(),
        _ => None,
    };
    name.map_or_else(|| unsupported("an atom of an unknown layout"), |name| Ok(name.to_owned()))
}

fn simdutf8_check(bytes: &[u8]) -> Result<&str, ()> {
    snakepit_core::utf8(bytes).ok_or(())
}

/// A term in few words, for messages.
fn shown(term: Term) -> String {
    let mut text = format!("{term:?}");
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A map's key as a step of a path: `.x` for an atom, `["x"]` for a string, `[3]` for an integer.
fn step(key: Term) -> String {
    match key.get_type() {
        TermType::Atom => format!(".{}", atom_text(key).unwrap_or_default()),
        TermType::Binary => {
            let text = Binary::from_term(key).map(|b| String::from_utf8_lossy(b.as_slice()).into_owned());
            format!("[{:?}]", text.unwrap_or_default())
        }
        _ => format!("[{}]", shown(key)),
    }
}

/// The erts external format of an integer beyond 64 bits: sign and little-endian magnitude.
fn big_integer(term: Term) -> Result<(bool, Vec<u8>), Refusal> {
    let bytes = term.to_binary();
    // 131, then SMALL_BIG_EXT (110, n, sign) or LARGE_BIG_EXT (111, n as u32, sign).
    match bytes.as_slice() {
        [131, 110, _, sign, rest @ ..] => Ok((*sign == 1, rest.to_vec())),
        [131, 111, _, _, _, _, sign, rest @ ..] => Ok((*sign == 1, rest.to_vec())),
        _ => unsupported("an integer of an unknown layout"),
    }
}

/// Bytes of a number of 4,096 decimal digits, which a reply may have (`decode.rs`).
const MAX_COEFFICIENT: usize = 1701;

/// An integer in decimal digits. What prints terms for messages cuts long ones.
fn digits(term: Term) -> Result<String, Refusal> {
    if let Ok(number) = term.decode::<u64>() {
        return Ok(number.to_string());
    }
    if term.decode::<i64>().is_ok() {
        return unsupported("a %Decimal{} whose coefficient is negative");
    }
    let (negative, magnitude) = big_integer(term)?;
    if magnitude.len() > MAX_COEFFICIENT {
        return refuse(atoms::too_large(), "a decimal of more than 4096 digits");
    }
    if negative {
        return unsupported("a %Decimal{} whose coefficient is negative");
    }
    // Groups of nine digits, the lowest first.
    let mut groups: Vec<u32> = Vec::new();
    for byte in magnitude.iter().rev() {
        let mut carry = u64::from(*byte);
        for group in &mut groups {
            carry += u64::from(*group) << 8;
            *group = (carry % 1_000_000_000) as u32;
            carry /= 1_000_000_000;
        }
        if carry > 0 {
            groups.push(carry as u32);
        }
    }
    let mut text = groups.pop().unwrap_or(0).to_string();
    groups.iter().rev().for_each(|group| text.push_str(&format!("{group:09}")));
    Ok(text)
}

/// The protocol's name of a tensor type and the bytes of one item.
pub fn dtype_name(kind: Atom, bits: u32) -> Option<(&'static str, u64)> {
    DTYPES.iter().find(|(k, b, _)| *b == bits && k() == kind).map(|(_, b, name)| (*name, u64::from(*b / 8)))
}

/// A tensor type: kind and bits in Elixir, name on the wire.
pub type Dtype = (fn() -> Atom, u32, &'static str);

/// All of them.
pub const DTYPES: [Dtype; 15] = [
    (atoms::bool, 8, "bool"),
    (atoms::u, 8, "u8"),
    (atoms::u, 16, "u16"),
    (atoms::u, 32, "u32"),
    (atoms::u, 64, "u64"),
    (atoms::s, 8, "s8"),
    (atoms::s, 16, "s16"),
    (atoms::s, 32, "s32"),
    (atoms::s, 64, "s64"),
    (atoms::f, 16, "f16"),
    (atoms::bf, 16, "bf16"),
    (atoms::f, 32, "f32"),
    (atoms::f, 64, "f64"),
    (atoms::c, 64, "c64"),
    (atoms::c, 128, "c128"),
];
