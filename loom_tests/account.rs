//! Models of an arena's account: one thread retires the arena, after everybody's last use.

#[path = "../src/arena/account.rs"]
#[allow(dead_code, reason = "the models use the library's file as it is, not all of it")]
mod account;
#[path = "support/model.rs"]
mod model;
#[path = "support/primitive.rs"]
mod primitive;

use account::{Account, Outcome};
use loom::cell::UnsafeCell;
use model::{Paths, check};
use std::iter;
use std::sync::Arc;

/// Bytes that each block counts.
const BLOCK: usize = 24;

/// An arena whose memory is one cell: whoever has a share in it may read, and who empties it writes.
struct Arena {
    account: Account,
    memory: UnsafeCell<u64>,
    emptied: std::sync::Mutex<usize>,
    paths: Paths,
}

// SAFETY: the cell is loom's, which reports any access that the account does not order; the rest is `Sync`.
unsafe impl Sync for Arena {}
// SAFETY: as above.
unsafe impl Send for Arena {}

impl Arena {
    fn new(paths: &Paths) -> Arc<Self> {
        Arc::new(Self {
            account: Account::new(),
            memory: UnsafeCell::new(0),
            emptied: std::sync::Mutex::default(),
            paths: paths.clone(),
        })
    }

    fn read(&self) -> u64 {
        // SAFETY: loom checks that nobody writes meanwhile, and that the last write happened before.
        self.memory.with(|memory| unsafe { *memory })
    }

    fn write(&self, value: u64) {
        // SAFETY: loom checks that nobody else looks meanwhile, and that every earlier use happened before.
        self.memory.with_mut(|memory| unsafe { *memory = value });
    }

    /// Whether the caller has the arena to itself now.
    fn after(&self, outcome: Outcome, path: &'static str) -> bool {
        let emptied = outcome == Outcome::Emptied;
        if emptied {
            self.paths.reached(path);
            *self.emptied.lock().unwrap() += 1;
            self.write(u64::MAX);
        }
        emptied
    }

    fn seal(&self, live: usize) -> bool {
        let (outcome, _) = self.account.seal(live);
        self.after(outcome, "emptied by sealing")
    }

    /// Uses a block, then counts it as dead.
    fn subtract(&self) -> bool {
        assert_ne!(self.read(), u64::MAX, "a live block in an arena that was emptied");
        let (outcome, before) = self.account.subtract(BLOCK);
        assert!(before.sealed || before.claims == 0, "the bias reached the claims: {before:?}");
        self.after(outcome, "emptied by a subtraction")
    }

    fn claim(&self) -> bool {
        if !self.account.claim() {
            self.paths.reached("a claim was refused");
            return false;
        }
        self.paths.reached("claimed");
        assert_ne!(self.read(), u64::MAX, "claimed an arena that was emptied");
        true
    }

    fn unclaim(&self) -> bool {
        assert_ne!(self.read(), u64::MAX, "emptied under a claim");
        let outcome = self.account.unclaim();
        self.after(outcome, "emptied by giving a claim back")
    }

    fn assert_emptied(&self, times: usize) {
        assert_eq!(*self.emptied.lock().unwrap(), times);
        let balance = self.account.balance();
        assert!(balance.sealed && balance.claims == 0 && balance.live == 0, "{balance:?}");
        assert!(!self.account.claim());
    }
}

type Body = Box<dyn FnOnce(&Arena) + Send>;

fn race(arena: &Arc<Arena>, bodies: impl IntoIterator<Item = Body>) {
    model::race(bodies.into_iter().map(|body| {
        let arena = arena.clone();
        move || body(&arena)
    }));
}

fn dead() -> Body {
    Box::new(|arena| {
        arena.subtract();
    })
}

fn owner(live: usize) -> Body {
    Box::new(move |arena| {
        arena.seal(live);
    })
}

fn claimer() -> Body {
    Box::new(|arena| {
        if arena.claim() {
            arena.unclaim();
        }
    })
}

