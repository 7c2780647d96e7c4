//! What changes behind a pointer may.

use memory_shuffler::Shuffler;
use std::sync::{Arc, Mutex};

fn main() {
    let _ = Shuffler::new().create_versioned(Arc::new(Mutex::new(1)));
}
