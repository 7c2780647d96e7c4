//! A part of a rented value is no longer-lived than the rent.

use memory_shuffler::{Rent, Shuffler};

fn main() {
    let shuffler = Shuffler::new();
    let handle = shuffler.create(String::from("a")).unwrap();
    let mut stolen: &str = "";
    let rent = Rent::map(shuffler.rent(handle).unwrap(), |text| {
        stolen = text;
        text
    });
    drop(rent);
    println!("{stolen}");
}
