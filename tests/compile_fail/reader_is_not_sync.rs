//! A `Reader` is not shared between threads.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let value = shuffler.create_versioned(1).unwrap();
    let reader = shuffler.reader();
    std::thread::scope(|scope| {
        scope.spawn(|| println!("{:?}", reader.get(value)));
    });
}
