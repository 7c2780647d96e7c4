//! Models of a block's length, as queries tell it that take no hold while others put blocks of other lengths in its place: the
//! real entry, the real descriptor's life, and the few lines around them.
//!
//! A place is where a block can be: its descriptor's life, and a loom cell in which the length stands that the block itself
//! tells. What a query may answer is a length that some block of the handle had.

#[path = "../src/table/entry.rs"]
#[allow(dead_code, reason = "the models use the library's file as it is, not all of it")]
mod entry;
#[path = "../src/arena/header.rs"]
#[allow(dead_code, reason = "as above")]
mod header;
#[path = "../src/arena/life.rs"]
mod life;
#[path = "support/model.rs"]
#[allow(dead_code, reason = "as above")]
mod model;
#[path = "support/primitive.rs"]
mod primitive;
#[path = "../src/table/word.rs"]
#[allow(dead_code, reason = "as above")]
mod word;

use entry::{Entry, Hold, LARGE_EXTENT, Left, Memory, Refused};
use header::{Header, MAX_PAYLOAD, State};
use life::Life;
use loom::cell::UnsafeCell;
use loom::thread;
use model::{Paths, check};
use std::convert::Infallible;
use std::sync::Arc;

/// The only life of the entry.
const LIFE: u32 = 1;
const SMALL: usize = 40;
const OTHER: usize = 48;
const LARGE: usize = 100_000;
const LARGER: usize = 200_000;
/// The length of a block that is none of the handle's.
const STRANGER: usize = 77_777;
/// Where the block is at first, and where others are made.
const HOME: usize = 0;

struct Place {
    life: Life,
    length: UnsafeCell<usize>,
}

struct World {
    entry: Entry,
    places: [Place; 4],
    paths: Paths,
}

// SAFETY: the cells are loom's, which report any access that is not ordered; the rest is `Sync`.
unsafe impl Sync for World {}
// SAFETY: as above.
unsafe impl Send for World {}

fn address(place: usize) -> usize {
    8 * (place + 1)
}

fn extent(length: usize) -> u32 {
    let is_large = length > MAX_PAYLOAD;
    let header = Header::new(7, if is_large { 0 } else { length }, 1, State::Live);
    header.extent() | if is_large { LARGE_EXTENT } else { 0 }
}

impl World {
    /// A block of [`SMALL`] bytes.
    fn new(paths: &Paths) -> Arc<Self> {
        let place = || Place { life: Life::new(), length: UnsafeCell::new(0) };
        let places = std::array::from_fn(|_| place());
        let world = Self { entry: Entry::vacant(0), places, paths: paths.clone() };
        world.make(HOME, SMALL);
        assert_eq!(world.entry.begin_life(address(HOME), extent(SMALL)), LIFE);
        Arc::new(world)
    }

    fn place(&self, address: usize) -> &Place {
        &self.places[address / 8 - 1]
    }

    /// Makes a block, which nobody else knows.
    fn make(&self, place: usize, length: usize) {
        let place = &self.places[place];
        place.life.begin();
        if length > MAX_PAYLOAD {
            place.life.set_payload(length);
        }
        // SAFETY: loom checks that nobody else uses the cell meanwhile.
        place.length.with_mut(|place| unsafe { *place = length });
    }

    /// As `publish_copy`. `false`: somebody else was replacing the block.
    fn publish(&self, place: usize, length: usize) -> bool {
        self.make(place, length);
        let old = match self.entry.hold(LIFE, Hold::Exclusive, self) {
            Ok(old) => old,
            Err(refused) => {
                assert_eq!(refused, Refused::Busy);
                self.paths.reached("refused");
                self.places[place].life.end();
                return false;
            }
        };
        assert!(self.entry.relink(address(place), extent(length)));
        assert_eq!(self.entry.give_back(Hold::Exclusive), Left::default());
        self.paths.reached("published");
        self.place(old).life.end();
        true
    }

