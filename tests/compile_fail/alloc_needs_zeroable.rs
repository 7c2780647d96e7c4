//! `alloc` needs `T: Zeroable`.

use memory_shuffler::Shuffler;

fn main() {
    let _ = Shuffler::new().alloc::<&'static u8>(3);
}
