//! The map: shards of keys and grants, each shard behind a lock of its own, and the pass that forgets what is dead.
//!
//! Under a shard's lock a key's `Hash`, `Eq` and `Clone` run, and nothing else of the program: whatever leaves the map is
//! handed out and dropped when the lock is released.
//!
//! A *pass* looks at every grant once, some buckets of one shard at a time, and removes those whose blocks are gone. It never
//! waits for a lock. Where a bucket is does not change, except when its shard is rehashed: a pass that was inside the shard
//! then may have missed some, and so it is *torn*, as is one that found a shard locked. Another follows a torn one.

use super::rights::Rights;
use crate::compact::sweep::{News, Sweep, Swept};
use crate::handle::RawHandle;
use crate::primitive::sync::atomic::{AtomicU32, Ordering};
use dashmap::{DashMap, SharedValue};
use std::hash::Hash;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, TryLockError};

/// Buckets that a pass looks at under one hold of a lock.
const CHUNK: usize = 256;
/// A shard of so few buckets is not made smaller.
const FEW_BUCKETS: usize = 64;
/// Below so many grants a pass costs nothing to speak of. Otherwise a quarter of them must have had the time to die.
const FEW_GRANTS: usize = 4096;

/// What a key stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    pub(super) block: RawHandle,
    pub(super) rights: Rights,
    /// Whether the block ends with the key.
    pub(super) owns: bool,
}

const _: () = assert!(size_of::<Grant>() == 16);

pub(super) struct Grants<K> {
    map: DashMap<K, Grant>,
    /// How often each shard was rehashed, or may have been. Written under its lock.
    rehashes: Box<[AtomicU32]>,
    pass: Mutex<Pass>,
}

/// The pass that is under way, and what the last one left.
#[derive(Debug, Default)]
struct Pass {
    /// The news when it began.
    news: News,
    /// Grants that the last one left.
    kept: usize,
    /// The last one may have missed some.
    torn: bool,
    cursor: Option<Cursor>,
}

/// How far a pass is.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    shard: usize,
    bucket: usize,
    /// The shard's count when the pass came to it.
    rehashes: u32,
    kept: usize,
    torn: bool,
}

impl Pass {
    /// Whether there is reason for another pass.
    fn is_due(&self, news: News) -> bool {
        let freed = news.freed.wrapping_sub(self.news.freed);
        let patience = if self.kept < FEW_GRANTS { 1 } else { self.kept as u64 / 4 };
        self.torn || (freed > 0 && (freed >= patience || news.asked != self.news.asked))
    }
}

impl<K: Eq + Hash> Grants<K> {
    pub(super) fn new() -> Self {
        let map = DashMap::new();
        let rehashes = map.shards().iter().map(|_| AtomicU32::new(0)).collect();
        Self { map, rehashes, pass: Mutex::default() }
    }

    /// The hash of a key, and its shard.
    fn place(&self, key: &K) -> (u64, usize) {
        let hash = self.map.hash_usize(key);
        (hash as u64, self.map.determine_shard(hash))
    }

    /// To be called under the shard's lock, before its buckets change their places.
    fn note_rehash(&self, shard: usize) {
        // Relaxed: the shard's lock orders it.
        self.rehashes[shard].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, key: &K) -> Option<Grant> {
        self.map.get(key).map(|grant| *grant)
    }

    /// Puts a grant in the place of the one that the key had, and hands that one out; or, if an existing one is to stay, hands
    /// out the key and the grant that it has. A key that gets its own block again goes on owning it.
    pub(super) fn insert(&self, key: K, grant: Grant, existing: Existing) -> Option<(K, Grant)> {
        let (hash, shard) = self.place(&key);
        let mut table = self.map.shards()[shard].write();
        if let Some((stored, found)) = table.get_mut(hash, |(stored, _)| *stored == key) {
            let found = found.get_mut();
            if existing == Existing::Stays {
                return Some((key, *found));
            }
            let same = found.block == grant.block;
            let new = Grant { owns: grant.owns || (same && found.owns), ..grant };
            let old = mem::replace(found, new);
            return Some((mem::replace(stored, key), Grant { owns: old.owns && !same, ..old }));
        }
        if table.len() == table.capacity() {
            self.note_rehash(shard);
        }
        // First, so that a hash that panics leaves the key to this call.
        table.reserve(1, |(stored, _)| self.place(stored).0);
        table.insert_entry(hash, (key, SharedValue::new(grant)), |(stored, _)| self.place(stored).0);
        None
    }

