//! `create_with` needs `T: Send`.

use memory_shuffler::Shuffler;
use std::rc::Rc;

fn main() {
    let _ = Shuffler::new().create_with(|| Rc::new(1));
}