#[test]
fn sealing_against_subtractions() {
    let paths = ["emptied by sealing", "emptied by a subtraction"];
    check("sealing against two subtractions", 4, &paths, |paths| {
        let arena = Arena::new(paths);
        // Three blocks, one of which the owner itself found dead.
        race(&arena, [dead(), dead(), owner(2 * BLOCK)]);
        arena.assert_emptied(1);
    });
}

#[test]
fn sealing_against_a_subtraction_and_a_claim() {
    let paths = [
        "emptied by sealing",
        "emptied by a subtraction",
        "emptied by giving a claim back",
        "claimed",
        "a claim was refused",
    ];
    check("sealing against a subtraction and a claim", 4, &paths, |paths| {
        let arena = Arena::new(paths);
        race(&arena, [owner(BLOCK), dead(), claimer()]);
        arena.assert_emptied(1);
    });
}

/// A walker reads every header of a sealed arena.
#[test]
fn a_claim_sees_what_was_sealed() {
    check("a claim sees what was sealed", 5, &["claimed", "a claim was refused"], |paths| {
        let arena = Arena::new(paths);
        let owner: Body = Box::new(|arena| {
            arena.write(5);
            assert!(!arena.seal(BLOCK));
        });
        let walker: Body = Box::new(|arena| {
            if arena.claim() {
                assert_eq!(arena.read(), 5);
                arena.unclaim();
            }
        });
        race(&arena, [owner, walker]);
        assert!(arena.subtract());
        arena.assert_emptied(1);
    });
}

#[test]
fn two_subtractions_and_a_claim() {
    let paths = ["emptied by a subtraction", "emptied by giving a claim back", "claimed", "a claim was refused"];
    check("two subtractions and a claim", 4, &paths, |paths| {
        let arena = Arena::new(paths);
        arena.account.open_sealed(2 * BLOCK);
        race(&arena, [dead(), dead(), claimer()]);
        arena.assert_emptied(1);
    });
}

#[test]
fn two_claims_and_the_last_subtraction() {
    let paths = ["emptied by a subtraction", "emptied by giving a claim back", "claimed", "a claim was refused"];
    check("two claims and the last subtraction", 4, &paths, |paths| {
        let arena = Arena::new(paths);
        arena.account.open_sealed(BLOCK);
        race(&arena, [claimer(), claimer(), dead()]);
        arena.assert_emptied(1);
    });
}

/// The arena is used again while a claimer of its earlier life is still coming.
#[test]
fn a_late_claim_and_the_next_life() {
    let paths = ["claimed", "a claim was refused", "used again", "claimed the next life"];
    check("a late claim and the next life", 5, &paths, |paths| {
        let arena = Arena::new(paths);
        arena.write(1);
        arena.account.open_sealed(BLOCK);
        let owner: Body = Box::new(|arena| {
            if arena.subtract() {
                arena.paths.reached("used again");
                arena.account.open();
                arena.write(2);
                arena.seal(BLOCK);
                arena.subtract();
            }
        });
        let late: Body = Box::new(|arena| {
            if arena.claim() {
                if arena.read() == 2 {
                    arena.paths.reached("claimed the next life");
                }
                arena.unclaim();
            }
        });
        race(&arena, [owner, late]);
        let emptied = *arena.emptied.lock().unwrap();
        arena.assert_emptied(emptied);
        assert!(emptied == 1 || emptied == 2);
    });
}

/// Who unlinks something, and then finds that it alone has a claim, has it to itself: a later claimer sees it unlinked.
#[test]
fn a_sole_claimer_has_unlinked_memory_to_itself() {
    use primitive::sync::atomic::{AtomicU32, Ordering};
    let paths = ["alone", "in company", "looked", "found it unlinked"];
    check("a sole claimer has unlinked memory to itself", 5, &paths, |paths| {
        let arena = Arena::new(paths);
        arena.account.open_sealed(BLOCK);
        let linked = Arc::new(AtomicU32::new(1));
        let seen = linked.clone();
        let unlinker: Body = Box::new(move |arena| {
            linked.store(0, Ordering::Relaxed);
            assert!(arena.account.claim());
            if arena.account.balance().claims == 1 {
                arena.paths.reached("alone");
                arena.write(3);
            } else {
                arena.paths.reached("in company");
            }
            arena.unclaim();
        });
        let late: Body = Box::new(move |arena| {
            assert!(arena.account.claim());
            if seen.load(Ordering::Relaxed) == 1 {
                arena.paths.reached("looked");
                assert_eq!(arena.read(), 0);
            } else {
                arena.paths.reached("found it unlinked");
            }
            let _ = arena.account.unclaim();
        });
        race(&arena, [unlinker, late]);
        assert!(arena.subtract());
        arena.assert_emptied(1);
    });
}

