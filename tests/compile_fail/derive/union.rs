//! Which of its fields a union consists of is not known.

use memory_shuffler::Frozen;

#[derive(Frozen)]
union Either {
    number: u32,
    bytes: [u8; 4],
}

fn main() {
    let _ = [Either { number: 1 }, Either { bytes: [0; 4] }];
}
