//! `alloc_copy` needs `T: Copy`.

use memory_shuffler::Shuffler;

fn main() {
    let _ = Shuffler::new().alloc_copy(&[String::new()]);
}
