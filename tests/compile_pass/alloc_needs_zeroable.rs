//! `alloc` takes what is `Zeroable`.

use memory_shuffler::Shuffler;

fn main() {
    let _ = Shuffler::new().alloc::<(u8, f64)>(3);
}
