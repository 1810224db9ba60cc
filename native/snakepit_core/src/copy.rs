//! Copies of many MiB, past the caches.
//!
//! `memcpy` reads each line of the target before it writes it, and goes around the caches only from a size that it derives
//! from the whole machine's cache, of which a virtual machine has a share. Streaming stores need no such read, and several
//! streams at once keep more of the memory's banks busy: measured at 100 MiB, 12 to 14 GB/s where memcpy reaches 7; up to
//! 16 MiB there is no difference, and the caches are worth more.

/// From this many bytes a copy goes past the caches.
pub const STREAM_FROM: usize = 32 << 20;

/// Copies `len` bytes.
///
/// # Safety
/// As [`std::ptr::copy_nonoverlapping`].
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= STREAM_FROM && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: AVX is there; the rest is the caller's promise.
        return unsafe { streamed(from, to, len) };
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
}

/// A line of the cache, in bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
#[cfg(target_arch = "x86_64")]
const STREAMS: usize = 4;
/// How far the streams are apart.
#[cfg(target_arch = "x86_64")]
const SPAN: usize = 64 << 10;

/// # Safety
/// As [`std::ptr::copy_nonoverlapping`]; the processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn streamed(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{_mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    // Streaming stores want an aligned target.
    let head = to.align_offset(LINE).min(len);
    // SAFETY: within both ranges, which the caller says are apart.
    unsafe { std::ptr::copy_nonoverlapping(from, to, head) };
    let mut at = head;
    while at + STREAMS * SPAN <= len {
        for line in (0..SPAN).step_by(LINE) {
            for stream in 0..STREAMS {
                let offset = at + stream * SPAN + line;
                // SAFETY: below `len`; `to + offset` is aligned to a line, since `head`, SPAN and LINE are.
                unsafe {
                    let (source, target) = (from.add(offset), to.add(offset));
                    let low = _mm256_loadu_si256(source.cast());
                    let high = _mm256_loadu_si256(source.add(LINE / 2).cast());
                    _mm256_stream_si256(target.cast(), low);
                    _mm256_stream_si256(target.add(LINE / 2).cast(), high);
                }
            }
        }
        at += STREAMS * SPAN;
    }
    // Streaming stores are weakly ordered: whoever learns of these bytes must see them.
    _mm_sfence();
    // SAFETY: the rest of both ranges.
    unsafe { std::ptr::copy_nonoverlapping(from.add(at), to.add(at), len - at) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn every_byte_arrives_and_none_beside() {
        let from = noise(STREAM_FROM + (1 << 20));
        let mut to = vec![0xA5; from.len() + 128];
        for len in
            [0, 1, 63, 4096, STREAM_FROM - 1, STREAM_FROM, STREAM_FROM + 1, STREAM_FROM + 262_143, from.len() - 64]
        {
            for (source, target) in [(0, 0), (1, 0), (0, 1), (3, 63), (64, 65)] {
                to.fill(0xA5);
                // SAFETY: both within their vectors, which are apart.
                unsafe { copy(from.as_ptr().add(source), to.as_mut_ptr().add(target), len) };
                assert!(to[target..target + len] == from[source..source + len], "{len} bytes to {target}");
                assert!(to[..target].iter().chain(&to[target + len..][..64]).all(|b| *b == 0xA5), "beside {len} bytes");
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn streams_of_any_length() {
        if !std::arch::is_x86_feature_detected!("avx") {
            return;
        }
        let from = noise(STREAMS * SPAN * 2 + 1000);
        for len in [0, 1, 31, 64, STREAMS * SPAN - 1, STREAMS * SPAN, STREAMS * SPAN + 65, from.len()] {
            let mut to = vec![0; len + 7];
            // SAFETY: AVX is there; both within their vectors, which are apart.
            unsafe { streamed(from.as_ptr(), to.as_mut_ptr().add(7), len) };
            assert!(to[7..] == from[..len], "{len} bytes");
        }
    }
}
