//! Models of the entry: every transition of `src/table/entry.rs`, against every other that it can meet.
//!
//! What each model would miss, and which fault makes it fail, stands in the README beside this file.

#[path = "support/model.rs"]
mod model;
#[path = "support/primitive.rs"]
mod primitive;
#[path = "support/world.rs"]
mod world;

use loom::sync::atomic::{AtomicU32, Ordering};
use model::check;
use std::sync::Arc;
use world::entry::{Hold, LARGE_EXTENT, Refused, Waiting};
use world::word::Location;
use world::{Freed, HOME, Mine, World, extent_of};

type Body = Box<dyn FnOnce(&Mine) + Send>;

fn thread(body: impl FnOnce(&Mine) + Send + 'static) -> Body {
    Box::new(body)
}

/// Runs the bodies as one thread each, and joins.
fn race<const N: usize>(world: &Arc<World>, bodies: [Body; N]) {
    model::race(bodies.into_iter().enumerate().map(|(i, body)| {
        let world = world.clone();
        move || body(&Mine::new(&world, i + 1))
    }));
}

fn reader(version: u32) -> Body {
    thread(move |mine| {
        if let Err(refused) = mine.read(version) {
            assert!(matches!(refused, Refused::Stale | Refused::Busy), "{refused:?}");
        }
    })
}

fn writer(version: u32) -> Body {
    thread(move |mine| {
        if let Err(refused) = mine.add(version, 1) {
            assert!(matches!(refused, Refused::Stale | Refused::Busy), "{refused:?}");
        }
    })
}

fn taker(version: u32) -> Body {
    thread(move |mine| {
        if let Err(refused) = mine.take(version) {
            assert!(matches!(refused, Refused::Stale | Refused::Busy), "{refused:?}");
        }
    })
}

fn freer(world: &Arc<World>, version: u32) -> Body {
    let world = world.clone();
    thread(move |_| {
        world.free(version);
    })
}

fn mover() -> Body {
    thread(|mine| mine.shuffle(HOME))
}

