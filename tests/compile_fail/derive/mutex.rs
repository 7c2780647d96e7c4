//! A lock in a variant of an enum.

use memory_shuffler::Frozen;
use std::sync::Mutex;

#[derive(Frozen)]
enum Value {
    Number(u64),
    Shared { value: Mutex<u64> },
}

fn main() {
    let _ = [Value::Number(1), Value::Shared { value: Mutex::new(1) }];
}
