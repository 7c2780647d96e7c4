//! What one thread has alive, and the least memory that it can take up.

/// Bytes of a block's header.
pub const HEADER_BYTES: u64 = 8;
/// Bytes of a slot of the handle table.
pub const SLOT_BYTES: u64 = 16;

/// A block with its header, without its slot: what it fills of an arena.
pub fn footprint(size: u64) -> u64 {
    HEADER_BYTES + size.next_multiple_of(8)
}

/// One thread's blocks, counted.
#[derive(Debug, Default)]
pub struct Ledger {
    live: u64,
    footprints: u64,
    blocks: u64,
    most_blocks: u64,
}

impl Ledger {
    /// A new block.
    pub fn add(&mut self, size: u64) {
        self.live += size;
        self.footprints += footprint(size);
        self.blocks += 1;
        self.most_blocks = self.most_blocks.max(self.blocks);
    }

    /// The end of one.
    pub fn remove(&mut self, size: u64) {
        self.live -= size;
        self.footprints -= footprint(size);
        self.blocks -= 1;
    }

    /// Bytes asked for and not given back.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Blocks alive.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The most blocks alive at a time so far, each of which had a slot.
    pub fn slots(&self) -> u64 {
        self.most_blocks
    }

    /// What Memory Shuffler needs for these blocks with no fragmentation at all: F times the live bytes. Slots are counted at
    /// their peak, since a table that has grown does not shrink below the slots that are in use here and there.
    pub fn floor(&self) -> u64 {
        self.footprints + SLOT_BYTES * self.most_blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F of blocks of one size with no more slots than blocks, as the design states it.
    fn f(size: u64) -> f64 {
        let mut ledger = Ledger::default();
        (0..1000).for_each(|_| ledger.add(size));
        ledger.floor() as f64 / ledger.live() as f64
    }

    #[test]
    fn the_floor_is_that_of_the_design() {
        assert_eq!(f(240), 1.1);
        assert_eq!(f(100), 1.28);
        assert_eq!(f(492), 520.0 / 492.0);
        assert_eq!(f(4096), 4120.0 / 4096.0);
    }

    #[test]
    fn slots_stay_at_their_peak() {
        let mut ledger = Ledger::default();
        (0..16).for_each(|_| ledger.add(100));
        (0..15).for_each(|_| ledger.remove(100));
        assert_eq!((ledger.live(), ledger.blocks(), ledger.slots()), (100, 1, 16));
        assert_eq!(ledger.floor(), 104 + 8 + 16 * 16);
    }
}
