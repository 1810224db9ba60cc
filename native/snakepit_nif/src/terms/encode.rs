//! Elixir terms to envelope and buffers.

use super::shown::{atom_text, big_integer, shown, step};
use crate::atoms;
use crate::bounds;
use crate::memory::chunk::Chunk;
use rustler::sys::{self, enif_get_tuple};
use rustler::types::map::MapIterator;
use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Env, Term, TermType};
use snakepit_core::cost_model::Kind;
use snakepit_core::writer::{OpenExt, Writer, ext};
use snakepit_core::{MAX_DEPTH, MAX_VALUES};
use std::cell::Cell;
use std::collections::HashSet;

/// Why a term was not encoded. Small, as every value's result has room for it.
pub enum Refusal {
    Term(Box<Bad>),
    /// Too much work for an ordinary scheduler.
    Dirty,
    /// A struct that Elixir must turn into something else first (`Nx.Tensor`).
    Convert,
}

/// The caller's mistake: where (innermost first), what, and words for it.
pub struct Bad {
    pub path: Vec<String>,
    pub reason: Atom,
    pub detail: String,
}

pub type Encoded = Result<(), Refusal>;

#[cold]
pub fn refuse<T>(reason: Atom, detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Term(Box::new(Bad { path: Vec::new(), reason, detail: detail.into() })))
}

/// Adds a step to the path of a refusal on its way up; costs nothing when all is well.
pub fn at<T>(result: Result<T, Refusal>, step: impl FnOnce() -> String) -> Result<T, Refusal> {
    result.map_err(|mut refusal| {
        if let Refusal::Term(bad) = &mut refusal {
            bad.path.push(step());
        }
        refusal
    })
}

/// The type of a list's latest value.
enum Like {
    Int,
    Float,
    Text,
    Other,
}

/// A scheduler keeps the memory of its latest envelope for the next one, up to this size: to have fresh pages costs as much
/// as to fill them.
const KEPT: usize = 4 << 20;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        let mut memory = Vec::from(std::mem::take(&mut self.out));
        if memory.capacity() <= KEPT {
            memory.clear();
            SCRATCH.set(memory);
        }
    }
}

