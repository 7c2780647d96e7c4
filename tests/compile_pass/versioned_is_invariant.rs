//! The same type goes.

use memory_shuffler::Versioned;

fn same<'a>(handle: Versioned<&'a str>) -> Versioned<&'a str> {
    handle
}

fn main() {}
