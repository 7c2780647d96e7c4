//! The same type goes.

use memory_shuffler::Handle;

fn same<'a>(handle: Handle<&'a str>) -> Handle<&'a str> {
    handle
}

fn main() {}
