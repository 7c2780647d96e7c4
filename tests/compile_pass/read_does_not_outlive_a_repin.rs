//! It is read anew.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let value = shuffler.create_versioned(1).unwrap();
    let mut reader = shuffler.reader();
    println!("{}", reader.get(value).unwrap());
    reader.repin();
    println!("{}", reader.get(value).unwrap());
}
