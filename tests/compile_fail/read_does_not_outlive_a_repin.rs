//! What is read does not outlive a `repin`.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let value = shuffler.create_versioned(1).unwrap();
    let mut reader = shuffler.reader();
    let read = reader.get(value).unwrap();
    reader.repin();
    println!("{read}");
}
