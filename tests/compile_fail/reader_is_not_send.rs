//! A `Reader` stays on its thread.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    let reader = shuffler.reader();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(reader));
    });
}
