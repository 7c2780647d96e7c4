//! It may end before.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let rent = {
        let handle = shuffler.create(1).unwrap();
        shuffler.rent_mut(handle).unwrap()
    };
    drop(rent);
}
