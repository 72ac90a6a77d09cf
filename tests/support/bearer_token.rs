//! The parts of a bearer token with the prefix `pat`, and tokens that are well-formed and wrong.

/// `pat_`, 22 digits of the id, and `_`.
const SECRET_START: usize = 27;
/// The secret has 43 digits.
const SECRET_END: usize = SECRET_START + 43;
const CHECKSUM_DIGITS: usize = 6;
const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of a bearer token, in base62.
pub fn secret_of(bearer: &str) -> &str {
    &bearer[SECRET_START..SECRET_END]
}

/// The 256 random bits that the secret encodes.
pub fn secret_bits_of(bearer: &str) -> [u8; 32] {
    // One byte more than the result: 43 digits of base62 can exceed 256 bits.
    let mut number = [0_u8; 33];
    for digit in secret_of(bearer).bytes() {
        let mut carry = BASE62.iter().position(|it| *it == digit).unwrap();
        for byte in number.iter_mut().rev() {
            let value = usize::from(*byte) * BASE62.len() + carry;
            [*byte, ..] = value.to_le_bytes();
            carry = value >> 8;
        }
    }
    std::array::from_fn(|index| number[index + 1])
}

/// The same bearer token with one digit of its secret changed, so that the checksum is wrong.
pub fn with_a_typo(bearer: &str) -> String {
    let mut typo = bearer.to_owned();
    let digit = SECRET_START..SECRET_START + 1;
    let other = if &bearer[digit.clone()] == "x" { "y" } else { "x" };
    typo.replace_range(digit, other);
    typo
}

/// A bearer token with the id of one token, the secret of another, and the right checksum.
pub fn forge(id_of: &str, secret_of_other: &str) -> String {
    let mut text = format!("{}{}", &id_of[..SECRET_START], secret_of(secret_of_other));
    let mut sum = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = [0; CHECKSUM_DIGITS].map(|_: u8| {
        let digit = BASE62[sum % BASE62.len()];
        sum /= BASE62.len();
        char::from(digit)
    });
    digits.reverse();
    text.extend(digits);
    text
}
