//! Generic types are frozen for those arguments for which their fields are; bounds of their own stay.

use memory_shuffler::{Frozen, Shuffler};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::AtomicU32;

#[derive(Frozen)]
struct Pair<T, const N: usize>(T, [T; N]);

#[derive(Frozen)]
struct Index<K: Debug, V>
where
    K: Clone,
{
    map: HashMap<K, V>,
    last: Option<K>,
    text: &'static str,
}

#[derive(Frozen)]
struct Behind<T: ?Sized>(Box<T>);

fn main() {
    let shuffler = Shuffler::new();
    assert!(shuffler.create_versioned(Pair(1, [2])).is_ok());
    // What the map holds lies behind its pointers.
    let index = Index { map: HashMap::from([(1_u8, AtomicU32::new(1))]), last: Some(1), text: "" };
    let handle = shuffler.create_versioned(index).map_err(|rejected| rejected.cause()).unwrap();
    let reader = shuffler.reader();
    let index = reader.get(handle).unwrap();
    assert!(index.map.len() == 1 && index.last == Some(1) && index.text.is_empty());
    let behind = shuffler.create_versioned(Behind::<[AtomicU32]>(Box::new([]))).map_err(|rejected| rejected.cause());
    assert!(reader.get(behind.unwrap()).unwrap().0.is_empty());
}