    /// What must hold at the end of every execution: a query tells what the block itself does.
    fn finish(&self) -> usize {
        let block = self.place(self.entry.word().address());
        // SAFETY: loom checks that its writing happened before.
        let length = block.length.with(|length| unsafe { *length });
        assert_eq!(self.entry.extent(), extent(length), "an extent beside another block's word");
        assert_eq!(self.query(), length);
        length
    }

    fn glimpse(&self) -> (u32, usize) {
        let (extent, word) = (self.entry.extent(), self.entry.word());
        (extent, word.address())
    }

    /// As `glimpse_sized`.
    fn query(&self) -> usize {
        loop {
            let (extent, address) = self.glimpse();
            if extent & LARGE_EXTENT == 0 {
                self.paths.reached("told by the extent");
                return Header::extent_payload(extent);
            }
            let is_there = || Ok::<_, Infallible>(self.glimpse().1 == address);
            let Ok(payload) = self.place(address).life.payload_if(is_there);
            if let Some(payload) = payload {
                self.paths.reached("told by the descriptor");
                return payload;
            }
            self.paths.reached("looked again");
            thread::yield_now();
        }
    }
}

/// Nothing moves here.
impl Memory for World {
    type Claim<'a> = Infallible;
    type Copy = Infallible;

    fn claim(&self, _: usize) -> Option<Infallible> {
        None
    }

    fn copy(&self, claim: &Infallible, _: usize) -> Option<Infallible> {
        match *claim {}
    }

    fn address(&self, copy: &Infallible) -> usize {
        match *copy {}
    }

    fn won(&self, claim: Infallible, _: usize, _: Infallible) {
        match claim {}
    }

    fn lost(&self, claim: Infallible, _: Infallible) {
        match claim {}
    }

    fn strayed(&self, _: &Entry, _: Left) {
        unreachable!("the entry has one life");
    }
}

type Body = Box<dyn FnOnce(&World) + Send>;

fn race<const N: usize>(world: &Arc<World>, bodies: [Body; N]) {
    model::race(bodies.into_iter().map(|body| {
        let world = world.clone();
        move || body(&world)
    }));
}

fn publisher(place: usize, length: usize) -> Body {
    Box::new(move |world| {
        world.publish(place, length);
    })
}

fn querier(lengths: &'static [usize]) -> Body {
    Box::new(move |world| {
        let length = world.query();
        assert!(lengths.contains(&length), "a length of nobody's: {length}");
    })
}

/// A descriptor goes on to another block, and comes back to this one, while a query is reading it.
#[test]
fn a_query_and_a_descriptor_that_comes_back() {
    let paths = ["told by the extent", "told by the descriptor", "looked again"];
    check("a query and a descriptor that comes back", 2, &paths, |paths| {
        let world = World::new(paths);
        assert!(world.publish(1, LARGE));
        let publisher: Body = Box::new(|world| {
            assert!(world.publish(2, OTHER));
            // The block has left this place, so it is another's.
            world.make(1, STRANGER);
            world.places[1].life.end();
            assert!(world.publish(1, LARGER));
        });
        race(&world, [publisher, querier(&[LARGE, OTHER, LARGER])]);
        assert_eq!(world.finish(), LARGER);
    });
}

/// Of two that replace the block at the same time, the later one's extent stands beside its word.
#[test]
fn two_publishes_of_other_lengths() {
    check("two publishes of other lengths", 4, &["published", "refused"], |paths| {
        let world = World::new(paths);
        race(&world, [publisher(1, LARGE), publisher(2, OTHER)]);
        world.finish();
    });
}

#[test]
fn a_query_and_two_publishes_of_other_lengths() {
    let paths = ["told by the extent", "told by the descriptor", "looked again", "published", "refused"];
    check("a query and two publishes of other lengths", 2, &paths, |paths| {
        let world = World::new(paths);
        race(&world, [publisher(1, LARGE), publisher(2, OTHER), querier(&[SMALL, LARGE, OTHER])]);
        world.finish();
    });
}
