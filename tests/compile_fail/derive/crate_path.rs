//! The library is where the path says, or nowhere.

use memory_shuffler::Frozen;

#[derive(Frozen)]
#[frozen(crate = "memory_shufler")]
struct Misspelt(u8);

fn main() {
    let _ = Misspelt(1);
}
