//! Names for blocks: a sharded map from keys to grants.
//!
//! A grant is a slot, a version and rights, 16 bytes: the map maps keys to atomically versioned entries of the handle table. It
//! is asked under one shard's lock, which is over before the entry is; no map lock is held while a rent lasts or while user
//! code runs, but for a key's `Hash`, `Eq` and `Clone`. Code that has a `Handle` needs no directory.

mod grants;
mod rights;

use crate::compact::sweep::Sweep;
use crate::engine::access::Freed;
use crate::error::AccessError;
use crate::frozen::Frozen;
use crate::handle::{Handle, RawHandle, Versioned};
use crate::panics::keep_first;
use crate::reader::Reader;
use crate::rent::{Rent, RentMut};
use crate::shuffler::Shuffler;
use crate::types::Stored;
use grants::{Existing, Grant, Grants};
use rand::rngs::{StdRng, SysRng};
use rand::{RngExt, SeedableRng};
pub use rights::{OpaqueHandle, Rights};
use std::fmt;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

/// A map from keys to blocks of one shuffler, to be shared between threads.
///
/// The key is an [`OpaqueHandle`], made by [`grant`](Directory::grant), for those whom the program does not trust; or it is the
/// program's own, and the directory is the index of a cache or a store. A block may have many keys, each with rights of its own.
/// A key that was inserted with [`insert_owned`](Self::insert_owned) owns its block: the block is freed when the key is removed
/// or gets another block, and when the directory is dropped.
///
/// What a key names and what it allows is looked up when a call begins; then the block itself decides. So revoking a key
/// refuses every call that begins after it, and leaves the rents there are as they are.
///
/// Grants of blocks that were freed in another way than through their key are forgotten by the look-up that meets one and by
/// [`Shuffler::shuffle`], and after a while by the background thread. The map gives room back when most of its keys are gone.
///
/// `Hash`, `Eq` and `Clone` of a key run under a lock of the map: they must not use the same directory. Its destructor does not.
/// A directory inside a block of its own shuffler is a cycle, which nothing breaks.
///
/// # A session store
///
/// ```
/// use memory_shuffler::{AccessError, Directory, Rights, Shuffler};
///
/// let shuffler = Shuffler::new();
/// let sessions: Directory<String> = Directory::new(&shuffler);
/// let log_in = |user: &str, cart: Vec<u32>| -> Result<(), memory_shuffler::Error> {
///     // An earlier session of the same user ends with this.
///     sessions.insert_owned(user.to_owned(), shuffler.create(cart)?, Rights::ALL);
///     Ok(())
/// };
/// log_in("ann", vec![])?;
/// log_in("bob", vec![7])?;
/// log_in("ann", vec![1, 2])?;
///
/// sessions.rent_mut::<Vec<u32>>(&"ann".to_owned())?.push(3);
/// assert_eq!(*sessions.rent::<Vec<u32>>(&"ann".to_owned())?, [1, 2, 3]);
/// assert_eq!((sessions.len(), shuffler.stats().live_blocks), (2, 2));
///
/// assert!(sessions.revoke(&"ann".to_owned()));
/// assert_eq!(sessions.rent::<Vec<u32>>(&"ann".to_owned()).err(), Some(AccessError::Denied));
/// assert_eq!(sessions.take::<Vec<u32>>(&"bob".to_owned())?, [7]);
/// assert_eq!(shuffler.stats().live_blocks, 0);
/// # Ok::<(), memory_shuffler::Error>(())
/// ```
///
/// # Names for a client that is not trusted
///
/// ```
/// use memory_shuffler::{AccessError, Directory, OpaqueHandle, Rights, Shuffler};
///
/// let shuffler = Shuffler::new();
/// let names: Directory = Directory::new(&shuffler);
/// let report = shuffler.alloc_str("confidential")?;
/// // What goes to the client is a number that tells nothing.
/// let sent: u64 = names.grant(report, Rights::READ).to_bits();
///
/// let answer = |bits: u64| names.rent::<str>(&OpaqueHandle::from_bits(bits)).map(|text| text.to_owned());
/// assert_eq!(answer(sent)?, "confidential");
/// assert_eq!(answer(sent ^ 1), Err(AccessError::Denied));
/// // It may read and nothing else.
/// assert_eq!(names.free(&OpaqueHandle::from_bits(sent)), Err(AccessError::Denied));
/// // All names of the report at once.
/// assert_eq!(names.revoke_all(report), 1);
/// assert_eq!(answer(sent), Err(AccessError::Denied));
/// # Ok::<(), memory_shuffler::Error>(())
/// ```
#[doc(alias = "handle_to_index")]
pub struct Directory<K: Eq + Hash = OpaqueHandle> {
    shuffler: Shuffler,
    grants: Arc<Grants<K>>,
    sweeper: Weak<dyn Sweep>,
    /// Seeded by the operating system, so that no name tells anything of the next.
    names: Mutex<StdRng>,
}

