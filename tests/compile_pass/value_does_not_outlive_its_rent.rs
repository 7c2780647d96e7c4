//! A copy does.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(String::new()).unwrap();
    let text: String = shuffler.rent(handle).unwrap().clone();
    drop(text);
}
