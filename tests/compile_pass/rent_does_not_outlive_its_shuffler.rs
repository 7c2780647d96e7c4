//! An `OwnedRent` does.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(1).unwrap();
    let rent = shuffler.rent_owned(handle).unwrap();
    drop(shuffler);
    drop(rent);
}
