//! Another rent of the part is the way.

use memory_shuffler::{Rent, Shuffler};

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(String::from("a")).unwrap();
    let rent = Rent::map(shuffler.rent(handle).unwrap(), |text| text.as_str());
    drop(rent);
}
