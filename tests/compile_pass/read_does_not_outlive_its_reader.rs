//! It may be used while the reader lives.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let value = shuffler.create_versioned(1).unwrap();
    let reader = shuffler.reader();
    let read = { reader.get(value).unwrap() };
    drop(read);
}
