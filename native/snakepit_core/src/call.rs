//! The parts of a request's envelope `[command, args, caller]` (native/PROTOCOL.md) beside its arguments.

use crate::reader::{BadValue, Budget, Reader, Token};

/// Puts its command into `out`, whose memory is used again.
pub fn command(envelope: &[u8], out: &mut String) {
    out.clear();
    let budget = Budget::default();
    let mut reader = Reader::new(envelope, &budget);
    if let (Ok(Token::Array(3)), Ok(Token::Str(command))) = (reader.next(), reader.next()) {
        out.push_str(command);
    }
}

/// Whether its caller is not nil. The caller comes last, and no UTF-8 text ends with the byte that is nil.
pub fn names_caller(envelope: &[u8]) -> bool {
    envelope.last().is_some_and(|last| *last != NIL)
}

const NIL: u8 = 0xc0;

/// The correlation id of its caller. All arguments are read to get there.
pub fn correlation_id(envelope: &[u8]) -> Option<String> {
    let budget = Budget::default();
    let mut reader = Reader::new(envelope, &budget);
    let Ok(Token::Array(3)) = reader.next() else { return None };
    skip(&mut reader, 2).ok()?;
    let Ok(Token::Array(2)) = reader.next() else { return None };
    skip(&mut reader, 1).ok()?;
    match reader.next() {
        Ok(Token::Str(id)) => Some(id.to_owned()),
        _ => None,
    }
}

/// Passes over so many values, and all inside them.
fn skip(reader: &mut Reader, mut left: usize) -> Result<(), BadValue> {
    while left > 0 {
        left -= 1;
        left += match reader.next()? {
            Token::Array(n) => n,
            Token::Map(n) => 2 * n,
            _ => 0,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::Writer;

    fn envelope(command: &str, args: u32, caller: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut w = Writer::with_capacity(64);
        w.array(3);
        w.str(command);
        w.map(args);
        for n in 0..args {
            w.str(&format!("arg{n}"));
            w.array(2);
            w.int(i64::from(n));
            w.map(0);
        }
        caller(&mut w);
        w.as_slice().to_vec()
    }

    fn named(envelope: &[u8]) -> String {
        let mut out = "of the call before".to_owned();
        command(envelope, &mut out);
        out
    }

    #[test]
    fn command_and_correlation_id() {
        let long = "c".repeat(1024);
        for name in ["", "f", &"x".repeat(31), &"y".repeat(32), &"имя".repeat(100), &long] {
            let nobody = envelope(name, 3, Writer::nil);
            assert_eq!((named(&nobody).as_str(), correlation_id(&nobody)), (name, None));
            assert!(!names_caller(&nobody));
            let session = envelope(name, 0, |w| w.str("session"));
            assert_eq!((named(&session).as_str(), correlation_id(&session)), (name, None));
            assert!(names_caller(&session));
            for id in ["", "a", &"я".repeat(500)] {
                let both = envelope(name, 20, |w| {
                    w.array(2);
                    w.nil();
                    w.str(id);
                });
                assert_eq!((named(&both).as_str(), correlation_id(&both)), (name, Some(id.to_owned())));
            }
        }
    }

    #[test]
    fn what_is_no_envelope_says_nothing() {
        let whole = envelope("f", 2, |w| {
            w.array(2);
            w.str("s");
            w.str("id");
        });
        for end in 0..whole.len() {
            assert_eq!(correlation_id(&whole[..end]), None);
        }
        assert_eq!((named(&[]).as_str(), named(&[0xc0]).as_str()), ("", ""));
        assert!(!names_caller(&[]));
    }
}
