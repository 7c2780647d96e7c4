//! A box of a trait object is a sized value.

use memory_shuffler::{Handle, Shuffler};

fn case(shuffler: &Shuffler, handle: Handle<Box<dyn Fn() + Send + Sync>>) {
    let _ = shuffler.rent(handle);
}

fn main() {}
