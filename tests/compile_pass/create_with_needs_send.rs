//! `create_with` takes what is `Send`, made by what need not be.

use memory_shuffler::Shuffler;
use std::rc::Rc;

fn main() {
    let maker = Rc::new(1);
    let _ = Shuffler::new().create_with(|| *maker);
}
