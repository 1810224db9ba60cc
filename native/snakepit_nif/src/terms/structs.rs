//! Structs of Elixir that have a type of their own in Python: tensors, sets, dates, times and decimals.

use super::dtypes::dtype_name;
use super::encode::{Encoded, Encoder, Refusal, at, refuse, tuple_arity, unsupported};
use super::shown::{atom_text, big_integer, field, shown, step};
use crate::atoms;
use rustler::types::map::MapIterator;
use rustler::types::tuple::get_tuple;
use rustler::{Atom, Binary, Term, TermType};
use snakepit_core::MAX_DIMS;
use snakepit_core::cost_model::Kind;
use snakepit_core::decimal;
use snakepit_core::writer::ext;

impl<'a> Encoder<'a> {
    pub fn structure(&mut self, term: Term<'a>, name: Term<'a>, depth: u32) -> Encoded {
        let name = atom_text(name)?;
        match name.as_str() {
            "Elixir.Snakepit.Bytes" => match field(term, atoms::data()).and_then(|d| Binary::from_term(d).ok()) {
                Some(data) => self.bytes(data, Kind::Binary),
                None => unsupported("a %Snakepit.Bytes{} whose data is no binary"),
            },
            "Elixir.Snakepit.Tensor" => self.enter(depth + 2).and_then(|()| self.tensor(term)),
            "Elixir.MapSet" => self.set(term, depth),
            "Elixir.Date" => self.calendar(term, depth, ext::DATE, &DATE),
            "Elixir.Time" => self.calendar(term, depth, ext::TIME, &TIME),
            "Elixir.NaiveDateTime" => self.calendar(term, depth, ext::NAIVE_DATETIME, &NAIVE),
            "Elixir.DateTime" => self.calendar(term, depth, ext::DATETIME, &NAIVE),
            "Elixir.Decimal" | "Elixir.Snakepit.Decimal" => self.enter(depth + 2).and_then(|()| self.decimal(term)),
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
        self.enter(depth + 1)?;
        self.many(inner.map_size().unwrap_or(0))?;
        self.payload(ext::SET, |this| {
            this.out.array(inner.map_size().unwrap_or(0) as u32);
            for (item, _) in MapIterator::new(inner).into_iter().flatten() {
                at(this.term(item, depth + 2), || format!("(member {})", shown(item)))?;
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
        let shape = field(term, atoms::shape()).filter(|s| tuple_arity(*s).is_some_and(|n| n <= MAX_DIMS));
        let shape = shape.and_then(|s| get_tuple(s).ok());
        let dims: Option<Vec<u64>> = shape.and_then(|s| s.into_iter().map(|d| d.decode().ok()).collect());
        let Some(dims) = dims else {
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

    fn calendar(&mut self, term: Term<'a>, depth: u32, code: i8, fields: &[Field]) -> Encoded {
        self.enter(depth + 2)?;
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
        let zone = if code == ext::DATETIME { Some(self.zone(term)?) } else { None };
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

    fn zone(&mut self, term: Term<'a>) -> Result<(String, String, i64, i64), Refusal> {
        let mut text = |name: Atom| -> Result<Option<String>, Refusal> {
            let Some(binary) = field(term, name).and_then(|t| Binary::from_term(t).ok()) else { return Ok(None) };
            self.spend(binary.len())?;
            Ok(String::from_utf8(binary.as_slice().to_vec()).ok())
        };
        let texts = (text(atoms::time_zone())?, text(atoms::zone_abbr())?);
        let int = |name: Atom| field(term, name).and_then(|t| t.decode::<i64>().ok());
        match (texts, int(atoms::utc_offset()), int(atoms::std_offset())) {
            ((Some(name), Some(abbreviation)), Some(utc), Some(dst)) => Ok((name, abbreviation, utc, dst)),
            _ => refuse(atoms::bad_date(), "a DateTime whose time zone is incomplete"),
        }
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
            TermType::Integer => format!("{minus}{}E{exponent}", self.digits(coef)?),
            _ => return unsupported("a %Decimal{} of an unknown layout"),
        };
        self.payload(ext::DECIMAL, |this| {
            this.out.str(&text);
            Ok(())
        })
    }

    /// An integer in decimal digits.
    fn digits(&mut self, term: Term<'a>) -> Result<String, Refusal> {
        if let Ok(number) = term.decode::<u64>() {
            return Ok(number.to_string());
        }
        if term.decode::<i64>().is_ok() {
            return unsupported("a %Decimal{} whose coefficient is negative");
        }
        let (negative, magnitude) = big_integer(term)?;
        if magnitude.len() > decimal::MAX_BYTES {
            return refuse(atoms::too_large(), "a decimal of more than 4096 digits");
        }
        if negative {
            return unsupported("a %Decimal{} whose coefficient is negative");
        }
        // As long as a check of so many bytes takes.
        self.spend(magnitude.len() * magnitude.len() / 4)?;
        Ok(decimal::digits(&magnitude))
    }
}

/// A field's name, and the lowest and highest value Python takes.
type Field = (fn() -> Atom, i64, i64);
const DATE: [Field; 3] = [(atoms::year, 1, 9999), (atoms::month, 1, 12), (atoms::day, 1, 31)];
const TIME: [Field; 4] =
    [(atoms::hour, 0, 23), (atoms::minute, 0, 59), (atoms::second, 0, 59), (atoms::microsecond, 0, 999_999)];
const NAIVE: [Field; 7] = [DATE[0], DATE[1], DATE[2], TIME[0], TIME[1], TIME[2], TIME[3]];
