//! Two paths, or another key.

use memory_shuffler::Frozen;

#[derive(Frozen)]
#[frozen(crate = "::memory_shuffler")]
#[frozen(crate = "::memory_shuffler")]
struct Twice(u8);

#[derive(Frozen)]
#[frozen(krate = "::memory_shuffler")]
struct Unknown(u8);

fn main() {
    let _ = (Twice(1), Unknown(1));
}