/// # Make
impl<K: Eq + Hash> Directory<K> {
    /// An empty directory of a shuffler's blocks. It keeps the shuffler alive.
    ///
    /// # Panics
    ///
    /// If the operating system has no random numbers to give.
    #[must_use]
    pub fn new(shuffler: &Shuffler) -> Self
    where
        K: Send + Sync + 'static,
    {
        let names = StdRng::try_from_rng(&mut SysRng).expect("the operating system gives random numbers");
        let grants = Arc::new(Grants::new());
        let sweeper = Arc::downgrade(&(grants.clone() as Arc<dyn Sweep>));
        shuffler.core().sweepers.add(sweeper.clone());
        Self { shuffler: shuffler.clone(), grants, sweeper, names: Mutex::new(names) }
    }

    /// The shuffler whose blocks it names.
    #[must_use]
    pub fn shuffler(&self) -> &Shuffler {
        &self.shuffler
    }

    /// Names a block, and returns the block that the key named before. The blocks themselves are not touched, except that one
    /// which the key owned is freed; if the key is given the block that it owns, it goes on owning it.
    pub fn insert(&self, key: K, block: impl Into<RawHandle>, rights: Rights) -> Option<RawHandle> {
        let replaced = self.grants.insert(key, Grant { block: block.into(), rights, owns: false }, Existing::Goes);
        replaced.map(|replaced| self.release(replaced))
    }

    /// As [`insert`](Self::insert), and the block is freed with the key: when the key is revoked or gets another block, and
    /// when the directory is cleared or dropped.
    ///
    /// Of several keys that own one block the first to go frees it. A block that was freed otherwise is none of the key's
    /// business any more.
    pub fn insert_owned(&self, key: K, block: impl Into<RawHandle>, rights: Rights) -> Option<RawHandle> {
        /// Frees the block if the key's `Hash` or `Eq` panics.
        struct Rescue<'a>(&'a Shuffler, Option<RawHandle>);
        impl Drop for Rescue<'_> {
            fn drop(&mut self) {
                let _ = self.1.map(|block| self.0.free(block));
            }
        }
        let block = block.into();
        let mut rescue = Rescue(&self.shuffler, Some(block));
        let replaced = self.grants.insert(key, Grant { block, rights, owns: true }, Existing::Goes);
        rescue.1 = None;
        replaced.map(|replaced| self.release(replaced))
    }
}

/// # Look up
impl<K: Eq + Hash> Directory<K> {
    fn grant_of(&self, key: &K, rights: Rights) -> Result<Grant, AccessError> {
        // What no key names and what may not be done are told alike: nobody learns by asking which keys there are.
        self.grants.get(key).filter(|grant| grant.rights.contains(rights)).ok_or(AccessError::Denied)
    }

    /// Asks for the block that a key names. If the block is gone, that very grant is removed: not one that the key got since.
    fn look_up<T>(
        &self,
        key: &K,
        rights: Rights,
        ask: impl FnOnce(RawHandle) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        let grant = self.grant_of(key, rights)?;
        let answer = ask(grant.block);
        // Its page of the table may have been given back; then the answer is not `Stale` but `Invalid`.
        if answer.is_err() && !self.shuffler.valid_handle(grant.block) {
            // The key that was stored is dropped here, after the map's lock is released.
            drop(self.grants.remove_if(key, |found| found.block == grant.block));
        }
        answer
    }

