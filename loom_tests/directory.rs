//! Models of a directory: one key of a map, over the real entry.
//!
//! `DashMap`'s locks are not loom's, so a mutex stands in for the shard that the key is in. The few lines around it are those
//! of `src/directory/mod.rs`: what is done under the lock, and what only after it. Which block a grant means, who may free it
//! and which grant a look-up may remove is what can go wrong between a lock and an entry; that is modelled.

#[path = "support/model.rs"]
mod model;
#[path = "support/primitive.rs"]
mod primitive;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "the models of a directory need a part of it")]
mod world;

use loom::sync::Mutex;
use model::{Paths, check};
use std::sync::Arc;
use world::entry::Refused;
use world::{Freed, HOME, Mine, World};

/// From here on a version is that of a block of another slot, of which nothing is known but whether it was freed.
const STRANGER: u32 = 101;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Grant {
    version: u32,
    owns: bool,
}

/// One key of a directory.
struct Names {
    world: Arc<World>,
    key: Mutex<Option<Grant>>,
    /// Blocks of other slots that were freed. Outside loom's sight.
    freed: std::sync::Mutex<Vec<u32>>,
}

impl Names {
    /// The key names the block in its first life.
    fn new(world: &Arc<World>, owns: bool) -> Arc<Self> {
        let key = Mutex::new(Some(Grant { version: 1, owns }));
        Arc::new(Self { world: world.clone(), key, freed: std::sync::Mutex::default() })
    }

    fn is_live(&self, version: u32) -> bool {
        version >= STRANGER || self.world.entry.version() == version
    }

    fn remove_if(&self, condition: impl Fn(Grant) -> bool) -> Option<Grant> {
        self.key.lock().unwrap().take_if(|grant| condition(*grant))
    }

    /// What left the map: its block is freed if the key owned it.
    fn release(&self, grant: Grant) {
        match grant {
            Grant { owns: true, version: STRANGER.. } => self.freed.lock().unwrap().push(grant.version),
            Grant { owns: true, version } => drop(self.world.free(version)),
            Grant { owns: false, .. } => {}
        }
    }

    fn insert(&self, grant: Grant) {
        let replaced = {
            let mut key = self.key.lock().unwrap();
            let old = *key;
            let same = old.is_some_and(|old| old.version == grant.version);
            *key = Some(Grant { owns: grant.owns || (same && old.is_some_and(|old| old.owns)), ..grant });
            old.filter(|_| !same)
        };
        replaced.into_iter().for_each(|grant| self.release(grant));
    }

    fn revoke(&self) {
        self.remove_if(|_| true).into_iter().for_each(|grant| self.release(grant));
    }

    /// Frees by key.
    fn free(&self) {
        loop {
            let Some(grant) = *self.key.lock().unwrap() else { return };
            if self.remove_if(|found| found == grant).is_some() {
                self.world.paths.reached("freed by key");
                self.release(Grant { owns: true, ..grant });
                return;
            }
        }
    }

    /// Rents by key, reads and returns.
    fn rent(&self, mine: &Mine) -> Result<(), Option<Refused>> {
        let Some(grant) = *self.key.lock().unwrap() else {
            mine.reached("denied");
            return Err(None);
        };
        if grant.version >= STRANGER {
            return Ok(());
        }
        let answer = mine.read(grant.version);
        // The payload tells the life, whatever version was asked for.
        let payload = if grant.version == 1 { 1 } else { 30 };
        assert!(answer.is_err() || answer == Ok(payload), "rented another life than the one that was granted");
        if answer.is_err() && !self.is_live(grant.version) {
            mine.reached("was stale");
            self.remove_if(|found| found.version == grant.version);
        }
        answer.map(drop).map_err(Some)
    }

    /// A pass of a sweep: two looks, since the first one does not keep readers out.
    fn sweep(&self) {
        let seen = *self.key.lock().unwrap();
        if seen.is_some_and(|grant| !self.is_live(grant.version)) {
            let removed = self.remove_if(|grant| !self.is_live(grant.version));
            self.world.paths.reached(if removed.is_some() { "swept" } else { "was gone before it was swept" });
        }
    }
}

/// Runs one thread for each body, and joins.
fn race<const N: usize>(names: &Arc<Names>, bodies: [fn(&Names, &Mine); N]) {
    model::race(bodies.into_iter().enumerate().map(|(i, body)| {
        let names = names.clone();
        move || body(&names, &Mine::new(&names.world, i + 1))
    }));
}

