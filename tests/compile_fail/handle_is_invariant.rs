//! `Handle` is invariant in its type.

use memory_shuffler::Handle;

fn shorter<'a>(handle: Handle<&'static str>, _: &'a str) -> Handle<&'a str> {
    handle
}

fn longer<'a>(handle: Handle<&'a str>) -> Handle<&'static str> {
    handle
}

fn main() {}
