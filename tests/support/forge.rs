//! Secrets that are of the right form and wrong.

/// A secret with the id of one token and the proof of another, and a checksum to match.
pub fn forge(id_of: &str, proof_of: &str) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = format!("{}{}", &id_of[..27], &proof_of[27..70]);
    let mut sum = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = [0; 6].map(|_: u8| {
        let digit = DIGITS[sum % 62];
        sum /= 62;
        char::from(digit)
    });
    digits.reverse();
    text.extend(digits);
    text
}
