//! A lock behind a pointer.

use memory_shuffler::{Frozen, Shuffler};
use std::sync::{Arc, Mutex};

#[derive(Frozen)]
enum Value {
    None,
    Number(u64),
    Shared { value: Arc<Mutex<u64>> },
}

fn main() {
    let shuffler = Shuffler::new();
    for value in [Value::None, Value::Number(1), Value::Shared { value: Arc::default() }] {
        let handle = shuffler.create_versioned(value).map_err(|rejected| rejected.cause()).unwrap();
        let reader = shuffler.reader();
        match reader.get(handle).unwrap() {
            Value::None => {}
            Value::Number(number) => assert_eq!(*number, 1),
            Value::Shared { value } => *value.lock().unwrap() += 1,
        }
    }
}