#[test]
fn two_rents_and_a_free() {
    let paths = ["read", "freed while held", "freed while not held", "settled by the last return", "emptied"];
    check("two rents and a free", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [reader(version), reader(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_rent_and_two_frees() {
    let paths =
        ["read", "freed while held", "freed while not held", "a free was refused", "settled by the last return"];
    check("a rent and two frees", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [reader(version), freer(&world, version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn two_writes_and_a_rent() {
    check("two writes and a rent", 2, &["read", "wrote", "refused"], |paths| {
        let (world, version) = World::alive(paths, 3);
        let seen = paths.clone();
        let busy = thread(move |mine| match mine.add(version, 4) {
            Ok(()) => {}
            Err(refused) => {
                assert_eq!(refused, Refused::Busy);
                seen.reached("refused");
            }
        });
        race(&world, [reader(version), writer(version), busy]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_write_a_rent_and_a_free() {
    let paths = ["read", "wrote", "freed while held", "freed while not held", "settled by the last return"];
    check("a write, a rent and a free", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [writer(version), reader(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_take_a_rent_and_a_free() {
    let paths = ["read", "took", "a take lost", "a free was refused", "freed while held", "freed while not held"];
    check("a take, a rent and a free", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [taker(version), reader(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_take_and_a_move() {
    let paths = ["took", "moved by a helper", "moved by a mover", "a mover lost", "skipped as held", "gone"];
    check("a take and a move", 5, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        race(&world, [taker(version), mover()]);
        world.finish();
    });
}

#[test]
fn the_last_return_may_use_the_slot_again() {
    let paths = ["settled by the last return", "freed while not held", "began the next life"];
    check("the last return uses the slot again", 3, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        let next = move |world: &World, mine: &Mine| {
            world.start_at(mine.place(), version + 2, 3);
            world.paths.reached("began the next life");
        };
        let (holder, freer) = (world.clone(), world.clone());
        let rent = thread(move |mine| {
            if mine.hold(version, Hold::Shared).is_ok() && holder.leave(Hold::Shared) {
                next(&holder, mine);
            }
        });
        let free = thread(move |mine| {
            if freer.free(version) == Freed::Now {
                next(&freer, mine);
            }
        });
        race(&world, [rent, free]);
        world.finish();
        if world.entry.version() == version + 2 {
            world.assert_alive(version + 2);
        }
    });
}

#[test]
fn a_rent_and_a_move() {
    let paths = [
        "read",
        "moved by a helper",
        "moved by a mover",
        "a mover lost",
        "a helper lost",
        "skipped as held",
        "wiped the source",
        "emptied",
    ];
    check("a rent and a move", 5, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        race(&world, [reader(version), mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn two_rents_and_a_move() {
    let paths = ["read", "moved by a helper", "moved by a mover", "a mover lost", "a helper lost"];
    check("two rents and a move", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [reader(version), reader(version), mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_write_a_rent_and_a_move() {
    let paths = ["read", "wrote", "moved by a helper", "moved by a mover", "a mover lost", "skipped as held"];
    check("a write, a rent and a move", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [writer(version), reader(version), mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_free_a_rent_and_a_move() {
    let paths = [
        "read",
        "moved by a helper",
        "moved by a mover",
        "a mover lost",
        "a helper lost",
        "freed while moving, settled",
        "freed while moving, put off",
        "emptied",
    ];
    check("a free, a rent and a move", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [freer(&world, version), reader(version), mover()]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn two_movers_and_a_rent() {
    let paths = ["read", "moved by a mover", "a mover lost", "moved by a helper", "skipped as held", "gone"];
    check("two movers and a rent", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        race(&world, [reader(version), mover(), mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn two_late_helpers() {
    let paths = [
        "read",
        "wrote",
        "moved by a helper",
        "a helper lost",
        "wiped the source",
        "left the source",
        "a claim was refused",
    ];
    check("two late helpers", 3, &paths, |paths| {
        let (world, version) = World::moving(paths, 2);
        race(&world, [reader(version), writer(version)]);
        world.finish();
        world.assert_alive(version);
    });
}

/// A step wipes the source that was left while another helper may be copying it.
#[test]
fn two_late_helpers_and_a_step() {
    let paths = ["moved by a helper", "left the source", "left the source again", "wiped what was left", "emptied"];
    check("two late helpers and a step", 2, &paths, |paths| {
        let (world, version) = World::moving(paths, 3);
        race(&world, [reader(version), reader(version), thread(Mine::wipe_left)]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_late_helper_a_write_and_a_free() {
    let paths =
        ["read", "wrote", "moved by a helper", "a helper lost", "freed while moving, settled", "freed while held"];
    check("a late helper, a write and a free", 2, &paths, |paths| {
        let (world, version) = World::moving(paths, 3);
        race(&world, [reader(version), writer(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_late_helper_and_two_frees() {
    let paths = ["read", "a free was refused", "freed while moving, settled", "freed while moving, put off"];
    check("a late helper and two frees", 3, &paths, |paths| {
        let (world, version) = World::moving(paths, 3);
        race(&world, [reader(version), freer(&world, version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

/// A walker punches what is dead; a helper that came late to the same bytes must have been seen.
#[test]
fn a_walker_a_rent_and_a_move() {
    let paths = ["read", "punched", "moved by a mover", "moved by a helper", "a helper lost"];
    check("a walker, a rent and a move", 2, &paths, |paths| {
        let (world, version) = World::crowded(paths, 3);
        race(&world, [reader(version), mover(), thread(Mine::punch)]);
        world.finish();
        world.assert_alive(version);
    });
}

/// As above with the least that it takes, so that three preemptions are cheap: the second look is at a block that is
/// unlinked while the walker asks whether it is alone.
#[test]
fn a_walker_a_mover_and_a_helper_without_memory() {
    let paths = ["punched", "moved by a mover", "looked and gave up"];
    check("a walker, a mover and a helper without memory", 3, &paths, |paths| {
        let (world, version) = World::crowded(paths, 3);
        Mine::new(&world, 1).begin_and_stop(HOME);
        race(&world, [thread(Mine::look_and_give_up), mover(), thread(Mine::punch)]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_walker_a_late_helper_and_a_free() {
    let paths = ["read", "punched", "moved by a helper", "a helper lost", "freed while moving, settled"];
    check("a walker, a late helper and a free", 2, &paths, |paths| {
        let (world, version) = World::crowded(paths, 3);
        Mine::new(&world, 1).begin_and_stop(HOME);
        race(&world, [reader(version), freer(&world, version), thread(Mine::punch)]);
        world.finish();
        world.assert_ended(version);
    });
}

/// A mover stops, the block is written, and another mover comes: the first one's helper must not commit what it copied.
#[test]
fn a_stopped_mover_and_a_late_helper() {
    let paths = ["read", "wrote", "stopped in the middle of a move", "moved by a helper", "a helper lost"];
    check("a stopped mover and a late helper", 3, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        let other = thread(move |mine| {
            mine.begin_and_stop(HOME);
            let _ = mine.add(version, 1);
            mine.begin_and_stop(HOME);
        });
        race(&world, [reader(version), other]);
        world.finish();
        world.assert_alive(version);
    });
}

/// Frees life 1, and begins life 3 at the same address if that settled it and the arena was recycled.
fn reuse(world: &World) -> bool {
    // Acquired by the thread that has the slot, as from the list of recycled arenas.
    let recycled = world.free(1) == Freed::Now && world.is_idle();
    if recycled {
        world.start(3, 30);
        world.paths.reached("used again");
    }
    recycled
}

fn finish_reuse(world: &Arc<World>, ended: bool) {
    world.finish();
    if world.entry.version() >= 3 {
        if ended { world.assert_ended(3) } else { world.assert_alive(3) }
    }
}

/// A stale access; whether it was refused as one or came before the free.
fn stale(world: &Arc<World>, access: impl FnOnce(&Mine) -> Result<(), Refused> + Send + 'static) -> Body {
    let world = world.clone();
    thread(move |mine| match access(mine) {
        Ok(()) => world.paths.reached("came before the free"),
        Err(refused) => {
            assert!(matches!(refused, Refused::Stale | Refused::Busy), "{refused:?}");
            world.paths.reached("was refused");
        }
    })
}

/// The address is this slot's again, in another life that is written and being moved.
#[test]
fn reuse_against_a_late_helper() {
    let paths = [
        "used again",
        "wrote",
        "stopped in the middle of a move",
        "freed while moving, settled",
        "freed while moving, put off",
        "moved by a helper",
        "a helper lost",
        "came before the free",
        "was refused",
        "strayed helper",
    ];
    check("reuse against a late helper", 3, &paths, |paths| {
        let (world, _) = World::moving(paths, 2);
        let late = stale(&world, |mine| {
            let result = mine.read(1).map(drop);
            if result.is_err() && mine.used() > 0 {
                mine.reached("strayed helper");
            }
            result
        });
        let owner = world.clone();
        let other = thread(move |mine| {
            if reuse(&owner) {
                let _ = mine.add(3, 1);
                mine.begin_and_stop(HOME);
            }
        });
        race(&world, [late, other]);
        finish_reuse(&world, false);
    });
}

/// The address is another slot's, so that whoever takes it for the old block copies a stranger's bytes.
#[test]
fn reuse_by_a_stranger_against_a_late_helper() {
    let paths = ["used by a stranger", "a helper lost", "a claim was refused", "was refused", "came before the free"];
    check("reuse by a stranger against a late helper", 3, &paths, |paths| {
        let (world, _) = World::moving(paths, 2);
        let late = stale(&world, |mine| mine.read(1).map(drop));
        let owner = world.clone();
        let other = thread(move |_| {
            if owner.free(1) == Freed::Now && owner.is_idle() {
                owner.start_stranger();
                owner.paths.reached("used by a stranger");
            }
        });
        race(&world, [late, other]);
        world.finish();
        world.assert_ended(1);
    });
}

/// A mover that stops between its copy and its commit holds a claim, so the address is not used again under it.
#[test]
fn reuse_against_a_late_mover() {
    let paths =
        ["used again", "moved by a mover", "a mover lost", "gone", "skipped as held", "freed while moving, put off"];
    check("reuse against a late mover", 3, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let other = thread(move |mine| {
            if reuse(&owner) {
                assert!(matches!(mine.add(3, 1), Ok(())));
            }
        });
        race(&world, [mover(), other]);
        finish_reuse(&world, false);
    });
}

#[test]
fn reuse_against_a_stale_free() {
    let paths = ["used again", "a free was refused", "read"];
    check("reuse against a stale free", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let body = || {
            let world = world.clone();
            thread(move |mine| {
                if reuse(&world) {
                    assert_eq!(mine.read(3), Ok(30), "a stale free ended a later life");
                }
            })
        };
        race(&world, [body(), body()]);
        world.finish();
        world.assert_alive(3);
    });
}

#[test]
fn reuse_against_a_stale_rent() {
    let paths = ["used again", "strayed", "settled by the ready list", "came before the free", "was refused"];
    check("reuse against a stale rent", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let other = thread(move |_| {
            if reuse(&owner) {
                assert_ne!(owner.free(3), Freed::Refused);
            }
        });
        race(&world, [stale(&world, |mine| mine.read(1).map(drop)), other]);
        finish_reuse(&world, true);
    });
}

#[test]
fn reuse_against_a_stale_write() {
    let paths = ["used again", "the owner met the stale hold", "came before the free", "was refused"];
    check("reuse against a stale write", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let other = thread(move |mine| {
            if reuse(&owner)
                && let Err(refused) = mine.read(3)
            {
                assert_eq!(refused, Refused::Busy);
                mine.reached("the owner met the stale hold");
            }
        });
        race(&world, [stale(&world, |mine| mine.add(1, 1)), other]);
        finish_reuse(&world, false);
    });
}

#[test]
fn reuse_against_a_stale_take() {
    let paths = ["used again", "took", "was refused"];
    check("reuse against a stale take", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let other = thread(move |_| {
            reuse(&owner);
        });
        race(&world, [stale(&world, |mine| mine.take(1).map(drop)), other]);
        finish_reuse(&world, false);
    });
}

#[test]
fn a_publish_a_rent_and_a_free() {
    let paths = ["published", "freed before it was published", "read", "freed while held", "freed while not held"];
    check("a publish, a rent and a free", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        let publisher = stale(&world, move |mine| mine.publish(version, 5).map(drop));
        race(&world, [publisher, reader(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_publish_of_another_length_a_rent_and_a_free() {
    let paths = ["published", "freed before it was published", "read", "freed while held", "freed while not held"];
    check("a publish of another length, a rent and a free", 2, &paths, |paths| {
        let (world, version) = World::long(paths, 3);
        let publisher = stale(&world, move |mine| mine.publish_copy(version, 8).map(drop));
        race(&world, [publisher, reader(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_publish_of_another_length_and_a_move() {
    let paths = ["published", "moved by a helper", "moved by a mover", "a mover lost", "skipped as held", "gone"];
    check("a publish of another length and a move", 5, &paths, |paths| {
        let (world, version) = World::long(paths, 2);
        let publisher = stale(&world, move |mine| mine.publish_copy(version, 8).map(drop));
        race(&world, [publisher, thread(Mine::walk_and_move)]);
        world.finish();
        world.assert_alive(version);
    });
}

/// Whoever settles the block begins the slot's next life: by then its extent is nobody else's.
#[test]
fn a_publish_of_another_length_and_the_next_life() {
    let paths = ["published", "freed before it was published", "freed while not held", "began the next life"];
    check("a publish of another length and the next life", 5, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        // Large, and about to be small: then the extent changes before the block.
        world.entry.set_extent(extent_of(version) | LARGE_EXTENT);
        let next = move |world: &World, mine: &Mine| {
            world.start_at(mine.place(), version + 2, 3);
            world.paths.reached("began the next life");
        };
        let (owner, freer) = (world.clone(), world.clone());
        let publish = stale(&world, move |mine| {
            let published = mine.publish_copy(version, 8)?;
            // If it was not linked, the old block was settled in its place.
            if published.unwrap_or(true) {
                next(&owner, mine);
            }
            Ok(())
        });
        let free = thread(move |mine| {
            if freer.free(version) == Freed::Now {
                next(&freer, mine);
            }
        });
        race(&world, [publish, free]);
        world.finish();
        if world.entry.version() == version + 2 {
            assert_eq!(world.entry.extent(), extent_of(version + 2), "the extent of an earlier life");
            world.assert_alive(version + 2);
        }
    });
}

#[test]
fn a_publish_a_rent_and_a_move() {
    let paths = ["published", "read", "moved by a helper", "moved by a mover", "a mover lost"];
    check("a publish, a rent and a move", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        let publisher = stale(&world, move |mine| mine.publish(version, 5).map(drop));
        race(&world, [publisher, reader(version), mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn reuse_and_publish_against_a_stale_rent() {
    let paths = ["used again", "published", "the owner met the stale hold", "came before the free", "was refused"];
    check("reuse and publish against a stale rent", 4, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let other = thread(move |mine| {
            if reuse(&owner) {
                match mine.publish(3, 5) {
                    Ok(published) => assert!(published),
                    Err(refused) => {
                        assert_eq!(refused, Refused::Busy);
                        mine.reached("the owner met the stale hold");
                    }
                }
            }
        });
        race(&world, [stale(&world, |mine| mine.read(1).map(drop)), other]);
        finish_reuse(&world, false);
    });
}

/// A waiter that misses its wake-up never ends, which loom reports as a deadlock.
#[test]
fn a_waiter_and_the_last_return() {
    let paths = ["slept", "announced and did not sleep", "free in the meantime", "woke", "wrote"];
    check("a waiter and the last return", 4, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        Mine::new(&world, 3).hold(version, Hold::Shared).unwrap();
        let holder = world.clone();
        let leave = thread(move |_| assert!(!holder.leave(Hold::Shared)));
        let wait = thread(move |mine| assert!(mine.wait_and(version, Hold::Exclusive)));
        race(&world, [leave, wait]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_waiter_and_two_returns() {
    let paths = ["slept", "woke", "wrote", "read"];
    check("a waiter and two returns", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        Mine::new(&world, 3).hold(version, Hold::Shared).unwrap();
        let holder = world.clone();
        let leave = thread(move |_| assert!(!holder.leave(Hold::Shared)));
        let wait = thread(move |mine| assert!(mine.wait_and(version, Hold::Exclusive)));
        race(&world, [leave, reader(version), wait]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_waiter_a_return_and_a_free() {
    let paths = ["slept", "woke", "wrote", "the waiter's life ended"];
    check("a waiter, a return and a free", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        Mine::new(&world, 3).hold(version, Hold::Shared).unwrap();
        let holder = world.clone();
        let leave = thread(move |_| {
            holder.leave(Hold::Shared);
        });
        let wait = thread(move |mine| {
            if !mine.wait_and(version, Hold::Exclusive) {
                mine.reached("the waiter's life ended");
            }
        });
        race(&world, [leave, freer(&world, version), wait]);
        world.finish();
        world.assert_ended(version);
    });
}

/// The last return clears WAITED after it has let go, so a writer may come in between.
#[test]
fn a_waiter_a_return_and_a_write() {
    let paths = ["slept", "woke", "wrote", "both wrote"];
    check("a waiter, a return and a write", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        Mine::new(&world, 3).hold(version, Hold::Shared).unwrap();
        let holder = world.clone();
        let leave = thread(move |_| assert!(!holder.leave(Hold::Shared)));
        let wait = thread(move |mine| assert!(mine.wait_and(version, Hold::Exclusive)));
        let write = thread(move |mine| {
            if mine.add(version, 1).is_ok() {
                mine.reached("both wrote");
            }
        });
        race(&world, [leave, write, wait]);
        world.finish();
        world.assert_alive(version);
    });
}

/// The same so late that the slot is in its next life, with holds and sleepers of its own.
#[test]
fn a_late_return_and_a_waiter_in_the_next_life() {
    let paths = ["slept", "woke", "began the next life", "waited for the next life", "settled by the last return"];
    check("a late return and a waiter in the next life", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        Mine::new(&world, 3).hold(version, Hold::Shared).unwrap();
        assert_eq!(world.entry.announce_wait(version), Waiting::Announced);
        let (holder, owner) = (world.clone(), world.clone());
        let leave = thread(move |_| {
            holder.leave(Hold::Shared);
        });
        let next = thread(move |mine| {
            if owner.free(version) == Freed::Now {
                owner.start_at(mine.place(), version + 2, 3);
                mine.reached("began the next life");
                mine.read(version + 2).unwrap_or_default();
            }
        });
        let wait = thread(move |mine| {
            if mine.wait_and(version + 2, Hold::Exclusive) {
                mine.reached("waited for the next life");
            }
        });
        race(&world, [leave, next, wait]);
        world.finish();
    });
}

/// Who waits for a mistaken hold is woken by its return, though the return is a stranger's.
#[test]
fn a_waiter_and_a_mistaken_hold() {
    let paths = ["slept", "strayed", "woke", "was refused"];
    check("a waiter and a mistaken hold", 4, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let other = thread(move |mine| {
            if reuse(&owner) {
                assert!(mine.wait_and(3, Hold::Exclusive));
            }
        });
        race(&world, [stale(&world, |mine| mine.read(1).map(drop)), other]);
        finish_reuse(&world, false);
    });
}

#[test]
fn two_waiters_and_a_write() {
    let paths = ["slept", "woke", "wrote", "read"];
    check("two waiters and a write", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        let write = thread(move |mine| assert!(mine.wait_and(version, Hold::Exclusive)));
        let wait = || thread(move |mine| assert!(mine.wait_and(version, Hold::Shared)));
        race(&world, [write, wait(), wait()]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_waiter_and_a_publish() {
    let paths = ["slept", "woke", "published", "read"];
    check("a waiter and a publish", 4, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        let publisher = stale(&world, move |mine| mine.publish(version, 5).map(drop));
        race(&world, [publisher, thread(move |mine| assert!(mine.wait_and(version, Hold::Shared)))]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_waiter_and_a_take() {
    let paths = ["slept", "woke", "took", "the waiter's life ended"];
    check("a waiter and a take", 4, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        let wait = thread(move |mine| {
            if !mine.wait_and(version, Hold::Shared) {
                mine.reached("the waiter's life ended");
            }
        });
        race(&world, [taker(version), wait]);
        world.finish();
    });
}

#[test]
fn a_waiter_a_return_and_a_move() {
    let paths = ["slept", "woke", "wrote", "moved by a helper", "moved by a mover", "skipped as held"];
    check("a waiter, a return and a move", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        Mine::new(&world, 3).hold(version, Hold::Shared).unwrap();
        let holder = world.clone();
        let leave = thread(move |_| assert!(!holder.leave(Hold::Shared)));
        let wait = thread(move |mine| assert!(mine.wait_and(version, Hold::Exclusive)));
        race(&world, [leave, wait, mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

/// Queries take no hold: what they read must be of one life, though the slot is used again meanwhile, elsewhere.
#[test]
fn queries_against_reuse() {
    let paths = ["queried", "saw the first life", "saw the next life", "began the next life"];
    check("queries against reuse", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let owner = world.clone();
        let place = Mine::new(&world, 2).place();
        let next = thread(move |mine| {
            assert_eq!(owner.free(1), Freed::Now);
            // The slot lies in a list of free slots meanwhile, linked through its extent.
            owner.entry.set_extent(9);
            assert_eq!(owner.start_at(place, 3, 30), 3);
            mine.reached("began the next life");
        });
        let query = thread(move |mine| {
            if let Some(address) = mine.query(1) {
                assert_eq!(address, HOME);
                mine.reached("saw the first life");
            }
            if let Some(address) = mine.query(3) {
                assert_eq!(address, place);
                mine.reached("saw the next life");
            }
        });
        race(&world, [query, next]);
        world.finish();
        world.assert_alive(3);
    });
}

/// Reads take no hold, and look at the version once: it must be enough to tell the life's own word from every other.
#[test]
fn reads_against_reuse() {
    let paths = ["read the first life", "was refused", "began the next life", "read the next life"];
    check("reads against reuse", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let (owner, reader) = (world.clone(), world.clone());
        let place = Mine::new(&world, 2).place();
        // The handle of the next life, as one thread gives it to another.
        let handle = Arc::new(AtomicU32::new(0));
        let received = handle.clone();
        let next = thread(move |mine| {
            assert_eq!(owner.free(1), Freed::Now);
            assert_eq!(owner.start_at(place, 3, 30), 3);
            mine.reached("began the next life");
            handle.store(3, Ordering::Release);
        });
        let read = thread(move |mine| {
            match reader.entry.read(1) {
                Some(location) => {
                    assert_eq!(location.address(), HOME, "read where another life is");
                    mine.reached("read the first life");
                }
                None => mine.reached("was refused"),
            }
            if received.load(Ordering::Acquire) == 3 {
                assert_eq!(reader.entry.read(3).map(Location::address), Some(place), "missed a life that had begun");
                mine.reached("read the next life");
            }
        });
        race(&world, [read, next]);
        world.finish();
        world.assert_alive(3);
    });
}

/// The same while the slot's page is taken into use again after it was given back.
#[test]
fn a_read_and_a_page_that_comes_back() {
    let paths = ["read the first life", "was refused"];
    check("a read and a page that comes back", 5, &paths, |paths| {
        let (world, _) = World::alive(paths, 2);
        let (owner, reader) = (world.clone(), world.clone());
        let vacate = thread(move |_| {
            assert_eq!(owner.free(1), Freed::Now);
            owner.entry.vacate(2);
        });
        let read = thread(move |mine| match reader.entry.read(1) {
            Some(location) => {
                assert_eq!(location.address(), HOME, "read where nothing is");
                mine.reached("read the first life");
            }
            None => mine.reached("was refused"),
        });
        race(&world, [read, vacate]);
        world.finish();
        world.assert_ended(1);
    });
}

#[test]
fn a_resize_a_rent_and_a_free() {
    let paths = ["resized", "freed before it was resized", "read", "freed while held", "freed while not held"];
    check("a resize, a rent and a free", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        let resizer = stale(&world, move |mine| mine.resize(version, 5).map(drop));
        race(&world, [resizer, reader(version), freer(&world, version)]);
        world.finish();
        world.assert_ended(version);
    });
}

#[test]
fn a_resize_a_rent_and_a_move() {
    let paths = ["resized", "read", "moved by a helper", "moved by a mover", "a mover lost", "skipped as held"];
    check("a resize, a rent and a move", 2, &paths, |paths| {
        let (world, version) = World::alive(paths, 3);
        let resizer = stale(&world, move |mine| mine.resize(version, 5).map(drop));
        race(&world, [resizer, reader(version), mover()]);
        world.finish();
        world.assert_alive(version);
    });
}

/// Who waits while a block is resized waits for the new one.
#[test]
fn a_waiter_and_a_resize() {
    let paths = ["slept", "woke", "resized", "read"];
    check("a waiter and a resize", 4, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        let resizer = stale(&world, move |mine| mine.resize(version, 5).map(drop));
        race(&world, [resizer, thread(move |mine| assert!(mine.wait_and(version, Hold::Shared)))]);
        world.finish();
        world.assert_alive(version);
    });
}

/// A query that finds the extent of a large block is not kept from an answer by a resize that has stopped.
#[test]
fn queries_against_a_resize() {
    let paths = ["saw a small block", "saw a large block", "looked again"];
    check("queries against a resize", 5, &paths, |paths| {
        let (world, version) = World::alive(paths, 2);
        let large = Mine::new(&world, 1).place();
        let resize = thread(move |mine| assert_eq!(mine.grow_and_shrink(version)[0], large));
        race(&world, [resize, thread(move |mine| mine.query_length(version, large))]);
    });
}

/// A mover makes room by the header that it came by, and the block may be shorter by the time that it moves.
#[test]
fn a_shortening_a_rent_and_a_move() {
    let paths = [
        "shortened at home",
        "shortened elsewhere",
        "shorter than its room",
        "read",
        "moved by a helper",
        "moved by a mover",
        "a mover lost",
        "skipped as held",
    ];
    check("a shortening, a rent and a move", 2, &paths, |paths| {
        let (world, version) = World::long(paths, 3);
        let shortener = stale(&world, move |mine| mine.shorten(version));
        race(&world, [shortener, reader(version), thread(Mine::walk_and_move)]);
        world.finish();
        world.assert_alive(version);
    });
}

#[test]
fn a_shortening_a_free_and_a_move() {
    let paths = [
        "shortened at home",
        "shortened elsewhere",
        "shorter than its room",
        "freed while held",
        "freed while not held",
        "freed while moving, settled",
        "freed while moving, put off",
        "settled by the last return",
    ];
    check("a shortening, a free and a move", 2, &paths, |paths| {
        let (world, version) = World::long(paths, 3);
        let shortener = stale(&world, move |mine| mine.shorten(version));
        race(&world, [shortener, freer(&world, version), thread(Mine::walk_and_move)]);
        world.finish();
        world.assert_ended(version);
        assert!(world.is_idle(), "the arena was not emptied");
    });
}

#[test]
fn a_shortening_and_a_walker() {
    let paths = ["shortened at home", "walked over a filler", "walked over the whole block"];
    check("a shortening and a walker", 5, &paths, |paths| {
        let (world, version) = World::long(paths, 2);
        race(&world, [stale(&world, move |mine| mine.shorten(version)), thread(Mine::walk)]);
        world.finish();
        world.assert_alive(version);
    });
}
