//! The derive in a crate that has the library by another name: `shuffler`, as this one's manifest says.

use shuffler::{Frozen, Shuffler, Versioned};

#[derive(Frozen)]
#[frozen(crate = "shuffler")]
struct Page<T> {
    title: String,
    rest: Option<T>,
}

#[derive(Clone, Copy, Frozen)]
#[frozen(crate = "::shuffler")]
enum Link {
    None,
    To(Versioned<Page<Link>>),
}

/// As a crate in between would pass it on.
mod between {
    pub use shuffler as library;
}

#[derive(Frozen)]
#[frozen(crate = "crate::between::library")]
struct Count(u64);

#[test]
fn the_library_goes_by_the_name_that_was_given() {
    let shuffler = Shuffler::new();
    let last = shuffler.create_versioned(Page { title: String::from("last"), rest: Some(Link::None) }).unwrap();
    let first = shuffler.create_versioned(Page { title: String::from("first"), rest: Some(Link::To(last)) }).unwrap();
    let count = shuffler.create_versioned(Count(2)).unwrap();
    let reader = shuffler.reader();
    let Some(Link::To(next)) = reader.get(first).unwrap().rest else { panic!("the first leads nowhere") };
    assert_eq!(reader.get(next).unwrap().title, "last");
    assert_eq!(reader.get(count).unwrap().0, 2);
}