/// One request in the making.
pub struct Encoder<'a> {
    pub env: Env<'a>,
    pub out: Writer,
    /// The binaries that travel out of band.
    pub buffers: Vec<Binary<'a>>,
    pub buffer_bytes: usize,
    /// The part of `buffer_bytes` that lies in no chunk yet.
    pub fresh_bytes: usize,
    /// The kind of all buffers, or `Mixed`.
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
            out: Writer::from(SCRATCH.take()),
            buffers: Vec::new(),
            buffer_bytes: 0,
            fresh_bytes: 0,
            kind: None,
            inline_limit: inline_limit.max(1),
            values_left: if clean { bounds::VALUES } else { MAX_VALUES },
            bytes_left: if clean { bounds::ENCODED_BYTES } else { usize::MAX },
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

    pub fn spend(&mut self, bytes: usize) -> Encoded {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => {
                self.bytes_left = left;
                Ok(())
            }
            None => Err(Refusal::Dirty),
        }
    }

    /// Into a container, or an extension, of this depth.
    pub fn enter(&self, depth: u32) -> Encoded {
        if depth > MAX_DEPTH { refuse(atoms::too_deep(), "nested deeper than 128") } else { Ok(()) }
    }

    /// Before so many values are looked at: whether that is too much for an ordinary scheduler.
    pub fn many(&self, values: usize) -> Encoded {
        if self.clean && values > self.values_left as usize { Err(Refusal::Dirty) } else { Ok(()) }
    }

    /// Any supported term. One that is a container has this depth.
    pub fn term(&mut self, term: Term<'a>, depth: u32) -> Encoded {
        self.count()?;
        match term.get_type() {
            TermType::Atom => self.atom(term),
            TermType::Integer => self.integer(term),
            TermType::Float => {
                self.out.float(number(term)?);
                Ok(())
            }
            TermType::Binary => match Binary::from_term(term) {
                Ok(binary) => self.text(binary),
                Err(_) => unsupported("a bitstring whose length is no multiple of 8 bits"),
            },
            TermType::List => self.list(term, depth),
            TermType::Tuple => {
                self.enter(depth + 1)?;
                let Some(arity) = tuple_arity(term) else { return unsupported("a tuple that cannot be read") };
                self.many(arity)?;
                let Ok(items) = get_tuple(term) else { return unsupported("a tuple that cannot be read") };
                self.payload(ext::TUPLE, |this| {
                    this.out.array(items.len() as u32);
                    for (i, item) in items.into_iter().enumerate() {
                        at(this.term(item, depth + 2), || format!("[{i}]"))?;
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

    fn text(&mut self, binary: Binary<'a>) -> Encoded {
        let bytes = binary.as_slice();
        self.spend(bytes.len())?;
        let sound = if bytes.len() < self.inline_limit {
            self.out.text(bytes)
        } else if snakepit_core::utf8(bytes).is_some() {
            // The reader of the buffer checks it as well.
            let index = self.buffer(binary, Kind::Text)?;
            self.out.buffer(ext::STR, index);
            true
        } else {
            false
        };
        if sound {
            return Ok(());
        }
        let s = if bytes.len() == 1 { "" } else { "s" };
        refuse(atoms::not_utf8(), format!("a binary of {} byte{s} that is not UTF-8", bytes.len()))
    }

    /// Bytes: within the envelope when small, else out of band.
    pub fn bytes(&mut self, binary: Binary<'a>, kind: Kind) -> Encoded {
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
        if self.clean && self.buffers.len() == bounds::BUFFERS {
            return Err(Refusal::Dirty);
        }
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
        self.enter(depth)?;
        if self.clean && self.is_longer(term) {
            return Err(Refusal::Dirty);
        }
        let Ok(len) = term.list_length() else {
            return unsupported("an improper list");
        };
        let Ok(short) = u32::try_from(len) else { return refuse(atoms::too_many_values(), "more than 2^26 values") };
        self.out.array(short);
        let (env, mut head, mut tail) = (self.env.as_c_arg(), term.as_c_arg(), term.as_c_arg());
        let mut like = Like::Other;
        for i in 0..len {
            // SAFETY: terms of this environment, which is that of the NIF that runs; both are written for a cell.
            let item = unsafe {
                sys::enif_get_list_cell(env, tail, &raw mut head, &raw mut tail);
                Term::new(self.env, head)
            };
            at(self.item(item, &mut like, depth + 1), || format!("[{i}]"))?;
        }
        Ok(())
    }

    /// A value of a list: most are of the same type as the one before, which saves a question.
    #[inline]
    fn item(&mut self, item: Term<'a>, like: &mut Like, depth: u32) -> Encoded {
        let (env, term) = (self.env.as_c_arg(), item.as_c_arg());
        let (mut int, mut float) = (0, 0.0);
        // SAFETY: as for any term of this environment; a number is written where there is one.
        let is_like = unsafe {
            match like {
                Like::Int => sys::enif_get_int64(env, term, &raw mut int) != 0,
                Like::Float => sys::enif_get_double(env, term, &raw mut float) != 0,
                Like::Text => {
                    if let Ok(binary) = Binary::from_term(item) {
                        self.count()?;
                        return self.text(binary);
                    }
                    false
                }
                Like::Other => false,
            }
        };
        if !is_like {
            *like = match item.get_type() {
                TermType::Integer => Like::Int,
                TermType::Float => Like::Float,
                TermType::Binary => Like::Text,
                _ => Like::Other,
            };
            return self.term(item, depth);
        }
        self.count()?;
        if matches!(like, Like::Int) {
            self.out.int(int);
        } else {
            self.out.float(float);
        }
        Ok(())
    }

    /// Whether a list has more values than may still be looked at. The length of a list is not cheap to know.
    fn is_longer(&self, term: Term<'a>) -> bool {
        let mut rest = term;
        for _ in 0..=self.values_left {
            match rest.list_get_cell() {
                Ok((_, tail)) => rest = tail,
                Err(_) => return false,
            }
        }
        true
    }

    fn map(&mut self, term: Term<'a>, depth: u32) -> Encoded {
        self.enter(depth)?;
        let size = term.map_size().unwrap_or(0);
        self.many(size)?;
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
        if let Ok(binary) = Binary::from_term(key) {
            self.spend(binary.len())?;
            if self.out.text(binary.as_slice()) {
                return Ok(());
            }
        }
        refuse(atoms::unsupported_key(), format!("the key {}: it is not UTF-8", shown(key)))
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

    pub fn payload(&mut self, code: i8, inner: impl FnOnce(&mut Self) -> Encoded) -> Encoded {
        let open: OpenExt = self.out.open_ext(code);
        inner(self)?;
        if self.out.close_ext(open) { Ok(()) } else { refuse(atoms::too_large(), "more than 4 GiB in one value") }
    }
}

pub fn unsupported<T>(what: impl Into<String>) -> Result<T, Refusal> {
    refuse(atoms::unsupported_type(), what)
}

fn number(term: Term) -> Result<f64, Refusal> {
    term.decode().or_else(|_| unsupported("a float that cannot be read"))
}

/// How many elements a tuple has.
pub fn tuple_arity(term: Term) -> Option<usize> {
    let (mut arity, mut elements) = (0, std::ptr::null());
    // SAFETY: the term belongs to the environment; both are written where it is a tuple.
    let is = unsafe { enif_get_tuple(term.get_env().as_c_arg(), term.as_c_arg(), &raw mut arity, &raw mut elements) };
    (is != 0).then_some(arity as usize)
}
