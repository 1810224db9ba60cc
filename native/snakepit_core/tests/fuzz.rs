//! Every decoder that meets a worker's or the companion's bytes, fed with damaged ones.
//!
//! Whole messages from `tests/corpus/TARGET` are cut, spliced and overwritten; nothing may panic, hang or allocate without
//! bound, and what is accepted must keep its promises. A second for each target by default:
//!
//! ```sh
//! SNAKEPIT_FUZZ_SECONDS=600 cargo test --release -p snakepit_core --test fuzz
//! ```
//!
//! An input that fails is printed as Rust; it belongs into the corpus, as a file of its own.
//! `cargo test -p snakepit_core --test fuzz -- --ignored` writes the messages that the corpus began with.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use snakepit_core::companion::{self, Event, Exit, Limits, Request, Shortage, Stream};
use snakepit_core::frame::{FLAG_WANTED_MEMORY, Kind, Reply, Table, Way};
use snakepit_core::reader::{BadValue, Budget, Reader, Token};
use snakepit_core::writer::Writer;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn directory(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(directory(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!corpus.is_empty(), "the corpus of {target} is empty");
    corpus
}

/// Numbers that decoders stumble over, in both byte orders where they are written.
const EDGES: [u64; 14] =
    [0, 1, 31, 32, 63, 64, 127, 255, 65_535, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, i64::MAX as u64, u64::MAX];

#[derive(Clone, Debug)]
enum Damage {
    Byte(prop::sample::Index, u8),
    Bit(prop::sample::Index, u8),
    Number(prop::sample::Index, usize, usize, bool),
    Cut(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, usize),
    Splice(prop::sample::Index, prop::sample::Index, prop::sample::Index),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<prop::sample::Index>;
    let damage = prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Damage::Byte(i, b)),
        (at(), 0u8..8).prop_map(|(i, b)| Damage::Bit(i, b)),
        (at(), 0..EDGES.len(), prop::sample::select(vec![1usize, 2, 4, 8]), any::<bool>())
            .prop_map(|(i, e, w, big)| Damage::Number(i, e, w, big)),
        (at(), at()).prop_map(|(i, j)| Damage::Cut(i, j)),
        (at(), 1usize..200).prop_map(|(i, n)| Damage::Repeat(i, n)),
        (at(), at(), at()).prop_map(|(i, other, j)| Damage::Splice(i, other, j)),
    ];
    prop::collection::vec(damage, 0..6)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage], corpus: &[Vec<u8>]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match damage {
            Damage::Byte(i, b) => bytes[i.index(len)] = *b,
            Damage::Bit(i, b) => bytes[i.index(len)] ^= 1 << b,
            Damage::Number(i, edge, width, big) => {
                let at = i.index(len);
                let number = if *big { EDGES[*edge].to_be_bytes() } else { EDGES[*edge].to_le_bytes() };
                let number = if *big { &number[8 - width..] } else { &number[..*width] };
                let end = (at + width).min(len);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            Damage::Cut(i, j) => {
                let (a, b) = (i.index(len), j.index(len));
                bytes.drain(a.min(b)..a.max(b));
            }
            Damage::Repeat(i, n) => {
                let at = i.index(len);
                let piece = bytes[at..(at + n).min(len)].to_vec();
                bytes.splice(at..at, piece);
            }
            Damage::Splice(i, other, j) => {
                let other = &corpus[other.index(corpus.len())];
                if !other.is_empty() {
                    bytes.truncate(i.index(len));
                    bytes.extend_from_slice(&other[j.index(other.len())..]);
                }
            }
        }
    }
    bytes
}

fn fuzz(target: &str, decode: impl Fn(&[u8]) -> Result<(), TestCaseError>) {
    let seconds = std::env::var("SNAKEPIT_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let until = Instant::now() + Duration::from_secs(seconds);
    let corpus = corpus(target);
    // The corpus, with the crashes of before in it, is decoded unchanged, too.
    corpus.iter().for_each(|bytes| decode(bytes).unwrap());
    let inputs = (any::<prop::sample::Index>(), damages())
        .prop_map(|(index, damages)| damaged(corpus[index.index(corpus.len())].clone(), &damages, &corpus));
    let mut cases = 0;
    while Instant::now() < until {
        let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&inputs, |bytes| decode(&bytes))
            .unwrap_or_else(|error| panic!("{target}: {error}"));
        cases += 2_000;
    }
    println!("core: {target}: {cases} inputs");
}

/// As the NIF reads it: values in values, payloads of extensions as values of their own.
fn walk(reader: &mut Reader<'_>) -> Result<(), BadValue> {
    reader.enter()?;
    match reader.next()? {
        Token::Array(n) => (0..n).try_for_each(|_| walk(reader))?,
        Token::Map(n) => (0..2 * n).try_for_each(|_| walk(reader))?,
        Token::Ext(_, payload) => {
            let mut inner = reader.inside(payload);
            walk(&mut inner)?;
            inner.finish()?;
        }
        _ => {}
    }
    reader.leave();
    Ok(())
}

fn envelope(bytes: &[u8]) {
    let budget = Budget::default();
    let mut reader = Reader::new(bytes, &budget);
    let _ = walk(&mut reader).and_then(|()| reader.finish());
}

