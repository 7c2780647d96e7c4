//! `rent_mut_for` needs `T: Send`.

use memory_shuffler::{Handle, Shuffler};
use std::rc::Rc;
use std::time::Duration;

fn case(shuffler: &Shuffler, handle: Handle<Rc<u8>>) {
    let _ = shuffler.rent_mut_for(handle, Duration::ZERO);
}

fn main() {}