    /// The handle of the block that a key names.
    ///
    /// # Errors
    ///
    /// `Denied` if the key names nothing or does not allow all of `rights`, `Stale` (or `Invalid`, after its part of the table
    /// was given back) if the block was freed, `TypeMismatch` if it is not a `T`.
    pub fn resolve<T: ?Sized + Stored>(&self, key: &K, rights: Rights) -> Result<Handle<T>, AccessError> {
        self.look_up(key, rights, |block| self.shuffler.typed(block))
    }

    /// As [`resolve`](Self::resolve), for a `Versioned` block. To replace its value is to write.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve).
    pub fn resolve_versioned<T: ?Sized + Stored>(&self, key: &K, rights: Rights) -> Result<Versioned<T>, AccessError> {
        self.look_up(key, rights, |block| self.shuffler.typed_versioned(block))
    }

    /// As [`resolve`](Self::resolve), for a block of any type.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve), without `TypeMismatch`.
    pub fn resolve_raw(&self, key: &K, rights: Rights) -> Result<RawHandle, AccessError> {
        self.look_up(key, rights, |block| {
            if self.shuffler.valid_handle(block) {
                return Ok(block);
            }
            Err(self.shuffler.get_size(block).err().unwrap_or(AccessError::Stale))
        })
    }

    /// Rents the block that a key names, to read it. The rent stays good whatever becomes of the key.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve) with [`Rights::READ`], and for [`Shuffler::rent`].
    pub fn rent<T: ?Sized + Stored + Send + Sync>(&self, key: &K) -> Result<Rent<'_, T>, AccessError> {
        self.look_up(key, Rights::READ, |block| self.shuffler.rent(self.shuffler.typed(block)?))
    }

    /// Rents the block that a key names, to write it. The rent stays good whatever becomes of the key.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve) with [`Rights::WRITE`], and for [`Shuffler::rent_mut`].
    pub fn rent_mut<T: ?Sized + Stored + Send>(&self, key: &K) -> Result<RentMut<'_, T>, AccessError> {
        self.look_up(key, Rights::WRITE, |block| self.shuffler.rent_mut(self.shuffler.typed(block)?))
    }

    /// Reads the `Versioned` block that a key names, under a reader of the same shuffler.
    ///
    /// # Errors
    ///
    /// As for [`resolve_versioned`](Self::resolve_versioned) with [`Rights::READ`]; `Invalid` for another shuffler's reader.
    pub fn get<'r, T>(&self, reader: &'r Reader<'_>, key: &K) -> Result<&'r T, AccessError>
    where
        T: ?Sized + Stored + Frozen + Send + Sync,
    {
        self.look_up(key, Rights::READ, |block| reader.get(self.shuffler.typed_versioned(block)?))
    }

    /// Whether a key names a live block. By the time that the caller looks it may have been freed, or the key revoked.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.grants.get(key).is_some_and(|grant| self.shuffler.valid_handle(grant.block))
    }

    /// Shows every key, its block and its rights, for an administrator.
    ///
    /// No lock is held while `show` runs, so it may use this directory. It sees copies, made of one shard of the map after the
    /// other: each key that stays is shown once, and some that were revoked meanwhile, or whose blocks are gone, may be shown.
    pub fn for_each(&self, mut show: impl FnMut(&K, RawHandle, Rights))
    where
        K: Clone,
    {
        self.grants.for_each(|key, grant| show(key, grant.block, grant.rights));
    }

    /// How many keys there are; those of blocks that were freed by handle count until they are forgotten.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// # Remove
impl<K: Eq + Hash> Directory<K> {
    /// Drops what left the map: frees the block if the key owned it. No lock is held.
    fn release(&self, (_key, grant): (K, Grant)) -> RawHandle {
        if grant.owns {
            // Freed by its handle already: then the key owned nothing any more.
            let _ = self.shuffler.free(grant.block);
        }
        grant.block
    }

