//! Who knows better may say so.

use memory_shuffler::{Frozen, Shuffler};

#[derive(Clone, Copy)]
union Either {
    number: u32,
    bytes: [u8; 4],
}

// SAFETY: numbers, whichever it is.
unsafe impl Frozen for Either {}

fn main() {
    for either in [Either { number: 1 }, Either { bytes: [0; 4] }] {
        assert!(Shuffler::new().alloc_versioned(&[either]).is_ok());
    }
}
