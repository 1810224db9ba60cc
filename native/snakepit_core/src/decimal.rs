//! Decimal digits and the bytes of an integer, little-endian, one from the other. Both take time that grows with the square
//! of the length, so that [`MAX_DIGITS`] bounds it.

/// Digits of a decimal's coefficient, on both sides of the wire.
pub const MAX_DIGITS: usize = 4096;
/// Bytes of a number of so many digits.
pub const MAX_BYTES: usize = 1701;

const GROUP: usize = 9;
const BASE: u64 = 1_000_000_000;
/// Digits that one step of [`magnitude`] takes.
const STEP: usize = 18;

/// The digits of a magnitude, without leading zeros.
pub fn digits(magnitude: &[u8]) -> String {
    // Groups of nine digits, the lowest first.
    let mut groups: Vec<u64> = Vec::with_capacity(magnitude.len() / 3 + 1);
    for limb in limbs(magnitude) {
        let mut carry = u64::from(limb);
        for group in &mut groups {
            carry += *group << 32;
            *group = carry % BASE;
            carry /= BASE;
        }
        while carry > 0 {
            groups.push(carry % BASE);
            carry /= BASE;
        }
    }
    let mut text = groups.pop().unwrap_or(0).to_string();
    groups.iter().rev().for_each(|group| text.push_str(&format!("{group:0GROUP$}")));
    text
}

/// Words of four bytes, the highest first.
fn limbs(magnitude: &[u8]) -> impl Iterator<Item = u32> {
    magnitude.chunks(4).rev().map(|bytes| bytes.iter().rev().fold(0, |limb, byte| limb << 8 | u32::from(*byte)))
}

/// The magnitude of these ASCII digits, one byte at least and no zero byte above it.
pub fn magnitude(digits: &str) -> Vec<u8> {
    let mut limbs: Vec<u64> = Vec::with_capacity(digits.len() / STEP + 1);
    // The first step takes what the others leave over.
    let (first, rest) = digits.as_bytes().split_at(digits.len() % STEP);
    for step in std::iter::once(first).chain(rest.chunks(STEP)) {
        let scale = 10u64.pow(step.len() as u32);
        let mut carry = step.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
        for limb in &mut limbs {
            let wide = u128::from(*limb) * u128::from(scale) + u128::from(carry);
            (*limb, carry) = (wide as u64, (wide >> 64) as u64);
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut bytes: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
    bytes.resize(used, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_ones_and_the_largest() {
        for n in [0, 1, 255, 256, u64::from(u32::MAX), BASE - 1, BASE, 10 * BASE, u64::MAX] {
            let bytes = magnitude(&n.to_string());
            assert_eq!(bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)), n);
            assert_eq!(digits(&bytes), n.to_string());
        }
        assert_eq!((magnitude(""), magnitude("000"), digits(&[])), (vec![0], vec![0], "0".to_owned()));
        assert_eq!(magnitude(&"9".repeat(MAX_DIGITS)).len(), MAX_BYTES);
    }

    /// The plain way: a digit, and a byte, at a time.
    fn plainly(digits: &str) -> Vec<u8> {
        let mut bytes = vec![0u8];
        for digit in digits.bytes() {
            let mut carry = u32::from(digit - b'0');
            for byte in &mut bytes {
                carry += u32::from(*byte) * 10;
                (*byte, carry) = (carry as u8, carry >> 8);
            }
            if carry > 0 {
                bytes.push(carry as u8);
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn there_and_back(text in "[1-9][0-9]{0,200}") {
            let bytes = magnitude(&text);
            prop_assert_eq!(&bytes, &plainly(&text));
            prop_assert_eq!(digits(&bytes), text);
        }
    }
}
