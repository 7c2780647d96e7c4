//! `Versioned` is invariant in its type.

use memory_shuffler::Versioned;

fn shorter<'a>(handle: Versioned<&'static str>, _: &'a str) -> Versioned<&'a str> {
    handle
}

fn main() {}
