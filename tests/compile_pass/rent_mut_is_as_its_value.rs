//! `Send` suffices to be sent.

use memory_shuffler::RentMut;
use std::cell::Cell;
use std::sync::Mutex;

fn send<T: Send>() {}
fn sync<T: Sync>() {}

fn main() {
    send::<RentMut<'static, Cell<u8>>>();
    send::<RentMut<'static, Mutex<u8>>>();
    sync::<RentMut<'static, Mutex<u8>>>();
}