#[test]
fn replies_of_workers() {
    fuzz("reply", |bytes| {
        let Ok(reply) = Reply::read(bytes) else { return Ok(()) };
        prop_assert!(reply.envelope.end <= bytes.len() && reply.envelope.start <= reply.envelope.end);
        envelope(&bytes[reply.envelope.clone()]);
        match &reply.table {
            Table::Inline(ranges) => {
                let mut end = reply.envelope.end;
                for range in ranges {
                    prop_assert!(end <= range.start && range.start <= range.end && range.end <= bytes.len());
                    end = range.end;
                }
            }
            Table::ZeroCopy(places) => prop_assert!(places.len() * 32 <= bytes.len()),
            Table::Grpc(lens) => prop_assert!(lens.len() * 8 <= bytes.len()),
        }
        prop_assert!(reply.released.len() * 8 <= bytes.len());
        Ok(())
    });
}

#[test]
fn envelopes_and_control_messages() {
    fuzz("envelope", |bytes| {
        envelope(bytes);
        Ok(())
    });
}

fn companion<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(target: &str) {
    fuzz(target, |bytes| {
        if let Ok(message) = companion::decode::<T>(bytes) {
            let again = companion::encode(&message);
            prop_assert_eq!(companion::decode::<T>(&again).ok(), Some(message));
        }
        Ok(())
    });
}

#[test]
fn events_of_the_companion() {
    companion::<Event>("event");
}

#[test]
fn requests_to_the_companion() {
    companion::<Request>("request");
}

fn keep(target: &str, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(directory(target)).unwrap();
    std::fs::write(directory(target).join(name), bytes).unwrap();
}

fn reply(kind: Kind, way: Way, flags: u8, envelope: &[u8], table: &[u64], count: u32, released: &[u64]) -> Vec<u8> {
    let mut out = vec![kind as u8, way as u8, flags, 0];
    out.extend_from_slice(&(envelope.len() as u32).to_le_bytes());
    out.extend_from_slice(&7_u64.to_le_bytes());
    out.extend_from_slice(&123_456_u64.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(released.len() as u32).to_le_bytes());
    table.iter().chain(released).for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    out.extend_from_slice(envelope);
    out
}

#[test]
#[ignore = "writes the corpus"]
fn write_the_corpus() {
    let mut w = Writer::default();
    w.array(3);
    w.str("normalize");
    w.map(4);
    for (key, code) in [("x", 4), ("text", 5)] {
        w.str(key);
        w.buffer(code, 0);
    }
    w.str("numbers");
    w.array(5);
    w.int(-1);
    w.uint(u64::MAX);
    w.float(1.5);
    w.bool(true);
    w.nil();
    w.str("deep");
    let tuple = w.open_ext(2);
    w.array(2);
    w.big_int(true, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let tensor = w.open_ext(6);
    w.array(3);
    w.str("f32");
    w.array(2);
    w.int(2);
    w.int(3);
    w.bin(&[0; 24]);
    assert!(w.close_ext(tensor));
    assert!(w.close_ext(tuple));
    w.nil();
    keep("envelope", "request", w.as_slice());
    let inner = w.as_slice().to_vec();

    let mut w = Writer::default();
    w.array(3);
    w.str("chunk");
    w.uint(7 << 32);
    w.uint(16 << 20);
    keep("envelope", "chunk", w.as_slice());
    let mut w = Writer::default();
    w.array(2);
    w.str("released");
    w.array(3);
    (1..4).for_each(|n| w.uint(n));
    keep("envelope", "released", w.as_slice());

    keep("reply", "plain", &reply(Kind::Result, Way::Inline, 0, &[3], &[], 0, &[]));
    keep("reply", "error", &reply(Kind::Error, Way::Inline, 0, &inner, &[], 0, &[5]));
    keep(
        "reply",
        "zero_copy",
        &reply(Kind::Result, Way::ZeroCopy, 0, &inner, &[7 << 32, 64, 24, 9, 7 << 32, 4096, 100, 10], 2, &[1, 2]),
    );
    keep("reply", "grpc", &reply(Kind::Item, Way::Grpc, FLAG_WANTED_MEMORY, &inner, &[100, 200], 2, &[]));
    keep("reply", "end", &reply(Kind::End, Way::Inline, 0, &[0xc0], &[], 0, &[]));
    keep("reply", "waits", &reply(Kind::Fetch, Way::Grpc, 0, &[0xc0], &[], 0, &[3]));
    let mut inline = reply(Kind::Result, Way::Inline, 0, &inner, &[5, 70], 2, &[]);
    for len in [5, 70] {
        inline.resize(inline.len().next_multiple_of(64), 0);
        inline.resize(inline.len() + len, 0xAB);
    }
    keep("reply", "inline", &inline);

    let start = Request::Start {
        id: 7,
        program: "/usr/bin/python3".into(),
        args: vec!["-m".into(), "snakepit.main".into()],
        env: vec![("A".into(), "1".into())],
        unset_env: vec!["B".into()],
        cwd: Some("/tmp".into()),
        limits: Limits::default(),
    };
    keep("request", "start", &companion::encode(&start));
    keep("request", "stop", &companion::encode(&Request::Stop { id: 7, grace_ms: 2000 }));
    keep("request", "kill", &companion::encode(&Request::Kill { id: 7 }));
    let (id, stderr_tail) = (7, b"Traceback".to_vec());
    for (name, event) in [
        ("started", Event::Started { id, pid: 1234 }),
        ("start_failed", Event::StartFailed { id, reason: "no such file".into() }),
        ("output", Event::Output { id, stream: Stream::Stderr, line: b"a line \xff".to_vec(), truncated: true }),
        ("exited", Event::Exited { id, status: Exit::Signal(9), shortage: Some(Shortage::Shared), stderr_tail }),
        ("dropped", Event::Dropped { id, lines: 12 }),
        ("bad_frame", Event::BadFrame { reason: "malformed".into() }),
    ] {
        keep("event", name, &companion::encode(&event));
    }
}
