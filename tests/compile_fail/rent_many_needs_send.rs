//! `rent_many` needs `T: Send`: another thread may return it, and so drop the value.

use memory_shuffler::{Handle, Shuffler};
use std::sync::MutexGuard;

fn rent(shuffler: &Shuffler, handle: Handle<MutexGuard<'static, u8>>) {
    let _ = shuffler.rent_many([handle]);
}

fn main() {}
