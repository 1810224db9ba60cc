//! Terms as text and parts: names of atoms, fields of maps, large integers, and what messages show.

use super::encode::{Refusal, unsupported};
use rustler::{Atom, Binary, Term, TermType};

pub fn field<'a>(term: Term<'a>, name: Atom) -> Option<Term<'a>> {
    term.map_get(name).ok()
}

/// An atom's name. Before NIF 2.17 the API knows Latin-1 alone, so other names are read from the external format.
pub fn atom_text(term: Term) -> Result<String, Refusal> {
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

/// A term in few words, for messages.
pub fn shown(term: Term) -> String {
    let mut text = format!("{term:?}");
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Bytes of a key that are shown.
const SHOWN: usize = 200;

/// A map's key as a step of a path: `.x` for an atom, `["x"]` for a string, `[3]` for an integer.
pub fn step(key: Term) -> String {
    match key.get_type() {
        TermType::Atom => format!(".{}", atom_text(key).unwrap_or_default()),
        TermType::Binary => {
            // A copy: the bytes may lie in memory that somebody else writes to.
            let part = |b: Binary| b.as_slice()[..b.len().min(SHOWN)].to_vec();
            let (bytes, cut) = Binary::from_term(key).map(|b| (part(b), b.len() > SHOWN)).unwrap_or_default();
            format!("[{:?}{}]", String::from_utf8_lossy(&bytes), if cut { "…" } else { "" })
        }
        _ => format!("[{}]", shown(key)),
    }
}

/// The erts external format of an integer beyond 64 bits: sign and little-endian magnitude.
pub fn big_integer(term: Term) -> Result<(bool, Vec<u8>), Refusal> {
    let bytes = term.to_binary();
    // 131, then SMALL_BIG_EXT (110, n, sign) or LARGE_BIG_EXT (111, n as u32, sign).
    match bytes.as_slice() {
        [131, 110, _, sign, rest @ ..] => Ok((*sign == 1, rest.to_vec())),
        [131, 111, _, _, _, _, sign, rest @ ..] => Ok((*sign == 1, rest.to_vec())),
        _ => unsupported("an integer of an unknown layout"),
    }
}
