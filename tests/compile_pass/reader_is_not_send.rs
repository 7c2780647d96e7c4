//! Each thread has its own.

use memory_shuffler::Shuffler;

fn main() {
    let shuffler = Shuffler::new();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(shuffler.reader()));
    });
}
