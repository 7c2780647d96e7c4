//! A borrowed rent does not outlive its shuffler.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(1).unwrap();
    let rent = shuffler.rent(handle).unwrap();
    drop(shuffler);
    println!("{rent}");
}
