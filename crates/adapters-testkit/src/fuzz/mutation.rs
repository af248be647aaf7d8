//! Inputs that are nearly right: a valid one with a few changes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// Values that readers compare too late, in texts.
const VALUES: [&str; 20] = [
    "0",
    "-1",
    "1",
    "7",
    "65537",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e308",
    "1e999",
    "1e-320",
    "-0.5",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"../../x\"",
    "\"\\u0000\\u001b[31m\"",
];

/// The same in binary files.
const WORDS: [u64; 6] = [0, 1, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX];

/// `input` with one to three changes.
pub fn mutated(input: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=below(rng, 3) {
        bytes = match header(&bytes) {
            Some(end) if !one_in(rng, 4) => {
                let header = changed_text(&bytes[8..end], rng);
                [&(header.len() as u64).to_le_bytes(), &header[..], &bytes[end..]].concat()
            }
            None if std::str::from_utf8(&bytes).is_ok() && !one_in(rng, 4) => changed_text(&bytes, rng),
            _ => changed_bytes(bytes, rng),
        };
    }
    bytes
}

/// A number from zero, below `count`.
fn below(rng: &mut ChaCha8Rng, count: usize) -> usize {
    // Even enough: the counts are small.
    (rng.next_u64() % count.max(1) as u64) as usize
}

fn one_in(rng: &mut ChaCha8Rng, count: usize) -> bool {
    below(rng, count) == 0
}

/// Where the header of a safetensors file ends; `None` for other bytes.
fn header(bytes: &[u8]) -> Option<usize> {
    let (size, rest) = bytes.split_first_chunk()?;
    let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
    (rest.first() == Some(&b'{') && size <= rest.len()).then(|| 8 + size)
}

/// A value, a line or a piece of a text replaced, repeated or taken out.
fn changed_text(text: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let tokens = tokens(text);
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    match below(rng, 6) {
        0..=2 if !tokens.is_empty() => {
            let (start, end) = tokens[below(rng, tokens.len())];
            let value = match one_in(rng, 3) {
                true => {
                    let (start, end) = tokens[below(rng, tokens.len())];
                    text[start..end].to_vec()
                }
                false => VALUES[below(rng, VALUES.len())].as_bytes().to_vec(),
            };
            [&text[..start], &value, &text[end..]].concat()
        }
        3 if !lines.is_empty() => {
            let (from, to) = (below(rng, lines.len()), below(rng, lines.len() + 1));
            let mut lines = lines.clone();
            lines.insert(to, lines[from]);
            lines.concat()
        }
        4 if !lines.is_empty() => {
            let mut lines = lines.clone();
            lines.remove(below(rng, lines.len()));
            lines.concat()
        }
        _ => changed_bytes(text.to_vec(), rng),
    }
}

/// Where numbers, words and quoted texts are.
fn tokens(text: &[u8]) -> Vec<(usize, usize)> {
    let of_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-+".contains(byte);
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let rest = &text[at..];
        let length = match rest[0] {
            b'"' => rest[1..].iter().position(|byte| *byte == b'"').map_or(1, |end| end + 2),
            byte if of_word(&byte) => rest.iter().position(|byte| !of_word(byte)).unwrap_or(rest.len()),
            _ => 0,
        };
        if length > 0 {
            tokens.push((at, at + length));
        }
        at += length.max(1);
    }
    tokens
}

/// A bit, a byte, a number of eight bytes or a piece changed, repeated, taken out or cut off.
fn changed_bytes(mut bytes: Vec<u8>, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let at = below(rng, bytes.len() + 1);
    let end = (at + 1 + below(rng, 32)).min(bytes.len());
    match below(rng, 6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let piece = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        3 => bytes.insert(at, rng.next_u64() as u8),
        4 if bytes.len() >= at + 8 => bytes[at..at + 8].copy_from_slice(&WORDS[below(rng, WORDS.len())].to_le_bytes()),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << below(rng, 8);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_seed_makes_one_input_and_seeds_make_many() {
        let of = |seed| mutated(br#"{"r": 8, "name": "a"}"#, &mut ChaCha8Rng::seed_from_u64(seed));
        let all: std::collections::BTreeSet<Vec<u8>> = (0..200).map(of).collect();
        assert!(all.len() > 100, "{}", all.len());
        assert_eq!(of(7), of(7));
        assert!(
            all.iter()
                .any(|input| serde_json::from_slice::<serde_json::Value>(input).is_ok())
        );
    }

    #[test]
    fn the_header_of_a_tensor_file_keeps_its_length() {
        let file = [&5u64.to_le_bytes()[..], b"{\"a\"}", &[1, 2, 3]].concat();
        assert_eq!(header(&file), Some(13));
        assert_eq!(header(&file[..10]), None);
        let right = (0..100).filter(|seed| {
            let changed = mutated(&file, &mut ChaCha8Rng::seed_from_u64(*seed));
            header(&changed).is_some_and(|end| changed[end..] == [1, 2, 3])
        });
        assert!(right.count() > 10);
    }

    #[test]
    fn anything_can_be_changed() {
        for input in [&b""[..], b"\"", b"a", b"\n\n", &[0xff; 9]] {
            for seed in 0..200 {
                mutated(input, &mut ChaCha8Rng::seed_from_u64(seed));
            }
        }
    }
}
