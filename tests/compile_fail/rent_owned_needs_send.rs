//! `rent_owned` needs `T: Send`.

use memory_shuffler::{Handle, Shuffler};
use std::sync::MutexGuard;

fn rent(shuffler: &Shuffler, handle: Handle<MutexGuard<'static, u8>>) {
    let _ = shuffler.rent_owned(handle);
}

fn main() {}
