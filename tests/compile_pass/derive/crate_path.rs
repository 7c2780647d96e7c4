//! The path of the library leads to a `Frozen`, and it is that one which is implemented.

use memory_shuffler::Frozen;

/// A crate in between that passes something on under the library's names.
mod between {
    pub mod library {
        /// # Safety
        ///
        /// None: it stands for the library's.
        pub unsafe trait Frozen {}
        // SAFETY: as the trait says.
        unsafe impl Frozen for u8 {}
    }
}

#[derive(Frozen)]
#[frozen(crate = "between::library")]
struct Passed<T>(u8, T);

fn is_passed<T: between::library::Frozen>() {}

mod inside {
    #[derive(memory_shuffler::Frozen)]
    #[frozen(crate = "crate::between::library")]
    pub enum Either {
        One(u8),
        Other { value: u8 },
    }
}

#[derive(Frozen)]
#[frozen(crate = "::memory_shuffler")]
struct Known(u8);

fn is_known<T: memory_shuffler::Frozen>() {}

fn main() {
    is_passed::<Passed<u8>>();
    is_passed::<inside::Either>();
    is_known::<Known>();
    let _ = (Passed(1, 2_u8), inside::Either::One(1), inside::Either::Other { value: 1 }, Known(1));
}
