//! A `Rent` is `Send` and `Sync` only if its value is both.

use memory_shuffler::{OwnedRent, Rent};
use std::cell::Cell;
use std::sync::MutexGuard;

fn send<T: Send>() {}
fn sync<T: Sync>() {}

fn main() {
    send::<Rent<'static, Cell<u8>>>();
    sync::<Rent<'static, Cell<u8>>>();
    send::<Rent<'static, MutexGuard<'static, u8>>>();
    send::<OwnedRent<Cell<u8>>>();
    sync::<OwnedRent<MutexGuard<'static, u8>>>();
}
