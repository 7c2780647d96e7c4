//! What is read does not outlive its reader.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let value = shuffler.create_versioned(1).unwrap();
    let read = {
        let reader = shuffler.reader();
        reader.get(value).unwrap()
    };
    println!("{read}");
}
