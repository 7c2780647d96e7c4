//! A borrowed rent to write does not outlive its shuffler.

use memory_shuffler::Shuffler;

fn main() {
    let rent = {
        let shuffler = Shuffler::new();
        let handle = shuffler.create(1).unwrap();
        shuffler.rent_mut(handle).unwrap()
    };
    println!("{rent}");
}