    /// As [`release`](Self::release), for many: a panic of a destructor keeps none of the others from being run.
    fn release_all(&self, release_each: impl FnOnce(&mut dyn FnMut(K, Grant))) {
        let mut first_panic = None;
        release_each(&mut |key, grant| {
            let released = catch_unwind(AssertUnwindSafe(|| self.release((key, grant))));
            keep_first(&mut first_panic, released.map(|_| ()));
        });
        if let Some(panic) = first_panic
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }

    /// Removes a key. The block stays, unless the key owned it; rents of it stay good. `false`: it named nothing.
    pub fn revoke(&self, key: &K) -> bool {
        self.grants.remove_if(key, |_| true).map(|removed| self.release(removed)).is_some()
    }

    /// Removes every key of a block, and tells how many there were. Looks at all keys.
    ///
    /// All that were there when it was called are gone when it returns; one that is inserted meanwhile may be left.
    pub fn revoke_all(&self, block: impl Into<RawHandle>) -> usize {
        let removed = self.grants.remove_all(block.into());
        let count = removed.len();
        self.release_all(|release| removed.into_iter().for_each(|(key, grant)| release(key, grant)));
        count
    }

    /// Frees the block that a key names, and removes the key. Other keys of the block are refused from here on.
    ///
    /// # Errors
    ///
    /// `Denied` if the key names nothing or does not allow [`Rights::FREE`]; else as for [`Shuffler::free`].
    pub fn free(&self, key: &K) -> Result<Freed, AccessError> {
        loop {
            let grant = self.grant_of(key, Rights::FREE)?;
            // First, so that the key is gone even if the block's destructor panics. If it got another grant, that one counts.
            if let Some((_stored, _)) = self.grants.remove_if(key, |found| found == grant) {
                return self.shuffler.free(grant.block);
            }
        }
    }

    /// Moves the value out of the block that a key names, ends the block, and removes the key.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve) with [`Rights::READ`] and [`Rights::FREE`], and for [`Shuffler::take`]: then the key
    /// stays, unless the block is gone.
    pub fn take<T: Stored + Send>(&self, key: &K) -> Result<T, AccessError> {
        self.look_up(key, Rights::READ | Rights::FREE, |block| {
            let value = self.shuffler.take(self.shuffler.typed(block)?)?;
            // The block is gone, so only its own grant is removed, whatever the key was given since.
            drop(self.grants.remove_if(key, |found| found.block == block));
            Ok(value)
        })
    }

    /// Removes every key. Blocks that keys owned are freed.
    pub fn clear(&self) {
        self.release_all(|release| self.grants.take_all(release));
    }
}

/// # Unguessable names
impl Directory<OpaqueHandle> {
    /// Makes a new name for a block. A block may have several, each with its own rights.
    pub fn grant(&self, block: impl Into<RawHandle>, rights: Rights) -> OpaqueHandle {
        self.name(Grant { block: block.into(), rights, owns: false })
    }

    /// As [`grant`](Self::grant), and the block is freed with the name: see [`insert_owned`](Self::insert_owned).
    pub fn grant_owned(&self, block: impl Into<RawHandle>, rights: Rights) -> OpaqueHandle {
        self.name(Grant { block: block.into(), rights, owns: true })
    }

    fn name(&self, grant: Grant) -> OpaqueHandle {
        loop {
            let name = OpaqueHandle::from_bits(self.names.lock().unwrap_or_else(PoisonError::into_inner).random());
            if self.grants.insert(name, grant, Existing::Stays).is_none() {
                return name;
            }
        }
    }
}

impl<K: Eq + Hash> Drop for Directory<K> {
    /// Frees the blocks that keys own.
    fn drop(&mut self) {
        self.shuffler.core().sweepers.remove(&self.sweeper);
        self.clear();
    }
}

impl<K: Eq + Hash> fmt::Debug for Directory<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("len", &self.len()).finish_non_exhaustive()
    }
}
