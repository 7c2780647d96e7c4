//! `create` needs `T: Send`.

use memory_shuffler::Shuffler;
use std::rc::Rc;

fn main() {
    let _ = Shuffler::new().create(Rc::new(1));
}
