//! Handles: small typed names of blocks.
//!
//! A handle is a slot of the handle table and the version that the slot had when the block was made. The table moves to
//! the next version when the block is freed, so an old handle is recognised and refused for ever. Handles own nothing:
//! they are copied freely, and dropping one frees no memory.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::num::NonZeroU64;

/// A handle without a type: a slot (high 32 bits) and a version (low 32 bits) in one non-zero word.
///
/// Any bits may be made into one: *using* a handle that names no live block is refused with an error, never a panic.
/// Handles order by slot, then by version.
///
/// ```
/// use memory_shuffler::RawHandle;
///
/// let handle = RawHandle::INVALID;
/// assert!(handle.is_invalid());
/// assert_eq!(RawHandle::from_bits(handle.to_bits()), handle);
/// assert_eq!(size_of::<Option<RawHandle>>(), 8);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
#[doc(alias = "Handle")]
pub struct RawHandle(NonZeroU64);

const _: () = assert!(size_of::<RawHandle>() == 8 && size_of::<Option<RawHandle>>() == 8);

impl RawHandle {
    /// The handle that no shuffler ever hands out: slot 0xFFFF_FFFF, version 0. Every use of it is refused.
    #[doc(alias = "Invalid")]
    pub const INVALID: Self = Self(NonZeroU64::new(0xFFFF_FFFF_0000_0000).unwrap());

    /// Packs a slot and its version. A live version is odd, so the word is not zero; the all-zero word, which names
    /// nothing, becomes [`INVALID`](Self::INVALID).
    #[inline]
    pub(crate) const fn new(slot: u32, version: u32) -> Self {
        match NonZeroU64::new(((slot as u64) << 32) | version as u64) {
            Some(bits) => Self(bits),
            None => Self::INVALID,
        }
    }

    /// The place of the block's entry in the handle table.
    #[inline]
    pub(crate) const fn slot(self) -> u32 {
        (self.0.get() >> 32) as u32
    }

    /// The version that the slot has while the block lives.
    #[inline]
    pub(crate) const fn version(self) -> u32 {
        self.0.get() as u32
    }

    /// Whether this is [`INVALID`](Self::INVALID). False says only that: whether the block is still there is for
    /// `Shuffler::valid_handle` to say.
    #[inline]
    #[must_use]
    pub const fn is_invalid(self) -> bool {
        self.0.get() == Self::INVALID.0.get()
    }

    /// The handle as a number, to store it or to pass it on; [`from_bits`](Self::from_bits) is the way back.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> NonZeroU64 {
        self.0
    }

    /// A handle from any bits. It never fails: bits that name no live block are refused when they are used.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: NonZeroU64) -> Self {
        Self(bits)
    }
}

impl Default for RawHandle {
    /// [`INVALID`](Self::INVALID).
    #[inline]
    fn default() -> Self {
        Self::INVALID
    }
}

impl fmt::Debug for RawHandle {
    /// Slot and version, as in `3v7`; `invalid` for [`INVALID`](Self::INVALID).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_invalid() { f.pad("invalid") } else { write!(f, "{}v{}", self.slot(), self.version()) }
    }
}

