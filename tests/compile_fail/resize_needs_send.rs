//! `resize` needs `T: Send`.

use memory_shuffler::{Handle, Shuffler};

fn case(shuffler: &Shuffler, handle: Handle<[*mut u8]>) {
    let _ = shuffler.resize(handle, 3);
}

fn main() {}
