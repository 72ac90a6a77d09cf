//! Fixed-size numbers in base62, most significant digit first, with leading zeros. Each number has exactly one form,
//! and texts sort as the numbers do.

use uuid::Uuid;
use zeroize::Zeroize as _;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const NOT_A_DIGIT: u8 = u8::MAX;

/// The value of each byte as a digit; [`NOT_A_DIGIT`] for bytes that are none.
const VALUES: [u8; 256] = {
    let mut values = [NOT_A_DIGIT; 256];
    let mut digit = 0;
    while digit < DIGITS.len() {
        values[DIGITS[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// Length of a 128-bit id: 62^22 > 2^128.
pub(super) const ID_DIGITS: usize = 22;

pub(super) fn encode_id(id: Uuid) -> String {
    let mut text = String::with_capacity(ID_DIGITS);
    push(id.as_bytes(), ID_DIGITS, &mut text);
    text
}

/// Appends `bytes` to `text` as a number of `digits` digits. `bytes` is big-endian, and 4, 8, … or 32 bytes long.
pub(super) fn push(bytes: &[u8], digits: usize, text: &mut String) {
    let mut limbs = [0; 8];
    let limbs = &mut limbs[..bytes.len() / 4];
    for (limb, bytes) in limbs.iter_mut().zip(bytes.as_chunks().0) {
        *limb = u32::from_be_bytes(*bytes);
    }
    let mut reversed = [0; 64];
    for digit in &mut reversed[..digits] {
        let mut rest = 0;
        for limb in limbs.iter_mut() {
            let value = rest << 32 | u64::from(*limb);
            *limb = (value / 62) as u32;
            rest = value % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    text.extend(reversed[..digits].iter().rev().map(|digit| char::from(*digit)));
    limbs.zeroize();
    reversed.zeroize();
}

/// Why a text is not a base62 number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DigitsError {
    NotADigit,
    TooLarge,
}

/// Parses `text` into `limbs`, most significant limb first.
pub(super) fn read<const LIMBS: usize>(text: &[u8], limbs: &mut [u64; LIMBS]) -> Result<(), DigitsError> {
    limbs.fill(0);
    for byte in text {
        let digit = VALUES[*byte as usize];
        if digit == NOT_A_DIGIT {
            return Err(DigitsError::NotADigit);
        }
        let mut carry = u64::from(digit);
        for limb in limbs.iter_mut().rev() {
            let value = u128::from(*limb) * 62 + u128::from(carry);
            *limb = value as u64;
            carry = (value >> 64) as u64;
        }
        if carry != 0 {
            return Err(DigitsError::TooLarge);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_id_fits_and_the_next_number_is_refused() {
        let mut text = String::new();
        push(&[0xff; 16], ID_DIGITS, &mut text);
        assert_eq!(text, "7n42DGM5Tflk9n8mt7Fhc7");
        let mut limbs = [0; 2];
        assert_eq!(read(text.as_bytes(), &mut limbs), Ok(()));
        assert_eq!(limbs, [u64::MAX; 2]);
        assert_eq!(read(b"7n42DGM5Tflk9n8mt7Fhc8", &mut limbs), Err(DigitsError::TooLarge));
        assert_eq!(read(b"7n42DGM5Tflk9n8mt7Fhc_", &mut limbs), Err(DigitsError::NotADigit));
    }

    proptest! {
        #[test]
        fn a_written_number_reads_back_the_same(bytes: [u8; 32]) {
            let mut text = String::new();
            push(&bytes, 43, &mut text);
            prop_assert_eq!(text.len(), 43);
            let mut limbs = [0; 4];
            prop_assert_eq!(read(text.as_bytes(), &mut limbs), Ok(()));
            let back: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_be_bytes()).collect();
            prop_assert_eq!(&back[..], &bytes[..]);
        }

        #[test]
        fn texts_sort_as_the_numbers_do(a: u128, b: u128) {
            let (a, b) = (Uuid::from_u128(a), Uuid::from_u128(b));
            prop_assert_eq!(encode_id(a).cmp(&encode_id(b)), a.cmp(&b));
        }
    }
}