/// Declares a typed handle over [`RawHandle`]. Its traits are written out because derived ones would ask `T` for them.
macro_rules! typed_handle {
    ($(#[$attribute:meta])* $Name:ident) => {
        $(#[$attribute])*
        #[repr(transparent)]
        pub struct $Name<T: ?Sized> {
            raw: RawHandle,
            // Invariant in T; Send and Sync for every T, since a handle gives no access by itself.
            stored: PhantomData<fn(*mut T) -> *mut T>,
        }

        const _: () = assert!(size_of::<$Name<[u8]>>() == 8 && size_of::<Option<$Name<[u8]>>>() == 8);

        impl<T: ?Sized> $Name<T> {
            /// Gives a handle its type. Only for callers that know the block to hold a `T` of this kind: the call that
            /// allocated it, or one that compared its type tag. Both have seen the version, which is odd: that its life had
            /// begun is what a read goes by.
            #[inline]
            pub(crate) const fn from_raw(raw: RawHandle) -> Self {
                Self { raw, stored: PhantomData }
            }

            /// The same handle without its type.
            #[inline]
            #[must_use]
            pub const fn raw(self) -> RawHandle {
                self.raw
            }
        }

        impl<T: ?Sized> Clone for $Name<T> {
            #[inline]
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: ?Sized> Copy for $Name<T> {}

        impl<T: ?Sized> PartialEq for $Name<T> {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.raw == other.raw
            }
        }

        impl<T: ?Sized> Eq for $Name<T> {}

        impl<T: ?Sized> PartialOrd for $Name<T> {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl<T: ?Sized> Ord for $Name<T> {
            #[inline]
            fn cmp(&self, other: &Self) -> Ordering {
                self.raw.cmp(&other.raw)
            }
        }

        impl<T: ?Sized> Hash for $Name<T> {
            #[inline]
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.raw.hash(state);
            }
        }

        impl<T: ?Sized> fmt::Debug for $Name<T> {
            /// Slot and version, as in `3v7`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.raw.fmt(f)
            }
        }

        impl<T: ?Sized> From<$Name<T>> for RawHandle {
            #[inline]
            fn from(handle: $Name<T>) -> Self {
                handle.raw
            }
        }
    };
}

typed_handle! {
    /// The name of a block that is rented: `rent` gives `&T`, `rent_mut` gives `&mut T`, in place.
    ///
    /// `Copy`, eight bytes (so is an `Option` of it), `Send` and `Sync` for every `T`: a handle gives no access by
    /// itself. It is invariant in `T`:
    ///
    /// ```
    /// use memory_shuffler::Handle;
    ///
    /// fn same<'a>(handle: Handle<&'a str>) -> Handle<&'a str> { handle }
    /// ```
    ///
    /// ```compile_fail
    /// use memory_shuffler::Handle;
    ///
    /// fn shorter<'a>(handle: Handle<&'static str>) -> Handle<&'a str> { handle }
    /// ```
    Handle
}

typed_handle! {
    /// The name of a block that is read far more often than it is replaced: `reader.get` gives `&T` without any shared
    /// write, `publish`, `update` and, for slices, `publish_copy` put a new value in its place.
    ///
    /// `Copy`, eight bytes (so is an `Option` of it), `Send` and `Sync` for every `T`: a handle gives no access by
    /// itself. It is invariant in `T`:
    ///
    /// ```
    /// use memory_shuffler::Versioned;
    ///
    /// fn same<'a>(handle: Versioned<&'a str>) -> Versioned<&'a str> { handle }
    /// ```
    ///
    /// ```compile_fail
    /// use memory_shuffler::Versioned;
    ///
    /// fn shorter<'a>(handle: Versioned<&'static str>) -> Versioned<&'a str> { handle }
    /// ```
    Versioned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashSet;
    use std::rc::Rc;

    /// A type with none of the traits that handles must have regardless.
    struct Plain(#[expect(dead_code, reason = "only there to take away Send and Sync")] Rc<Cell<u8>>);

    #[test]
    fn packing_round_trips() {
        let corners = [0, 1, 2, 4095, 4096, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFD, 0xFFFF_FFFE, 0xFFFF_FFFF];
        for slot in corners {
            for version in corners {
                if (slot, version) == (0, 0) {
                    continue;
                }
                let handle = RawHandle::new(slot, version);
                assert_eq!((handle.slot(), handle.version()), (slot, version));
                assert_eq!(handle.to_bits().get(), (u64::from(slot) << 32) | u64::from(version));
                assert_eq!(RawHandle::from_bits(handle.to_bits()), handle);
                assert_eq!(handle.is_invalid(), (slot, version) == (0xFFFF_FFFF, 0));
            }
        }
    }

    #[test]
    fn the_all_zero_word_is_invalid() {
        assert_eq!(RawHandle::new(0, 0), RawHandle::INVALID);
    }

    #[test]
    fn invalid_is_the_last_slot_at_version_zero_and_the_default() {
        assert_eq!((RawHandle::INVALID.slot(), RawHandle::INVALID.version()), (0xFFFF_FFFF, 0));
        assert_eq!(RawHandle::default(), RawHandle::INVALID);
        assert!(RawHandle::INVALID.is_invalid());
        assert!(!RawHandle::new(0xFFFF_FFFF, 1).is_invalid());
    }

    #[test]
    fn debug_prints_slot_and_version() {
        let raw = RawHandle::new(3, 7);
        assert_eq!(format!("{raw:?}"), "3v7");
        assert_eq!(format!("{:?}", Handle::<Plain>::from_raw(raw)), "3v7");
        assert_eq!(format!("{:?}", Versioned::<str>::from_raw(raw)), "3v7");
        assert_eq!(format!("{:?}", RawHandle::INVALID), "invalid");
        assert_eq!(format!("{:?}", Some(Handle::<Plain>::from_raw(RawHandle::INVALID))), "Some(invalid)");
    }

    #[test]
    fn handles_order_by_slot_then_version() {
        let (low, middle, high) = (RawHandle::new(1, 9), RawHandle::new(2, 3), RawHandle::new(2, 5));
        assert!(low < middle && middle < high);
        let typed = [high, low, middle].map(Handle::<dyn fmt::Debug>::from_raw);
        let mut sorted = typed;
        sorted.sort();
        assert_eq!(sorted.map(Handle::raw), [low, middle, high]);
        assert_eq!(typed[0].partial_cmp(&typed[1]), Some(Ordering::Greater));
    }

    #[test]
    fn typed_handles_are_copied_compared_and_hashed_whatever_their_type() {
        fn check<H: Copy + Eq + Ord + Hash + fmt::Debug + Send + Sync + Into<RawHandle>>(one: H, other: H) {
            let copy = one;
            assert!(copy == one && one != other && one < other);
            assert_eq!([one, copy, other].into_iter().collect::<HashSet<_>>().len(), 2);
            assert_eq!(one.into(), RawHandle::new(3, 7));
        }
        let (one, other) = (RawHandle::new(3, 7), RawHandle::new(3, 9));
        check(Handle::<Plain>::from_raw(one), Handle::from_raw(other));
        check(Handle::<[Plain]>::from_raw(one), Handle::from_raw(other));
        check(Versioned::<Plain>::from_raw(one), Versioned::from_raw(other));
        check(Versioned::<dyn fmt::Debug>::from_raw(one), Versioned::from_raw(other));
        check(one, other);
    }
}
