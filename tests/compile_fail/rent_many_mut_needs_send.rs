//! `rent_many_mut` needs `T: Send`.

use memory_shuffler::{Handle, Shuffler};
use std::rc::Rc;

fn case(shuffler: &Shuffler, handle: Handle<Rc<u8>>) {
    let _ = shuffler.rent_many_mut([handle]);
}

fn main() {}
