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

/// How many digits are written and read at a time: as many as fit in 32 and in 64 bits. The arithmetic on the whole
/// number is done once for so many digits.
const PUSHED: usize = 5;
const READ: usize = 10;

/// The powers of 62 that fit in 64 bits.
const POWERS: [u64; READ + 1] = {
    let mut powers = [1; READ + 1];
    let mut exponent = 1;
    while exponent <= READ {
        powers[exponent] = powers[exponent - 1] * 62;
        exponent += 1;
    }
    powers
};

/// Length of a 128-bit id: 62^22 > 2^128.
pub(super) const ID_DIGITS: usize = 22;

/// How many digits of each end of an id a hint shows.
const END: usize = 4;

/// Returns the first and the last digits of an id, without computing those in between.
pub(super) fn ends(id: Uuid) -> [[char; END]; 2] {
    let id = id.as_u128();
    let first = id / 62_u128.pow((ID_DIGITS - END) as u32);
    [first, id % 62_u128.pow(END as u32)].map(|end| {
        // Both are less than 62^4.
        let mut rest = end as u32;
        let mut digits = ['0'; END];
        for digit in digits.iter_mut().rev() {
            *digit = char::from(DIGITS[(rest % 62) as usize]);
            rest /= 62;
        }
        digits
    })
}

/// Appends `bytes` to `text` as a number of `digits` digits. `bytes` is big-endian, and 4, 8, … or 32 bytes long.
pub(super) fn push(bytes: &[u8], digits: usize, text: &mut String) {
    let mut limbs = [0; 8];
    let limbs = &mut limbs[..bytes.len() / 4];
    for (limb, bytes) in limbs.iter_mut().zip(bytes.as_chunks().0) {
        *limb = u32::from_be_bytes(*bytes);
    }
    let mut reversed = [0; 64];
    let reversed = &mut reversed[..digits];
    for chunk in reversed.chunks_mut(PUSHED) {
        let mut rest = 0;
        for limb in limbs.iter_mut() {
            let value = rest << 32 | u64::from(*limb);
            *limb = (value / POWERS[PUSHED]) as u32;
            rest = value % POWERS[PUSHED];
        }
        // The most significant chunk may be shorter; what is left of it then is 0.
        for digit in chunk {
            *digit = DIGITS[(rest % 62) as usize];
            rest /= 62;
        }
    }
    reversed.reverse();
    // Digits are ASCII.
    text.push_str(str::from_utf8(reversed).unwrap_or_default());
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
    for chunk in text.chunks(READ) {
        let mut carry = 0;
        for byte in chunk {
            let digit = VALUES[*byte as usize];
            if digit == NOT_A_DIGIT {
                return Err(DigitsError::NotADigit);
            }
            carry = carry * 62 + u64::from(digit);
        }
        for limb in limbs.iter_mut().rev() {
            let value = u128::from(*limb) * u128::from(POWERS[chunk.len()]) + u128::from(carry);
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

    fn encode_id(id: Uuid) -> String {
        let mut text = String::new();
        push(id.as_bytes(), ID_DIGITS, &mut text);
        text
    }

    proptest! {
        #[test]
        fn the_ends_of_an_id_are_its_first_and_last_digits(id: u128) {
            let id = Uuid::from_u128(id);
            let [first, last] = ends(id);
            let text = encode_id(id);
            prop_assert!(text.starts_with(&first.iter().collect::<String>()));
            prop_assert!(text.ends_with(&last.iter().collect::<String>()));
        }

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