/// A walker leaves a held block behind and marks the arena as watched; whoever takes bytes off that it had counted tells the
/// compactor, or the walker does.
fn watched_by_a_walk(name: &str, preemptions: usize, deaths: usize) {
    use primitive::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    let paths = ["the death told", "the walker told", "seen by the walk"];
    check(name, preemptions, &paths, move |paths| {
        let arena = Arena::new(paths);
        arena.account.open_sealed((deaths + 1) * BLOCK);
        let (watched, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let walker: Body = {
            let (watched, told) = (watched.clone(), told.clone());
            Box::new(move |arena| {
                assert!(arena.account.claim());
                let left = arena.account.balance().live;
                watched.store(true, Ordering::Relaxed);
                arena.unclaim();
                if arena.account.balance().live != left {
                    arena.paths.reached("the walker told");
                    told.fetch_add(1, Ordering::Relaxed);
                } else if left == BLOCK {
                    arena.paths.reached("seen by the walk");
                    told.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let death = || -> Body {
            let (watched, told) = (watched.clone(), told.clone());
            Box::new(move |arena| {
                arena.subtract();
                if watched.load(Ordering::Relaxed) && watched.swap(false, Ordering::Relaxed) {
                    arena.paths.reached("the death told");
                    told.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        race(&arena, iter::once(walker).chain((0..deaths).map(|_| death())));
        assert!(told.load(Ordering::Relaxed) > 0, "something died after the walk, and nobody told");
        assert!(arena.subtract(), "the held block is the last");
        arena.assert_emptied(1);
    });
}

#[test]
fn a_watched_arena_and_a_death() {
    watched_by_a_walk("a watched arena and a death", 5, 1);
}

#[test]
fn a_watched_arena_and_two_deaths() {
    watched_by_a_walk("a watched arena and two deaths", 3, 2);
}

/// A block without a destructor that was freed while it was being moved is settled at once, without a claim: its header is DEAD
/// before its bytes are taken off. Who then punches must not meet a helper that comes late and still finds the old word.
#[test]
fn a_puncher_a_free_and_a_late_helper() {
    use primitive::sync::atomic::{AtomicU32, Ordering};
    let paths = ["punched", "not dead yet", "in company", "copied", "found it unlinked"];
    check("a puncher, a free and a late helper", 3, &paths, |paths| {
        let arena = Arena::new(paths);
        arena.account.open_sealed(2 * BLOCK);
        let (word, header) = (Arc::new(AtomicU32::new(1)), Arc::new(AtomicU32::new(0)));
        let (free_word, free_header) = (word.clone(), header.clone());
        let free: Body = Box::new(move |arena| {
            // Close the word, then DEAD, then the bytes.
            free_word.store(0, Ordering::Release);
            free_header.store(1, Ordering::Release);
            let _ = arena.account.subtract(BLOCK);
        });
        let puncher: Body = Box::new(move |arena| {
            assert!(arena.account.claim());
            if header.load(Ordering::Acquire) == 0 {
                arena.paths.reached("not dead yet");
            } else if !arena.account.is_sole_claim() {
                arena.paths.reached("in company");
            } else {
                arena.paths.reached("punched");
                arena.write(3);
            }
            let _ = arena.account.unclaim();
        });
        let helper: Body = Box::new(move |arena| {
            assert!(arena.account.claim());
            if word.load(Ordering::Acquire) == 1 {
                arena.paths.reached("copied");
                assert_eq!(arena.read(), 0, "copied what was punched");
            } else {
                arena.paths.reached("found it unlinked");
            }
            let _ = arena.account.unclaim();
        });
        race(&arena, [free, puncher, helper]);
    });
}
