//! A reference does not outlive its rent.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(String::new()).unwrap();
    let text: &String = &*shuffler.rent(handle).unwrap();
    println!("{text}");
}
