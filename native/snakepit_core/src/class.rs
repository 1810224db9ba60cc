//! Size classes of slots: eight per doubling, from 64 bytes, every class a multiple of 64.
//!
//! At most an eighth of a slot is lost to rounding (more below 512 bytes, where the step stays at 64), and 64-byte
//! starts are what Arrow and SIMD loads want.

/// The smallest slot and the alignment of all of them, in bytes.
pub const ALIGN: u64 = 64;

/// The number of distinct class indexes.
pub const COUNT: usize = 48 * 8;

/// Lengths above this have no class; no chunk is this large.
pub const MAX: u64 = 1 << 46;

/// The size in bytes of the slot that serves `len` bytes, or `None` above [`MAX`].
pub fn size(len: u64) -> Option<u64> {
    if len > MAX {
        return None;
    }
    let s = len.max(ALIGN);
    let step = ((1u64 << s.ilog2()) / 8).max(ALIGN);
    Some(s.div_ceil(step) * step)
}

/// A dense index for a class size returned by [`size`].
pub fn index(class_size: u64) -> usize {
    let k = class_size.ilog2();
    let eighths = ((class_size - (1u64 << k)) * 8) >> k;
    (k as usize) * 8 + eighths as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn edges() {
        for (len, want) in [(0, 64), (1, 64), (64, 64), (65, 128), (129, 192), (512, 512), (513, 576), (1024, 1024)] {
            assert_eq!(size(len), Some(want), "{len}");
        }
        assert_eq!(size(1025), Some(1152));
        assert_eq!(size(1 << 30), Some(1 << 30));
        assert_eq!(size(MAX + 1), None);
        assert!(index(size(MAX).unwrap()) < COUNT);
    }

    #[test]
    fn one_index_per_class() {
        let mut seen = HashMap::new();
        for len in 1..300_000u64 {
            let s = size(len).unwrap();
            assert_eq!(*seen.entry(index(s)).or_insert(s), s);
        }
    }

    proptest! {
        #[test]
        fn fits_aligned_and_thrifty(len in 0..=MAX) {
            let s = size(len).unwrap();
            prop_assert!(s >= len && s.is_multiple_of(ALIGN));
            prop_assert!(s - len.min(s) < ALIGN.max(s / 8 + 1));
            prop_assert_eq!(size(s), Some(s));
        }
    }
}