fn renter(names: &Names, mine: &Mine) {
    if let Err(Some(refused)) = names.rent(mine) {
        assert_eq!(refused, Refused::Stale);
    }
}

fn revoker(names: &Names, mine: &Mine) {
    names.revoke();
    assert_eq!(names.rent(mine), Err(None), "a rent that began after the key was revoked");
}

fn alive(paths: &Paths, owns: bool, threads: usize) -> (Arc<World>, Arc<Names>) {
    let (world, _) = World::alive(paths, threads);
    let names = Names::new(&world, owns);
    (world, names)
}

#[test]
fn a_rent_and_a_revoke() {
    let paths = ["read", "denied", "was stale", "freed while held", "settled by the last return", "emptied"];
    check("a rent and a revoke of an owned block", 2, &paths, |paths| {
        let (world, names) = alive(paths, true, 3);
        race(&names, [renter, revoker, renter]);
        world.finish();
        world.assert_ended(1);
        assert_eq!(*names.key.lock().unwrap(), None);
    });
}

#[test]
fn a_rent_a_revoke_and_a_move() {
    let paths = ["read", "denied", "freed while held", "freed while not held", "emptied"];
    check("a rent, a revoke and a move", 2, &paths, |paths| {
        let (world, names) = alive(paths, true, 3);
        race(&names, [renter, |names, _| names.revoke(), |_, mine| mine.shuffle(HOME)]);
        world.finish();
        world.assert_ended(1);
    });
}

#[test]
fn a_key_that_is_no_owner_frees_nothing() {
    check("a rent and a revoke of a plain key", 3, &["read", "denied"], |paths| {
        let (world, names) = alive(paths, false, 2);
        race(&names, [renter, revoker]);
        world.finish();
        world.assert_alive(1);
    });
}

/// By key, with the key, and by handle: once.
#[test]
fn three_ways_to_free() {
    let paths = ["freed by key", "a free was refused", "freed while not held"];
    check("three ways to free", 3, &paths, |paths| {
        let (world, names) = alive(paths, true, 3);
        let by_handle: fn(&Names, &Mine) = |names, _| _ = names.world.free(1);
        race(&names, [|names, _| names.free(), |names, _| names.revoke(), by_handle]);
        world.finish();
        world.assert_ended(1);
        assert_eq!(*names.key.lock().unwrap(), None);
    });
}

#[test]
fn two_insertions_under_one_key() {
    let paths = ["read", "was stale", "freed while held", "freed while not held"];
    check("two insertions under one key", 3, &paths, |paths| {
        let (world, names) = alive(paths, true, 3);
        let first: fn(&Names, &Mine) = |names, _| names.insert(Grant { version: STRANGER, owns: true });
        let second: fn(&Names, &Mine) = |names, _| names.insert(Grant { version: STRANGER + 2, owns: true });
        race(&names, [first, second, renter]);
        world.finish();
        world.assert_ended(1);
        // One of the two is there still, and the other was freed for it, once.
        let left = names.key.lock().unwrap().expect("no look-up removes a block that it did not see");
        let freed = names.freed.lock().unwrap();
        assert_eq!((freed.len(), freed[0] + left.version), (1, 2 * STRANGER + 2));
    });
}

/// The slot is in another life, which the same key names: neither a look-up nor a sweep takes the new grant for the old.
#[test]
fn reuse_under_one_key() {
    let paths = ["used again", "was stale", "swept", "was gone before it was swept", "read"];
    check("reuse under one key", 3, &paths, |paths| {
        let (world, names) = alive(paths, true, 3);
        let owner: fn(&Names, &Mine) = |names, mine| {
            // Acquired by the thread that has the slot, as from the list of recycled arenas.
            if names.world.free(1) == Freed::Now && names.world.is_idle() {
                let version = names.world.start(3, 30);
                names.insert(Grant { version, owns: true });
                mine.reached("used again");
            }
        };
        race(&names, [renter, owner, |names, _| names.sweep()]);
        world.finish();
        if world.entry.version() == 3 {
            world.assert_alive(3);
            assert_eq!(*names.key.lock().unwrap(), Some(Grant { version: 3, owns: true }));
        }
    });
}
