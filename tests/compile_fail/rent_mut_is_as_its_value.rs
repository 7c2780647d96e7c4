//! A `RentMut` is `Send` only if its value is, and `Sync` only if its value is both.

use memory_shuffler::RentMut;
use std::cell::Cell;
use std::sync::MutexGuard;

fn send<T: Send>() {}
fn sync<T: Sync>() {}

fn main() {
    send::<RentMut<'static, MutexGuard<'static, u8>>>();
    sync::<RentMut<'static, Cell<u8>>>();
    sync::<RentMut<'static, MutexGuard<'static, u8>>>();
}
