//! Names for blocks: a sharded map from keys to grants.
//!
//! A grant is a slot, a version and rights, 16 bytes that never change: the map maps keys to atomically versioned entries of
//! the handle table. It is asked under one shard's lock, which is over before the entry is; no map lock is held while a rent
//! lasts or while user code runs. Code that has a `Handle` needs no directory.

use crate::error::AccessError;
use crate::handle::{Handle, RawHandle};
use crate::rent::{Rent, RentMut};
use crate::shuffler::Shuffler;
use crate::types::Stored;
use dashmap::DashMap;
use rand::rngs::{StdRng, SysRng};
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::hash::Hash;
use std::ops::BitOr;
use std::sync::{Mutex, PoisonError};

/// What a grant allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// To rent and read.
    pub const READ: Self = Self(1);
    /// To rent and write.
    pub const WRITE: Self = Self(2);
    /// To free.
    pub const FREE: Self = Self(4);
    /// All of them.
    pub const ALL: Self = Self(7);

    /// Whether these include all of `others`.
    #[must_use]
    pub const fn include(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::READ, "read"), (Self::WRITE, "write"), (Self::FREE, "free")];
        f.debug_set().entries(names.iter().filter(|(right, _)| self.include(*right)).map(|(_, name)| name)).finish()
    }
}

/// A random 64-bit name for a block, for those whom the program does not trust: it says nothing about the block, and one
/// guess hits one of N with a probability of N · 2⁻⁶⁴.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[doc(alias = "rng")]
pub struct OpaqueHandle(u64);

impl OpaqueHandle {
    /// The bits, to be sent elsewhere.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// What came from elsewhere; whether it names anything shows when it is used.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Grant {
    block: RawHandle,
    rights: Rights,
}

/// A map from keys to blocks of one shuffler, to be shared between threads.
///
/// The key is an [`OpaqueHandle`], made by [`grant`](Directory::grant), or the program's own. `Hash` and `Eq` of a key run
/// under a lock of the map and must not use the same directory.
#[doc(alias = "handle_to_index")]
pub struct Directory<K: Eq + Hash = OpaqueHandle> {
    shuffler: Shuffler,
    grants: DashMap<K, Grant>,
    /// Seeded by the operating system, so that no name tells anything of the next.
    names: Mutex<StdRng>,
}

impl<K: Eq + Hash> Directory<K> {
    /// An empty directory of a shuffler's blocks. It keeps the shuffler alive.
    ///
    /// # Panics
    ///
    /// If the operating system has no random numbers to give.
    #[must_use]
    pub fn new(shuffler: &Shuffler) -> Self {
        let names = StdRng::try_from_rng(&mut SysRng).expect("the operating system gives random numbers");
        Self { shuffler: shuffler.clone(), grants: DashMap::new(), names: Mutex::new(names) }
    }

    /// Names a block, and returns the block that the key named before. The blocks themselves are not touched.
    pub fn insert(&self, key: K, block: impl Into<RawHandle>, rights: Rights) -> Option<RawHandle> {
        let grant = Grant { block: block.into(), rights };
        let replaced = match self.grants.entry(key) {
            dashmap::Entry::Vacant(vacant) => {
                vacant.insert(grant);
                None
            }
            // The key that was there is dropped with the result, after the map's lock is released.
            dashmap::Entry::Occupied(occupied) => Some(occupied.replace_entry(grant)),
        };
        replaced.map(|(_, grant)| grant.block)
    }

    fn grant_of(&self, key: &K, rights: Rights) -> Result<Grant, AccessError> {
        // What no key names and what may not be done are told alike: nobody learns by asking which keys there are.
        let grant = self.grants.get(key).map(|grant| *grant).ok_or(AccessError::Denied)?;
        if grant.rights.include(rights) { Ok(grant) } else { Err(AccessError::Denied) }
    }

    /// Passes an answer about a grant's block on; if it is stale, that very grant is removed.
    fn checked<T>(&self, key: &K, grant: Grant, answer: Result<T, AccessError>) -> Result<T, AccessError> {
        if matches!(answer, Err(AccessError::Stale)) {
            self.grants.remove_if(key, |_, found| *found == grant);
        }
        answer
    }

    /// The handle of the block that a key names.
    ///
    /// # Errors
    ///
    /// `Denied` if the key names nothing or does not allow all of `rights`, `Stale` if the block was freed, `TypeMismatch` if
    /// it is not a `T`.
    pub fn resolve<T: ?Sized + Stored>(&self, key: &K, rights: Rights) -> Result<Handle<T>, AccessError> {
        let grant = self.grant_of(key, rights)?;
        self.checked(key, grant, self.shuffler.typed(grant.block))
    }

    /// As [`resolve`](Self::resolve), for a block of any type.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve), without `TypeMismatch`.
    pub fn resolve_raw(&self, key: &K, rights: Rights) -> Result<RawHandle, AccessError> {
        let grant = self.grant_of(key, rights)?;
        let live = self.shuffler.valid_handle(grant.block);
        self.checked(key, grant, if live { Ok(grant.block) } else { Err(AccessError::Stale) })
    }

    /// Rents the block that a key names, to read it.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve) and [`Shuffler::rent`].
    pub fn rent<T: ?Sized + Stored + Send + Sync>(&self, key: &K) -> Result<Rent<'_, T>, AccessError> {
        self.resolve(key, Rights::READ).and_then(|handle| self.shuffler.rent(handle))
    }

    /// Rents the block that a key names, to write it.
    ///
    /// # Errors
    ///
    /// As for [`resolve`](Self::resolve) and [`Shuffler::rent_mut`].
    pub fn rent_mut<T: ?Sized + Stored + Send>(&self, key: &K) -> Result<RentMut<'_, T>, AccessError> {
        self.resolve(key, Rights::WRITE).and_then(|handle| self.shuffler.rent_mut(handle))
    }

    /// Removes a key. The block stays. `false`: it named nothing.
    pub fn revoke(&self, key: &K) -> bool {
        // The key that was stored is dropped after the map's lock is released.
        self.grants.remove(key).is_some()
    }

    /// How many keys there are, those of blocks that were freed by handle and not looked up since included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

impl Directory<OpaqueHandle> {
    /// Makes a new name for a block. A block may have several, each with its own rights.
    pub fn grant(&self, block: impl Into<RawHandle>, rights: Rights) -> OpaqueHandle {
        let grant = Grant { block: block.into(), rights };
        loop {
            let name = OpaqueHandle(self.names.lock().unwrap_or_else(PoisonError::into_inner).random());
            if let dashmap::Entry::Vacant(vacant) = self.grants.entry(name) {
                vacant.insert(grant);
                return name;
            }
        }
    }
}

impl<K: Eq + Hash> fmt::Debug for Directory<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("len", &self.len()).finish_non_exhaustive()
    }
}
