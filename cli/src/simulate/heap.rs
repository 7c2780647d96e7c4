//! A heap without memory: arenas of so many blocks of one size, and where each block is.

use memory_shuffler::policy::{self, CLASSES, Candidate};

/// What chooses the arenas to empty, and the class of arena that their survivors go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// The library's.
    Ours,
    /// The sparsest first, and all survivors together: to compare with.
    Greedy,
}

#[derive(Clone, Debug, Default)]
struct Arena {
    state: State,
    class: u8,
    /// Places taken since it was opened, and how many of them hold a live block.
    used: usize,
    live: usize,
    sealed_at: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Free,
    Active,
    Sealed,
}

/// The block is in no place.
const NOWHERE: u32 = u32::MAX;

/// Places are numbered through all arenas.
#[derive(Debug)]
pub struct Heap {
    per_arena: usize,
    arenas: Vec<Arena>,
    free: Vec<usize>,
    /// The arena of each class that is being filled.
    active: [Option<usize>; CLASSES as usize],
    /// The block that was last written to each place.
    blocks: Vec<u32>,
    /// The place of each block.
    places: Vec<u32>,
    /// Blocks written: the clock.
    pub written: u64,
    /// Blocks copied.
    pub copied: u64,
}

impl Heap {
    /// One for so many blocks, with `arenas` free.
    pub fn new(blocks: u32, per_arena: usize, arenas: usize) -> Self {
        let mut heap = Self {
            per_arena,
            arenas: Vec::new(),
            free: Vec::new(),
            active: [None; CLASSES as usize],
            blocks: Vec::new(),
            places: vec![NOWHERE; blocks as usize],
            written: 0,
            copied: 0,
        };
        for _ in 0..arenas {
            let arena = heap.grow();
            heap.free.push(arena);
        }
        heap
    }

    /// Arenas that nothing is in.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Arenas that something is in, or was.
    pub fn used(&self) -> usize {
        self.arenas.len() - self.free.len()
    }

    /// Whether the next write opens an arena.
    pub fn is_at_end(&self) -> bool {
        self.active[0].is_none_or(|arena| self.arenas[arena].used == self.per_arena)
    }

    /// Writes the block anew; the place where it was is dead.
    pub fn write(&mut self, block: u32) {
        let old = self.places[block as usize];
        if old != NOWHERE {
            self.arenas[old as usize / self.per_arena].live -= 1;
        }
        self.put(block, 0);
        self.written += 1;
    }

    /// Puts the block at the end of the active arena of a class.
    fn put(&mut self, block: u32, class: u8) {
        let open = self.active[usize::from(class)].filter(|&arena| self.arenas[arena].used < self.per_arena);
        let number = open.unwrap_or_else(|| self.open(class));
        let arena = &mut self.arenas[number];
        let place = number * self.per_arena + arena.used;
        arena.used += 1;
        arena.live += 1;
        self.blocks[place] = block;
        self.places[block as usize] = u32::try_from(place).expect("fewer places than that");
    }

    /// Seals the active arena of a class, and opens another.
    fn open(&mut self, class: u8) -> usize {
        let number = self.free.pop().unwrap_or_else(|| self.grow());
        self.arenas[number] = Arena { state: State::Active, class, ..Arena::default() };
        if let Some(full) = self.active[usize::from(class)].replace(number) {
            let full = &mut self.arenas[full];
            (full.state, full.sealed_at) = (State::Sealed, self.written);
        }
        number
    }

    fn grow(&mut self) -> usize {
        self.arenas.push(Arena::default());
        self.blocks.resize(self.arenas.len() * self.per_arena, 0);
        self.arenas.len() - 1
    }

    /// The sealed arenas with fewer live blocks than `sparse_below`.
    fn candidates(&self, sparse_below: usize) -> Vec<Candidate<usize>> {
        let sealed = self.arenas.iter().enumerate().filter(|(_, arena)| arena.state == State::Sealed);
        let sparse = sealed.filter(|(_, arena)| arena.live < sparse_below);
        sparse
            .map(|(number, arena)| Candidate { arena: number, live: arena.live, age: self.written - arena.sealed_at })
            .collect()
    }

    /// Arenas that could be gained from those with fewer live blocks than `sparse_below`.
    pub fn gain(&self, sparse_below: usize) -> usize {
        let mut candidates = self.candidates(sparse_below);
        let count = policy::choose(&mut candidates, self.per_arena, 0, usize::MAX);
        let live: usize = candidates[..count].iter().map(|candidate| candidate.live).sum();
        count - live.div_ceil(self.per_arena)
    }

    /// Empties as many of the arenas with fewer live blocks than `sparse_below` as it takes to gain one; returns how many.
    pub fn clean(&mut self, strategy: Strategy, sparse_below: usize) -> usize {
        let mut candidates = self.candidates(sparse_below);
        if strategy == Strategy::Greedy {
            // With no age, the order is by how sparse they are.
            candidates.iter_mut().for_each(|candidate| candidate.age = 0);
        }
        let victims = policy::choose(&mut candidates, self.per_arena, 0, 1);
        for victim in &candidates[..victims] {
            self.empty(victim.arena, strategy);
        }
        victims
    }

    fn empty(&mut self, victim: usize, strategy: Strategy) {
        let class = match strategy {
            Strategy::Ours => policy::class_of_survivors(self.arenas[victim].class),
            Strategy::Greedy => 1,
        };
        let first = victim * self.per_arena;
        for place in first..first + self.per_arena {
            let block = self.blocks[place];
            if self.places[block as usize] as usize == place {
                self.put(block, class);
                self.copied += 1;
            }
        }
        self.arenas[victim] = Arena::default();
        self.free.push(victim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_of_survivors_go_to_a_class_of_their_own() {
        let mut heap = Heap::new(4, 1, 4);
        (0..4).for_each(|block| heap.write(block));
        for class in [1, 2, 2] {
            let arena = heap.places[0] as usize;
            heap.empty(arena, Strategy::Ours);
            assert_eq!(heap.arenas[heap.places[0] as usize].class, class);
        }
        let arena = heap.places[0] as usize;
        heap.empty(arena, Strategy::Greedy);
        assert_eq!(heap.arenas[heap.places[0] as usize].class, 1);
    }

    #[test]
    fn two_halves_make_one_arena_of_survivors() {
        let mut heap = Heap::new(8, 4, 5);
        (0..8).for_each(|block| heap.write(block));
        // Half of the first arena dies, and half of the second; one more write seals the third.
        [0, 1, 4, 5, 0].into_iter().for_each(|block| heap.write(block));
        assert_eq!((heap.used(), heap.free(), heap.gain(4)), (4, 1, 1));
        assert_eq!(heap.clean(Strategy::Ours, 4), 2);
        assert_eq!((heap.copied, heap.written), (4, 13));
        assert_eq!((heap.used(), heap.free(), heap.gain(4)), (3, 2, 0));
        let live: usize = heap.arenas.iter().map(|arena| arena.live).sum();
        assert_eq!(live, 8, "every block is in one place");
    }
}
