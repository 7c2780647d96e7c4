//! Returning a pointer is unsafe: another's hold could be returned.

use memory_shuffler::{RawHandle, Shuffler};

fn case(shuffler: &Shuffler, handle: RawHandle) {
    let _ = shuffler.return_pointer(handle);
}

fn main() {}