    /// Removes a key if its grant is such. (Dead blocks and their grants are told apart by version: none is taken for a newer one.)
    pub(super) fn remove_if(&self, key: &K, condition: impl Fn(Grant) -> bool) -> Option<(K, Grant)> {
        let (hash, shard) = self.place(key);
        let (removed, is_sparse) = {
            let mut table = self.map.shards()[shard].write();
            let removed = table.remove_entry(hash, |(stored, grant)| stored == key && condition(*grant.get()));
            (removed, is_sparse(table.len(), table.buckets()))
        };
        if is_sparse {
            self.shrink(shard);
        }
        removed.map(|(key, grant)| (key, grant.into_inner()))
    }

    /// Gives room back that a shard has had no use for since most of its keys went. Whoever is at the shard just now does it
    /// in passing, or the next removal does.
    fn shrink(&self, shard: usize) {
        let Some(mut table) = self.map.shards()[shard].try_write() else { return };
        if is_sparse(table.len(), table.buckets()) {
            self.note_rehash(shard);
            let room = table.len() * 2;
            table.shrink_to(room, |(stored, _)| self.place(stored).0);
        }
    }

    /// Hands out everything, shard by shard. `each` must not panic: the rest would be lost.
    pub(super) fn take_all(&self, mut each: impl FnMut(K, Grant)) {
        for (index, shard) in self.map.shards().iter().enumerate() {
            let table = {
                let mut table = shard.write();
                self.note_rehash(index);
                mem::take(&mut *table)
            };
            table.into_iter().for_each(|(key, grant)| each(key, grant.into_inner()));
        }
    }

    /// Removes every grant to a block, and hands them out.
    pub(super) fn remove_all(&self, block: RawHandle) -> Vec<(K, Grant)> {
        let mut removed = Vec::new();
        for shard in 0..self.rehashes.len() {
            let before = removed.len();
            // All of a shard under one hold of its lock, so that no rehash hides any.
            self.extract(shard, Wait::Yes, 0, usize::MAX, |grant| grant.block == block, &mut removed);
            if removed.len() > before {
                self.shrink(shard);
            }
        }
        removed
    }

