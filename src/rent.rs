//! Guards: a hold on a block that gives itself back.

use crate::engine::Core;
use crate::table::{Entry, Hold};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// A shared hold on a block. While it lives the block stays where it is, and is neither written nor dropped.
///
/// A panic that unwinds through it returns it; blocks are not poisoned.
#[must_use = "a rent that is dropped at once holds nothing"]
pub struct Rent<'a, T: ?Sized> {
    value: NonNull<T>,
    entry: &'a Entry,
    core: &'a Core,
    marker: PhantomData<&'a T>,
}

// SAFETY: it is a `&T` that another thread may return, and with the last return drop the `T`.
unsafe impl<T: ?Sized + Send + Sync> Send for Rent<'_, T> {}
// SAFETY: `&Rent` gives out `&T` only.
unsafe impl<T: ?Sized + Send + Sync> Sync for Rent<'_, T> {}

impl<'a, T: ?Sized> Rent<'a, T> {
    /// # Safety
    ///
    /// The caller has a shared hold on the entry's block, which `value` lies in, and passes it on.
    pub(crate) unsafe fn new(core: &'a Core, entry: &'a Entry, value: NonNull<T>) -> Self {
        Self { value, entry, core, marker: PhantomData }
    }

    /// A rent of a part of the value. It holds the whole block.
    pub fn map<U: ?Sized>(rent: Self, part: impl FnOnce(&T) -> &U) -> Rent<'a, U> {
        let value = NonNull::from(part(&rent));
        let rent = ManuallyDrop::new(rent);
        Rent { value, entry: rent.entry, core: rent.core, marker: PhantomData }
    }
}

impl<T: ?Sized> Deref for Rent<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the hold keeps the block in place and unwritten.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> Drop for Rent<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.core.give_back(self.entry, Hold::Shared);
    }
}

/// The exclusive hold on a block: nobody else reads, writes, moves or drops it.
///
/// A panic that unwinds through it returns it; blocks are not poisoned.
#[must_use = "a rent that is dropped at once holds nothing"]
pub struct RentMut<'a, T: ?Sized> {
    value: NonNull<T>,
    entry: &'a Entry,
    core: &'a Core,
    marker: PhantomData<&'a mut T>,
}

// SAFETY: it is a `&mut T` that another thread may return.
unsafe impl<T: ?Sized + Send> Send for RentMut<'_, T> {}
// SAFETY: `&RentMut` gives out `&T` only.
unsafe impl<T: ?Sized + Send + Sync> Sync for RentMut<'_, T> {}

impl<'a, T: ?Sized> RentMut<'a, T> {
    /// # Safety
    ///
    /// The caller has the exclusive hold on the entry's block, which `value` lies in, and passes it on.
    pub(crate) unsafe fn new(core: &'a Core, entry: &'a Entry, value: NonNull<T>) -> Self {
        Self { value, entry, core, marker: PhantomData }
    }
}

impl<T: ?Sized> Deref for RentMut<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the hold is exclusive.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for RentMut<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the hold is exclusive, and so is the borrow of its guard.
        unsafe { self.value.as_mut() }
    }
}

impl<T: ?Sized> Drop for RentMut<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.core.give_back(self.entry, Hold::Exclusive);
    }
}

/// A shared hold that borrows nothing: it may be stored, sent, and kept across an `await`.
///
/// It holds its block only. When the last clone of the shuffler is dropped, this block and its memory stay until it is
/// returned; every other block is gone.
#[must_use = "a rent that is dropped at once holds nothing"]
pub struct OwnedRent<T: ?Sized> {
    value: NonNull<T>,
    entry: NonNull<Entry>,
    core: Arc<Core>,
}

// SAFETY: as for `Rent`; the entry lives as long as the core.
unsafe impl<T: ?Sized + Send + Sync> Send for OwnedRent<T> {}
// SAFETY: as for `Rent`.
unsafe impl<T: ?Sized + Send + Sync> Sync for OwnedRent<T> {}

impl<T: ?Sized> OwnedRent<T> {
    /// # Safety
    ///
    /// As for [`Rent::new`]; the entry is one of the core's.
    pub(crate) unsafe fn new(core: Arc<Core>, entry: NonNull<Entry>, value: NonNull<T>) -> Self {
        Self { value, entry, core }
    }
}

impl<T: ?Sized> Deref for OwnedRent<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the hold keeps the block in place and unwritten.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> Drop for OwnedRent<T> {
    fn drop(&mut self) {
        // SAFETY: the entry lives as long as the core, which this keeps.
        self.core.give_back(unsafe { self.entry.as_ref() }, Hold::Shared);
    }
}

macro_rules! as_the_value {
    ($($guard:ident $(<$life:lifetime>)?),*) => {$(
        impl<T: ?Sized> AsRef<T> for $guard<$($life,)? T> {
            fn as_ref(&self) -> &T {
                self
            }
        }

        impl<T: ?Sized + fmt::Debug> fmt::Debug for $guard<$($life,)? T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }

        impl<T: ?Sized + fmt::Display> fmt::Display for $guard<$($life,)? T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    )*};
}

as_the_value!(Rent<'_>, RentMut<'_>, OwnedRent);

impl<T: ?Sized> AsMut<T> for RentMut<'_, T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}
