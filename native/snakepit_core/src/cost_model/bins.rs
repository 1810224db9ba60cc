//! Sizes in bins, four to a doubling: fine enough that the best way is the same all over a bin, but for one or two.

/// Bins in all. The last one holds whatever is larger than it begins.
pub const COUNT: usize = 160;

/// The bin of a size.
pub fn of(size: u64) -> usize {
    if size < 4 {
        return size as usize;
    }
    let k = size.ilog2();
    let quarter = (size >> (k - 2)) & 3;
    ((k as usize - 1) * 4 + quarter as usize).min(COUNT - 1)
}

/// The smallest size of a bin.
pub fn start(bin: usize) -> u64 {
    if bin < 4 {
        return bin as u64;
    }
    let k = bin / 4 + 1;
    (4 + (bin % 4) as u64) << (k - 2)
}

/// The size that stands for all of a bin: its geometric middle.
pub fn middle(bin: usize) -> u64 {
    let (low, high) = (start(bin), start(bin + 1) - 1);
    ((low as f64 * high as f64).sqrt().round() as u64).clamp(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bins_follow_each_other_without_a_gap() {
        for bin in 0..COUNT {
            assert_eq!(of(start(bin)), bin);
            assert_eq!(of(middle(bin)), bin);
            if bin > 0 {
                assert_eq!(of(start(bin) - 1), bin - 1);
            }
        }
        assert_eq!(of(u64::MAX), COUNT - 1);
    }

    proptest! {
        #[test]
        fn a_bin_is_at_most_a_quarter_of_its_start_wide(size in 4u64..1 << 40) {
            let bin = of(size);
            prop_assert!(start(bin) <= size && size < start(bin + 1));
            prop_assert!((start(bin + 1) - start(bin)) * 4 <= start(bin));
        }
    }
}
