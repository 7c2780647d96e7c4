//! `resize` needs `T: Zeroable`.

use memory_shuffler::{Handle, Shuffler};

fn case(shuffler: &Shuffler, handle: Handle<[&'static u8]>) {
    let _ = shuffler.resize::<&'static u8>(handle, 3);
}

fn main() {}
