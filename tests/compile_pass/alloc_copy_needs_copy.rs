//! `alloc_copy` takes what is `Copy`.

use memory_shuffler::Shuffler;

fn main() {
    let _ = Shuffler::new().alloc_copy(&["text"]);
}
