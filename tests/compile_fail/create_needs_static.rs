//! `create` needs `T: 'static`.

use memory_shuffler::Shuffler;

fn main() {
    let local = String::from("local");
    let _ = Shuffler::new().create(local.as_str());
}
