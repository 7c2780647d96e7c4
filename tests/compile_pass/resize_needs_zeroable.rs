//! `resize` takes what is `Zeroable`.

use memory_shuffler::{Handle, Shuffler};

fn case(shuffler: &Shuffler, handle: Handle<[(u8, f64)]>) {
    let _ = shuffler.resize::<(u8, f64)>(handle, 3);
}

fn main() {}
