//! Then it is.

use memory_shuffler::{OwnedRent, Rent};
use std::sync::Mutex;

fn send<T: Send>() {}
fn sync<T: Sync>() {}

fn main() {
    send::<Rent<'static, Mutex<u8>>>();
    sync::<Rent<'static, Mutex<u8>>>();
    send::<OwnedRent<Mutex<u8>>>();
    sync::<OwnedRent<Mutex<u8>>>();
}