    /// Copies one shard after the other and shows the copies. Each key that is there all the time is shown once.
    pub(super) fn for_each(&self, mut each: impl FnMut(&K, Grant))
    where
        K: Clone,
    {
        for shard in 0..self.rehashes.len() {
            let mut copies = Vec::new();
            self.look(shard, Wait::Yes, 0, usize::MAX, |key, grant| copies.push((key.clone(), grant)));
            copies.iter().for_each(|(key, grant)| each(key, *grant));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Shows at most so many buckets of a shard, from one on, and tells how many it has. `None`: it is locked.
    fn look(
        &self,
        shard: usize,
        wait: Wait,
        from: usize,
        most: usize,
        mut each: impl FnMut(&K, Grant),
    ) -> Option<usize> {
        let shard = &self.map.shards()[shard];
        let table = if wait == Wait::Yes { shard.read() } else { shard.try_read()? };
        for index in from..table.buckets().min(from.saturating_add(most)) {
            // SAFETY: the index is below the number of buckets; a table of no keys has one bucket, never full.
            if unsafe { table.is_bucket_full(index) } {
                // SAFETY: the bucket is full, and nobody writes while the lock is held.
                let (key, grant) = unsafe { table.bucket(index).as_ref() };
                each(key, *grant.get());
            }
        }
        Some(table.buckets())
    }

    /// Moves grants out of at most so many buckets of a shard, from one on. `None`: it is locked.
    fn extract(
        &self,
        shard: usize,
        wait: Wait,
        from: usize,
        most: usize,
        unwanted: impl Fn(&Grant) -> bool,
        removed: &mut Vec<(K, Grant)>,
    ) -> Option<()> {
        let shard = &self.map.shards()[shard];
        let mut table = if wait == Wait::Yes { shard.write() } else { shard.try_write()? };
        for index in from..table.buckets().min(from.saturating_add(most)) {
            // SAFETY: as in `look`.
            if unsafe { table.is_bucket_full(index) } {
                // SAFETY: the bucket is full, and the lock is held to write.
                let bucket = unsafe { table.bucket(index) };
                // SAFETY: as above.
                if unwanted(unsafe { bucket.as_ref() }.1.get()) {
                    // SAFETY: as above; removing moves nothing else.
                    let ((key, grant), _) = unsafe { table.remove(bucket) };
                    removed.push((key, grant.into_inner()));
                }
            }
        }
        Some(())
    }

    /// Goes on with a pass, or begins one, in one shard.
    fn go_on(
        &self,
        pass: &mut Pass,
        news: News,
        is_live: &dyn Fn(RawHandle) -> bool,
        removed: &mut Vec<(K, Grant)>,
    ) -> bool {
        let mut cursor = match pass.cursor {
            Some(cursor) => cursor,
            None if pass.is_due(news) => {
                pass.news = news;
                Cursor::default()
            }
            None => return false,
        };
        // Relaxed, here and below: the shard's lock orders it. Read before the first look and after each, it shows every rehash
        // in between.
        let count = &self.rehashes[cursor.shard];
        if cursor.bucket == 0 {
            cursor.rehashes = count.load(Ordering::Relaxed);
        }
        let (mut live, mut dead) = (0, 0);
        let buckets = self.look(cursor.shard, Wait::No, cursor.bucket, CHUNK, |_, grant| {
            *if is_live(grant.block) { &mut live } else { &mut dead } += 1;
        });
        // A block that is dead stays dead, so what is found dead may be removed in a second look.
        let is_dead = |grant: &Grant| !is_live(grant.block);
        let reached = match dead {
            0 => buckets,
            _ => self.extract(cursor.shard, Wait::No, cursor.bucket, CHUNK, is_dead, removed).and(buckets),
        };
        cursor.torn |= reached.is_none() || cursor.rehashes != count.load(Ordering::Relaxed);
        cursor.kept += live;
        cursor.bucket += CHUNK;
        if reached.is_none_or(|buckets| cursor.bucket >= buckets) {
            self.shrink(cursor.shard);
            cursor = Cursor { shard: cursor.shard + 1, bucket: 0, ..cursor };
        }
        let more = cursor.shard < self.rehashes.len();
        if more {
            pass.cursor = Some(cursor);
        } else {
            *pass = Pass { kept: cursor.kept, torn: cursor.torn, cursor: None, ..*pass };
        }
        more
    }
}

/// Whether a shard has far more room than its keys need.
fn is_sparse(keys: usize, buckets: usize) -> bool {
    buckets > FEW_BUCKETS && keys < buckets / 8
}

/// What becomes of the grant that a key has when another is inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Goes,
    Stays,
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

impl<K: Eq + Hash + Send + Sync> Sweep for Grants<K> {
    fn sweep(&self, news: News, is_live: &dyn Fn(RawHandle) -> bool) -> Swept {
        let mut removed = Vec::new();
        let more = {
            let mut pass = match self.pass.try_lock() {
                Ok(pass) => pass,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // Another step is at it.
                Err(TryLockError::WouldBlock) => return Swept::default(),
            };
            self.go_on(&mut pass, news, is_live, &mut removed)
        };
        let mut swept = Swept { removed: removed.len(), more, panics: 0 };
        for (key, _) in removed {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(key))) {
                // Nobody can be told; and to drop what it carries could panic again.
                mem::forget(panic);
                swept.panics += 1;
            }
        }
        swept
    }

    fn is_behind(&self, freed: u64) -> bool {
        let pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        pass.torn || pass.cursor.is_some() || (freed.wrapping_sub(pass.news.freed) as i64) > 0
    }
}
