//! What must not compile, each case with a twin that does; and the traits that the public types have.

use memory_shuffler::{
    AccessError, AllocError, Builder, ConfigError, Directory, Error, Handle, OpaqueHandle, Owned, OwnedRent, Paused,
    RawHandle, Rejected, Rent, RentMut, ResizeError, Rights, Shuffler, Versioned,
};
use std::cell::Cell;
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;

#[test]
fn bounds() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_pass/*.rs");
    cases.compile_fail("tests/compile_fail/*.rs");
    if cfg!(feature = "derive") {
        cases.pass("tests/compile_pass/derive/*.rs");
        cases.compile_fail("tests/compile_fail/derive/*.rs");
    }
}

#[test]
fn every_case_has_its_twin() {
    let names = |folder: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = files.filter(|name| name.ends_with(".rs")).collect();
        names.sort();
        names
    };
    assert_eq!(names("compile_fail"), names("compile_pass"));
    assert!(names("compile_fail").len() > 10);
    assert_eq!(names("compile_fail/derive"), names("compile_pass/derive"));
    assert!(names("compile_fail/derive").len() > 3);
}

/// Neither `Send` nor `Sync`, nor anything else.
struct Plain(#[expect(dead_code, reason = "only there to take away the traits")] Rc<Cell<u8>>);

const fn send_sync<T: Send + Sync>() {}
const fn a_handle<T: Copy + Eq + Ord + Hash + Debug + Send + Sync + Unpin + Into<RawHandle> + 'static>() {
    assert!(size_of::<T>() == 8 && size_of::<Option<T>>() == 8);
}
const fn an_error<T: std::error::Error + Send + Sync + 'static>() {}
const fn debug<T: Debug>() {}

const _: () = {
    a_handle::<RawHandle>();
    a_handle::<Handle<u8>>();
    a_handle::<Handle<Plain>>();
    a_handle::<Handle<[Plain]>>();
    a_handle::<Handle<str>>();
    a_handle::<Versioned<u8>>();
    a_handle::<Versioned<Plain>>();
    a_handle::<Versioned<[Plain]>>();

    send_sync::<Shuffler>();
    send_sync::<Builder>();
    send_sync::<Directory>();
    send_sync::<Directory<String>>();
    send_sync::<(OpaqueHandle, Rights)>();
    send_sync::<Owned<Plain>>();
    send_sync::<Owned<[Plain]>>();
    send_sync::<Rent<'_, u8>>();
    send_sync::<RentMut<'_, str>>();
    send_sync::<OwnedRent<[u8]>>();
    send_sync::<Paused<'_>>();

    an_error::<AccessError>();
    an_error::<AllocError>();
    an_error::<ConfigError>();
    an_error::<Error>();
    an_error::<ResizeError>();
    an_error::<Rejected<Vec<u8>>>();

    debug::<Shuffler>();
    debug::<Builder>();
    debug::<Directory>();
    debug::<Owned<Plain>>();
    debug::<Rent<'_, str>>();
    debug::<Rejected<Plain>>();
};
