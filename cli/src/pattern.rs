//! What blocks are filled with: bytes that depend on the block and on the place in it.
//!
//! The byte at offset `i` is byte `i % 8` of a word that mixes the block's seed with `i / 8`, so a lost, shifted, torn
//! or foreign copy shows, and a block that grows continues its own pattern. One addition and one shift a word: the
//! harness should cost little beside the allocator.

use std::mem::MaybeUninit;

/// 2⁶⁴ / φ, odd: consecutive multiples are spread over all words.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const WORD: usize = size_of::<u64>();

/// The pattern of one block.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    seed: u64,
}

/// The first byte of a block that is not what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Where it lies in the block.
    pub offset: usize,
    /// What was written.
    pub expected: u8,
    /// What is there.
    pub found: u8,
}

impl Pattern {
    /// The pattern of the block that `thread` made as its allocation number `birth`.
    pub fn new(thread: u32, birth: u32) -> Self {
        Self { seed: mix((u64::from(thread) << 32) | u64::from(birth)) }
    }

    /// Writes the pattern over `bytes[from..]`, where `bytes` is the whole block.
    pub fn fill(self, bytes: &mut [MaybeUninit<u8>], from: usize) {
        let aligned = from.next_multiple_of(WORD).min(bytes.len());
        for (offset, byte) in bytes.iter_mut().enumerate().take(aligned).skip(from) {
            byte.write(self.byte(offset));
        }
        let mut words = self.words(aligned);
        let mut chunks = bytes[aligned..].chunks_exact_mut(WORD);
        for (chunk, word) in chunks.by_ref().zip(words.by_ref()) {
            chunk.write_copy_of_slice(&word);
        }
        let rest = chunks.into_remainder();
        if let Some(word) = words.next() {
            rest.write_copy_of_slice(&word[..rest.len()]);
        }
    }

    /// Compares a whole block with the pattern.
    pub fn check(self, bytes: &[u8]) -> Result<(), Mismatch> {
        let chunks = bytes.chunks_exact(WORD);
        let rest = chunks.remainder();
        let mut words = self.words(0);
        // Zipped with the chunks first: `zip` would otherwise swallow the word that the remainder needs.
        let same = chunks.zip(words.by_ref()).all(|(chunk, word)| chunk == word);
        if same && words.next().is_none_or(|word| rest == &word[..rest.len()]) {
            return Ok(());
        }
        self.first_mismatch(bytes)
    }

    #[cold]
    fn first_mismatch(self, bytes: &[u8]) -> Result<(), Mismatch> {
        let at = |(offset, &found): (usize, &u8)| Mismatch { offset, expected: self.byte(offset), found };
        bytes.iter().enumerate().map(at).find(|m| m.expected != m.found).map_or(Ok(()), Err)
    }

    fn words(self, offset: usize) -> impl Iterator<Item = [u8; WORD]> {
        let mut next = self.state((offset / WORD) as u64);
        std::iter::repeat_with(move || {
            let word = next ^ (next >> 29);
            next = next.wrapping_add(STEP);
            word.to_le_bytes()
        })
    }

    fn byte(self, offset: usize) -> u8 {
        let state = self.state((offset / WORD) as u64);
        (state ^ (state >> 29)).to_le_bytes()[offset % WORD]
    }

    fn state(self, index: u64) -> u64 {
        self.seed.wrapping_add(index.wrapping_mul(STEP))
    }
}

/// The finaliser of splitmix64.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pattern: Pattern, size: usize) -> Vec<u8> {
        grown(pattern, Vec::new(), size)
    }

    /// `bytes` continued to `size`, as a resize does.
    fn grown(pattern: Pattern, bytes: Vec<u8>, size: usize) -> Vec<u8> {
        let from = bytes.len();
        let mut block: Vec<_> = bytes.into_iter().map(MaybeUninit::new).collect();
        block.resize(size, MaybeUninit::new(0xEE));
        pattern.fill(&mut block, from);
        // SAFETY: every byte of the vector was made with `MaybeUninit::new`.
        block.into_iter().map(|byte| unsafe { byte.assume_init() }).collect()
    }

    #[test]
    fn what_was_filled_passes() {
        for size in 0..70 {
            assert_eq!(Pattern::new(1, 2).check(&filled(Pattern::new(1, 2), size)), Ok(()), "{size}");
        }
    }

    #[test]
    fn growing_continues_the_pattern() {
        let pattern = Pattern::new(3, 4);
        for old in 0..40 {
            for new in old..60 {
                assert_eq!(grown(pattern, filled(pattern, old), new), filled(pattern, new), "{old} to {new}");
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let pattern = Pattern::new(0, 9);
        for size in [1, 7, 8, 9, 64, 77] {
            for offset in 0..size {
                let mut bytes = filled(pattern, size);
                let expected = bytes[offset];
                bytes[offset] ^= 0x40;
                let found = Mismatch { offset, expected, found: expected ^ 0x40 };
                assert_eq!(pattern.check(&bytes), Err(found), "{size}");
            }
        }
    }

    #[test]
    fn other_blocks_differ() {
        let bytes = filled(Pattern::new(0, 1), 16);
        assert!(Pattern::new(0, 2).check(&bytes).is_err());
        assert!(Pattern::new(1, 1).check(&bytes).is_err());
        assert!(Pattern::new(0, 1).check(&bytes[8..]).is_err(), "a shifted copy");
    }
}
