//! Free slots in chains: a list that needs no memory, and that is handed over whole by its first slot and its length.

use super::Entry;
use super::slots::Table;
use std::collections::VecDeque;
use std::ops::Range;

/// Free slots, each linked to the next through the extent of its vacant entry. Last in, first out.
///
/// Whoever has the chain owns its slots, so nobody else writes those extents. A thread with a stale handle may read them: it
/// looks at the version again and believes none. A chain goes from thread to thread under the table's lock, which makes the
/// links visible to the next owner.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Of no meaning in an empty chain.
    first: u32,
    /// The slot that was first in. Of no meaning in an empty chain.
    last: u32,
    count: u32,
}

impl Chain {
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.count
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a vacant slot, which `entry` is of. Its entry is hot: a life has just ended in it.
    #[inline]
    pub(super) fn push(&mut self, slot: u32, entry: &Entry) {
        // The link of the slot that was first in is never followed.
        entry.set_extent(self.first);
        if self.count == 0 {
            self.last = slot;
        }
        self.first = slot;
        self.count += 1;
    }

    /// Takes the slot that came last. Its entry is read for the link, a moment before a life begins in it.
    #[inline]
    pub(super) fn pop<'t>(&mut self, table: &'t Table) -> Option<(u32, &'t Entry)> {
        self.count = self.count.checked_sub(1)?;
        let slot = self.first;
        let entry = table.known(slot);
        self.first = entry.extent();
        Some((slot, entry))
    }
}

/// Chains in a segment. A queue in one piece would be copied whole, under the lock, when it outgrows its memory.
const SEGMENT: usize = 512;

/// The most slots that short chains are put together to.
const GATHERED: u32 = 256;

/// The free slots in the table's own hands.
#[derive(Debug, Default)]
pub(super) struct FreeSlots {
    /// First in, first out, so that all slots have their turn. No segment is empty, unless it is the only one.
    chains: VecDeque<VecDeque<Chain>>,
    /// Parts of pages that were never used since their page was made or woken.
    pub(super) fresh: Vec<Range<u32>>,
}

impl FreeSlots {
    pub(super) fn push(&mut self, chain: Chain) {
        if chain.is_empty() {
            return;
        }
        if self.chains.back().is_none_or(|segment| segment.len() == SEGMENT) {
            self.chains.push_back(VecDeque::with_capacity(SEGMENT));
        }
        self.chains.back_mut().expect("pushed if there was none").push_back(chain);
    }

    /// Adds a short chain to the one that came last, as long as that stays short too: a chain for every few slots would take
    /// as much memory as the slots. One entry is written, which was linked a moment ago.
    pub(super) fn gather(&mut self, table: &Table, mut chain: Chain) {
        if let Some(back) = self.chains.back_mut().and_then(VecDeque::back_mut)
            && !chain.is_empty()
            && back.count + chain.count <= GATHERED
        {
            table.known(chain.last).set_extent(back.first);
            (chain.last, chain.count) = (back.last, back.count + chain.count);
            *back = chain;
        } else {
            self.push(chain);
        }
    }

    /// Adds slots of one page that were never used.
    pub(super) fn push_fresh(&mut self, slots: Range<u32>) {
        if !slots.is_empty() {
            self.fresh.push(slots);
        }
    }

    /// The chain that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Chain> {
        let chain = self.chains.front_mut()?.pop_front();
        // The last segment stays, for the next chain.
        if self.chains.len() > 1 && self.chains[0].is_empty() {
            self.chains.pop_front();
        }
        chain
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.chains.front().is_none_or(VecDeque::is_empty)
    }

    /// Adds what another has, behind what is here. The time it takes does not depend on how many slots there are, only on the
    /// segments.
    pub(super) fn append(&mut self, mut later: Self) {
        self.chains.append(&mut later.chains);
        self.chains.retain(|segment| !segment.is_empty());
        self.fresh.append(&mut later.fresh);
    }
}
