//! Without such a field. The type is private and refers to itself.

#![deny(warnings)]

use memory_shuffler::{Frozen, Shuffler};

#[derive(Frozen)]
struct Private(u32);

#[derive(Frozen)]
pub struct Hits {
    name: String,
    count: Private,
    next: Option<Box<Hits>>,
}

#[derive(Frozen)]
pub struct Unit;

fn main() {
    let next = Some(Box::new(Hits { name: String::new(), count: Private(2), next: None }));
    let shuffler = Shuffler::new();
    let hits = Hits { name: String::from("a"), count: Private(1), next };
    let handle = shuffler.create_versioned(hits).map_err(|rejected| rejected.cause()).unwrap();
    let reader = shuffler.reader();
    let hits = reader.get(handle).unwrap();
    assert!(hits.name == "a" && hits.count.0 == 1 && hits.next.is_some());
    let _ = Unit;
}
