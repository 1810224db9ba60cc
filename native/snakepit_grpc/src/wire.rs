//! A request on the wire: the HTTP body of one gRPC message, made of pieces.
//!
//! An ordinary client copies every field into one message first. Here the body is a list of slices, and a large one is
//! the caller's binary itself: nothing large is copied between the BEAM and the socket.

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Larger messages are refused in both directions: the length of a protobuf message is an `i32` in most readers.
pub const MAX_MESSAGE: usize = i32::MAX as usize;

/// Shorter slices are copied together: each slice on its own costs an HTTP/2 frame.
pub const COPY_BELOW: usize = 4 << 10;

/// The message would be longer than [`MAX_MESSAGE`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// The body of a request.
#[derive(Default)]
pub struct Pieces {
    queue: VecDeque<Bytes>,
    left: u64,
}

impl Pieces {
    /// A gRPC message that holds a `Payload { frame, buffers }`.
    pub fn payload(frame: Bytes, buffers: Vec<Bytes>) -> Result<Self, TooLarge> {
        let len = message_len(frame.len(), buffers.iter().map(Bytes::len))?;
        let mut writer = Writer::new(len);
        if !frame.is_empty() {
            writer.field(1, frame);
        }
        for buffer in buffers {
            writer.field(2, buffer);
        }
        Ok(writer.finish())
    }

    /// A gRPC message of any other type, which is small.
    pub fn message(message: &impl prost::Message) -> Self {
        let mut writer = Writer::new(message.encoded_len());
        writer.small.put_slice(&message.encode_to_vec());
        writer.finish()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.queue.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

struct Writer {
    pieces: Pieces,
    small: BytesMut,
}

impl Writer {
    fn new(len: usize) -> Self {
        let mut small = BytesMut::with_capacity(256);
        // gRPC's own prefix: not compressed, and the length.
        small.put_u8(0);
        small.put_u32(len as u32);
        Self { pieces: Pieces::default(), small }
    }

    fn field(&mut self, number: u32, value: Bytes) {
        encode_key(number, WireType::LengthDelimited, &mut self.small);
        encode_varint(value.len() as u64, &mut self.small);
        if value.len() < COPY_BELOW {
            self.small.put_slice(&value);
        } else {
            self.push_small();
            self.push(value);
        }
    }

    fn push_small(&mut self) {
        let small = self.small.split().freeze();
        if !small.is_empty() {
            self.push(small);
        }
    }

    fn push(&mut self, piece: Bytes) {
        self.pieces.left += piece.len() as u64;
        self.pieces.queue.push_back(piece);
    }

    fn finish(mut self) -> Pieces {
        self.push_small();
        self.pieces
    }
}

/// The length of a `Payload` message with these fields.
fn message_len(frame: usize, buffers: impl Iterator<Item = usize>) -> Result<usize, TooLarge> {
    let field = |len: usize| len.saturating_add(1 + encoded_len_varint(len as u64));
    let frame = if frame == 0 { 0 } else { field(frame) };
    let len = buffers.fold(frame, |sum, len| sum.saturating_add(field(len)));
    if len > MAX_MESSAGE { Err(TooLarge) } else { Ok(len) }
}

/// The value of the header `grpc-timeout`: at most eight digits and a unit, never less than the timeout.
pub fn timeout_header(timeout: Duration) -> String {
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", millis.div_ceil(1000).min(99_999_999)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::snakepit::Payload;
    use proptest::prelude::*;
    use prost::Message;

    fn collect(mut pieces: Pieces) -> Vec<Bytes> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let total = pieces.size_hint().exact().unwrap();
        let mut got = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut pieces).poll_frame(&mut context) {
            got.push(frame.into_data().unwrap());
        }
        assert!(pieces.is_end_stream());
        assert_eq!(total, got.iter().map(|piece| piece.len() as u64).sum::<u64>());
        got
    }

    fn bytes(lens: impl Strategy<Value = usize>) -> impl Strategy<Value = Bytes> {
        (lens, any::<u8>()).prop_map(|(len, byte)| Bytes::from(vec![byte; len]))
    }

    fn lens() -> impl Strategy<Value = usize> {
        prop_oneof![0..300_usize, COPY_BELOW - 2..COPY_BELOW + 2, 16_383..16_386_usize]
    }

    proptest! {
        #[test]
        fn the_pieces_are_what_prost_reads(
            frame in bytes(lens()),
            buffers in proptest::collection::vec(bytes(lens()), 0..6),
        ) {
            let payload = Payload { frame: frame.clone(), buffers: buffers.clone() };
            let wire = collect(Pieces::payload(frame, buffers).unwrap()).concat();
            let (prefix, message) = wire.split_at(5);
            prop_assert_eq!(prefix[0], 0);
            prop_assert_eq!(&prefix[1..], (message.len() as u32).to_be_bytes());
            prop_assert_eq!(message.len(), payload.encoded_len());
            prop_assert_eq!(Payload::decode(message).unwrap(), payload);
        }
    }

    #[test]
    fn large_slices_are_not_copied() {
        let large = Bytes::from(vec![1; COPY_BELOW]);
        let pieces = collect(Pieces::payload(Bytes::from_static(b"frame"), vec![large.clone(); 2]).unwrap());
        assert_eq!(pieces.iter().filter(|piece| piece.as_ptr() == large.as_ptr()).count(), 2);
        assert_eq!(pieces.len(), 4);
    }

    #[test]
    fn the_limit_counts_every_byte_of_the_message() {
        // A key and a length of five bytes go before the buffer.
        assert_eq!(message_len(0, [MAX_MESSAGE - 6].into_iter()), Ok(MAX_MESSAGE));
        assert_eq!(message_len(0, [MAX_MESSAGE - 5].into_iter()), Err(TooLarge));
        assert_eq!(message_len(MAX_MESSAGE - 6, [].into_iter()), Ok(MAX_MESSAGE));
        assert_eq!(message_len(MAX_MESSAGE - 6, [0].into_iter()), Err(TooLarge));
        assert_eq!(message_len(usize::MAX, [usize::MAX, usize::MAX].into_iter()), Err(TooLarge));
    }

    #[test]
    fn timeouts_fit_their_header() {
        for (timeout, header) in [
            (Duration::from_millis(1), "1m"),
            (Duration::from_micros(1), "1m"),
            (Duration::from_millis(99_999_999), "99999999m"),
            (Duration::from_millis(100_000_001), "100001S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(timeout_header(timeout), header);
        }
    }
}
