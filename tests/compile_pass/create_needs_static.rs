//! `create` takes what borrows nothing.

use memory_shuffler::Shuffler;

fn main() {
    let local = String::from("local");
    let _ = Shuffler::new().create(local);
}
