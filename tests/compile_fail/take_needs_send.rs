//! `take` needs `T: Send`.

use memory_shuffler::{Handle, Shuffler};
use std::rc::Rc;

fn case(shuffler: &Shuffler, handle: Handle<Rc<u8>>) {
    let _ = shuffler.take(handle);
}

fn main() {}
