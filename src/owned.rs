//! A block with an owner: freed when its owner is dropped.

use crate::error::AccessError;
use crate::handle::Handle;
use crate::rent::{Rent, RentMut};
use crate::shuffler::Shuffler;
use crate::types::Stored;
use std::fmt;
use std::mem::ManuallyDrop;

/// Frees its block on drop. Made by [`Shuffler::owned`].
///
/// It keeps the shuffler alive. An `Owned` inside a block of the same shuffler is a cycle, which nothing breaks.
pub struct Owned<T: ?Sized + Stored> {
    shuffler: Shuffler,
    handle: Handle<T>,
}

impl<T: ?Sized + Stored> Owned<T> {
    pub(crate) fn new(shuffler: Shuffler, handle: Handle<T>) -> Self {
        Self { shuffler, handle }
    }

    /// The block's handle.
    #[must_use]
    pub fn handle(&self) -> Handle<T> {
        self.handle
    }

    /// Gives the ownership up: the block lives until it is freed by handle.
    #[must_use = "the block is not freed by anybody else"]
    pub fn into_handle(self) -> Handle<T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped or used again, so its one droppable field is dropped once, here.
        unsafe { std::ptr::drop_in_place(&mut this.shuffler) };
        this.handle
    }

    /// As [`Shuffler::rent`].
    ///
    /// # Errors
    ///
    /// As for [`Shuffler::rent`]; `Stale` only if the block was freed by its handle.
    pub fn rent(&self) -> Result<Rent<'_, T>, AccessError>
    where
        T: Send + Sync,
    {
        self.shuffler.rent(self.handle)
    }

    /// As [`Shuffler::rent_mut`].
    ///
    /// # Errors
    ///
    /// As for [`Shuffler::rent_mut`]; `Stale` only if the block was freed by its handle.
    pub fn rent_mut(&self) -> Result<RentMut<'_, T>, AccessError>
    where
        T: Send,
    {
        self.shuffler.rent_mut(self.handle)
    }
}

impl<T: ?Sized + Stored> Drop for Owned<T> {
    fn drop(&mut self) {
        // A block that was freed by its handle already is none of this owner's business any more.
        let _ = self.shuffler.free(self.handle);
    }
}

impl<T: ?Sized + Stored> fmt::Debug for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owned").field(&self.handle).finish()
    }
}
