//! `create` takes what is `Send`.

use memory_shuffler::Shuffler;
use std::sync::Arc;

fn main() {
    let _ = Shuffler::new().create(Arc::new(1));
}
