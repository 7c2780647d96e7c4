//! A block holds a sized value, a slice or a string.

use memory_shuffler::{Handle, Shuffler};

fn case(shuffler: &Shuffler, handle: Handle<dyn Fn() + Send + Sync>) {
    let _ = shuffler.rent(handle);
}

fn main() {}
