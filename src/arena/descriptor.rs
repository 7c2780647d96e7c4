//! What is known of an arena without touching it.
//!
//! A descriptor lives as long as its shuffler and is used again for other memory, so a thread that comes late always finds
//! one to ask, and learns from its [`Account`] that there is nothing to claim. Its other fields are written by whoever has
//! the arena to itself, before an account is opened or sealed, and read under a claim or by its owner.

use super::account::{Account, Balance, Outcome};
use super::ground::Ground;
use super::header::{AtomicHeader, HEADER_BYTES, Header, State};
use super::life::Life;
use super::shard::Filled;
use crate::primitive::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::ops::{Deref, Range};
use std::ptr::{self, NonNull};

/// How the memory of an arena is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Use {
    /// None: the descriptor, or its memory, waits for its next life.
    Empty = 0,
    /// Bumped full, sealed, emptied.
    Bumped = 1,
    /// A grid of extents that helpers fall back on.
    Reserve = 2,
    /// One block that is too large for an arena, or aligned too widely. Its header is in the descriptor.
    Large = 3,
}

/// See the module's documentation. What every choice of victims asks for comes first, in one or two cache lines.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct Descriptor {
    pub(crate) account: Account,
    usage: AtomicU32,
    /// The index of a [`Ground`].
    ground: AtomicU32,
    life: Life,
    /// How often its blocks survived a shuffle, within bounds: see the policy.
    class: AtomicU32,
    /// Bytes that blocks filled, or could have filled but for the gaps before aligned ones and the end that was too short.
    packed: AtomicUsize,
    /// Milliseconds from the shuffler's start to the sealing.
    sealed_at: AtomicU64,
    next: *const Descriptor,
    pub(crate) walk: LastWalk,
    pub(crate) id: u32,
    owner: AtomicU32,
    /// Somebody walks the headers.
    walked: AtomicBool,
    base: AtomicUsize,
    /// Bytes from the first block to where a walk begins: the first header that is not dead for good.
    walk_from: AtomicUsize,
    /// Bytes from the first block to where the bumping ended, or where dead memory begins that is skipped for good; where a walk ends.
    used: AtomicUsize,
    /// Bytes that were used when it was sealed.
    sealed_bytes: AtomicUsize,
    /// Bytes and alignment of the chunk.
    chunk: [AtomicUsize; 2],
    /// Bytes of the chunk that count as held from the source: all of them, but for a large block's room to grow.
    charged: AtomicUsize,
    /// Of a large block.
    pub(crate) header: AtomicHeader,
    /// Of a large block: from here on, to the end of its chunk, every byte is zero.
    clean_from: AtomicUsize,
}

/// What the last mover that walked the arena left there, or that filled it; notes for the policy, not for correctness.
#[derive(Debug, Default)]
pub(crate) struct LastWalk {
    /// Bytes of blocks that somebody held.
    pub(crate) pinned: AtomicUsize,
    /// The bits of a handle by which to see that nothing has changed, or 0: an odd version is that of a block that was held
    /// (or that was about to be replaced), an even one that of a slot whose next block was being made.
    pub(crate) witness: AtomicU64,
    /// Live bytes that it would be no use to look at again; 0: none.
    pub(crate) live: AtomicUsize,
    /// When the witness was first met, milliseconds from the shuffler's start.
    pub(crate) since: AtomicU64,
    /// The compactor wants to know when something dies here.
    pub(crate) watched: AtomicBool,
    /// Counts the times that dead memory was joined and punched; who stopped in the middle of a walk goes on only if it did not.
    pub(crate) punches: AtomicU32,
    /// Bytes of pages that were given back, while the arena is in use.
    pub(crate) punched: AtomicUsize,
    /// Those of them between the walk's start and end.
    pub(crate) hollow: AtomicUsize,
}

impl LastWalk {
    /// Ends the watch, if there is one: of those who meet it one is told, and it tells the compactor.
    #[inline]
    pub(crate) fn unwatch(&self) -> bool {
        // Looked at first, since that is all there is to do nearly always.
        self.watched.load(Ordering::Relaxed) && self.watched.swap(false, Ordering::Relaxed)
    }

    fn forget(&self) {
        for note in [&self.pinned, &self.live, &self.punched, &self.hollow] {
            note.store(0, Ordering::Relaxed);
        }
        for note in [&self.witness, &self.since] {
            note.store(0, Ordering::Relaxed);
        }
        self.watched.store(false, Ordering::Relaxed);
    }
}

impl Descriptor {
    /// Opens the descriptor for a chunk, active. The caller has both to itself.
    pub(crate) fn open(
        &self,
        (chunk, layout): (NonNull<u8>, std::alloc::Layout),
        charged: usize,
        ground: Ground,
        usage: Use,
        owner: u32,
    ) {
        // Exposed provenance: addresses are packed into words and come back as pointers by `with_exposed_provenance`.
        self.base.store(chunk.as_ptr().expose_provenance(), Ordering::Relaxed);
        self.chunk[0].store(layout.size(), Ordering::Relaxed);
        self.chunk[1].store(layout.align(), Ordering::Relaxed);
        self.charged.store(charged, Ordering::Relaxed);
        self.reopen(ground, usage, owner);
    }

    /// Opens the descriptor again for the chunk that it has.
    pub(crate) fn reopen(&self, ground: Ground, usage: Use, owner: u32) {
        self.ground.store(ground.index() as u32, Ordering::Relaxed);
        self.usage.store(usage as u32, Ordering::Relaxed);
        self.owner.store(owner, Ordering::Relaxed);
        self.class.store(0, Ordering::Relaxed);
        self.walk_from.store(0, Ordering::Relaxed);
        self.sealed_bytes.store(0, Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
        self.packed.store(1, Ordering::Relaxed);
        self.life.begin();
        self.walk.forget();
        self.account.open();
    }

    /// Ends the active life.
    pub(crate) fn seal(&self, filled: &Filled, now: u64) -> (Outcome, Balance) {
        self.used.store(filled.used, Ordering::Relaxed);
        self.sealed_bytes.store(filled.used, Ordering::Relaxed);
        self.packed.store(filled.packed.max(1), Ordering::Relaxed);
        self.sealed_at.store(now, Ordering::Relaxed);
        self.account.seal(filled.live)
    }

    /// Opens a life that is sealed from the first.
    pub(crate) fn open_sealed(&self, used: usize, live: usize, now: u64) {
        self.used.store(used, Ordering::Relaxed);
        self.sealed_at.store(now, Ordering::Relaxed);
        self.account.open_sealed(live);
    }

    /// Notes that nothing is in it any more.
    pub(crate) fn vacate(&self) {
        self.walk.forget();
        self.account.open();
        self.usage.store(Use::Empty as u32, Ordering::Relaxed);
        self.life.end();
    }

    pub(crate) fn base(&self) -> usize {
        self.base.load(Ordering::Relaxed)
    }

    /// Where the first block begins.
    pub(crate) fn start(&self) -> usize {
        self.base() + self.ground().headers.column_bytes(self.chunk[0].load(Ordering::Relaxed))
    }

    /// Bytes that were used when it was sealed; 0 of one that was not filled and sealed.
    pub(crate) fn sealed_bytes(&self) -> usize {
        self.sealed_bytes.load(Ordering::Relaxed)
    }

    /// Where a walk begins, and where it ends, in bytes from the first block.
    pub(crate) fn walk_range(&self) -> Range<usize> {
        self.walk_from.load(Ordering::Relaxed)..self.used.load(Ordering::Relaxed)
    }

    /// Leaves out of every later walk what is dead for good at either end. Only who walks the arena, and claims it alone, may.
    pub(crate) fn shrink_walk(&self, range: Range<usize>) {
        self.walk_from.store(range.start, Ordering::Relaxed);
        self.used.store(range.end, Ordering::Relaxed);
    }

    /// Lets the caller, who claims the arena, walk its headers: one at a time, since who walks may join dead headers, and
    /// another would fall into their middle.
    pub(crate) fn begin_walk(&self) -> bool {
        // Acquire: pairs with the release in `end_walk`; the fillers of the last walker are visible.
        !self.walked.swap(true, Ordering::Acquire)
    }

    /// Ends a walk, before the claim is given back.
    pub(crate) fn end_walk(&self) {
        // Release: pairs with the acquire in `begin_walk`.
        self.walked.store(false, Ordering::Release);
    }

    pub(crate) fn packed(&self) -> usize {
        self.packed.load(Ordering::Relaxed)
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    pub(crate) fn class(&self) -> u8 {
        self.class.load(Ordering::Relaxed) as u8
    }

    pub(crate) fn set_class(&self, class: u8) {
        self.class.store(u32::from(class), Ordering::Relaxed);
    }

    /// A number that no other life of the descriptor has.
    pub(crate) fn life(&self) -> u32 {
        self.life.count()
    }

    pub(crate) fn sealed_at(&self) -> u64 {
        self.sealed_at.load(Ordering::Relaxed)
    }

    /// The chunk that this descriptor has.
    pub(crate) fn chunk(&self) -> (NonNull<u8>, std::alloc::Layout) {
        let [size, align] = self.chunk.each_ref().map(|part| part.load(Ordering::Relaxed));
        let layout = std::alloc::Layout::from_size_align(size, align).expect("it was made from a layout");
        (NonNull::new(ptr::with_exposed_provenance_mut(self.base())).expect("a chunk is not at zero"), layout)
    }

    #[inline]
    pub(crate) fn ground(&self) -> Ground {
        Ground::from_index(self.ground.load(Ordering::Relaxed) as usize)
    }

    #[inline]
    pub(crate) fn usage(&self) -> Use {
        match self.usage.load(Ordering::Relaxed) {
            0 => Use::Empty,
            1 => Use::Bumped,
            2 => Use::Reserve,
            _ => Use::Large,
        }
    }

    /// Whether there is a chunk.
    pub(crate) fn has_chunk(&self) -> bool {
        self.base() != 0
    }

    /// Notes that the chunk is given back.
    pub(crate) fn drop_chunk(&self) {
        self.base.store(0, Ordering::Relaxed);
    }

    /// Whether the chunk covers an address.
    pub(crate) fn covers(&self, address: usize) -> bool {
        address.wrapping_sub(self.base()) < self.chunk[0].load(Ordering::Relaxed)
    }

    /// Payload bytes of the large block, if there is one.
    pub(crate) fn large_payload(&self) -> Option<usize> {
        self.life.payload()
    }

    /// As [`large_payload`](Self::large_payload), for a query: see [`Life::payload_if`].
    pub(crate) fn large_payload_if<E>(&self, is_there: impl FnOnce() -> Result<bool, E>) -> Result<Option<usize>, E> {
        self.life.payload_if(is_there)
    }

    /// Changes the size of the large block, which the caller holds exclusively, or is making.
    pub(crate) fn set_large_payload(&self, payload: usize) {
        self.life.set_payload(payload);
    }

    /// Makes the descriptor a large block's: its header, its size, and from where on its chunk is zero.
    pub(crate) fn set_large(&self, header: Header, payload: usize, clean_from: usize) {
        self.header.store(header);
        self.set_clean_from(clean_from);
        self.set_large_payload(payload);
    }

    /// From where on, counted from the base, every byte of a large block's chunk is zero.
    pub(crate) fn clean_from(&self) -> usize {
        self.clean_from.load(Ordering::Relaxed)
    }

    pub(crate) fn set_clean_from(&self, offset: usize) {
        self.clean_from.store(offset, Ordering::Relaxed);
    }

    /// Bytes of the chunk that count as held from the source.
    pub(crate) fn charged(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }

    /// Notes how much of a large block's chunk counts as held: that far it is used.
    pub(crate) fn set_charged(&self, bytes: usize) {
        self.charged.store(bytes, Ordering::Relaxed);
        self.used.store(bytes, Ordering::Relaxed);
    }

    /// The header of the block whose payload is at `address`: the way to every header.
    ///
    /// # Safety
    ///
    /// The address is that of a block, or of a filler, which this descriptor's memory holds, and the caller has a share in
    /// that memory: the block's own bytes, a hold, a claim, or the arena being its own.
    #[inline]
    pub(crate) unsafe fn header_of(&self, address: usize) -> &AtomicHeader {
        if self.usage() == Use::Large {
            return &self.header;
        }
        // SAFETY: the caller's promise; the memory is no large block's.
        unsafe { self.header_in_arena(address) }
    }

    /// # Safety
    ///
    /// As for [`header_of`](Self::header_of), and it is no large block's.
    #[inline]
    unsafe fn header_in_arena(&self, address: usize) -> &AtomicHeader {
        // SAFETY: by the caller's promise a header lies there; headers are only ever accessed as atomics.
        unsafe { &*self.ground().headers.at(self.base(), address) }
    }

    /// The payload of the block or filler that begins at `start`: what to ask [`header_of`](Self::header_of) for.
    #[inline]
    pub(crate) fn payload_from(&self, start: usize) -> usize {
        start + self.ground().headers.lead()
    }

    /// Bytes that the block or filler with this header has of this memory, and of its account.
    #[inline]
    pub(crate) fn footprint(&self, header: Header) -> usize {
        if self.usage() == Use::Large {
            return self.charged();
        }
        self.ground().headers.footprint(header)
    }

    /// Payload bytes of the block at `address`.
    ///
    /// # Safety
    ///
    /// As for [`header_of`](Self::header_of).
    #[inline]
    pub(crate) unsafe fn payload_bytes(&self, address: usize) -> usize {
        if self.usage() == Use::Large {
            return self.large_payload().expect("a large block has a size");
        }
        // SAFETY: the caller's promise; the memory is no large block's.
        unsafe { self.header_in_arena(address) }.load().payload()
    }
}

/// A descriptor for as long as its shuffler's core lives, which is as long as this can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ArenaRef(NonNull<Descriptor>);

// SAFETY: a descriptor is all atomics but for `id` and `next`, which never change after it is published.
unsafe impl Send for ArenaRef {}
// SAFETY: as above.
unsafe impl Sync for ArenaRef {}

impl ArenaRef {
    /// # Safety
    ///
    /// The descriptor came from a [`List`] that outlives every use of the result.
    pub(crate) unsafe fn from_raw(descriptor: NonNull<Descriptor>) -> Self {
        Self(descriptor)
    }

    pub(crate) fn as_ptr(self) -> *mut Descriptor {
        self.0.as_ptr()
    }
}

impl Deref for ArenaRef {
    type Target = Descriptor;

    #[inline]
    fn deref(&self) -> &Descriptor {
        // SAFETY: descriptors are freed with the list in the core, and references to arenas do not leave the core.
        unsafe { self.0.as_ref() }
    }
}

/// Every descriptor of a shuffler, in a list that only grows.
#[derive(Debug)]
pub(crate) struct List {
    head: crate::primitive::sync::atomic::AtomicPtr<Descriptor>,
    ids: AtomicU32,
}

impl List {
    pub(crate) fn new() -> Self {
        Self { head: crate::primitive::sync::atomic::AtomicPtr::new(ptr::null_mut()), ids: AtomicU32::new(0) }
    }

    /// Makes a descriptor that is in no use.
    pub(crate) fn add(&self) -> ArenaRef {
        let descriptor = Box::into_raw(Box::new(Descriptor {
            account: Account::new(),
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            base: AtomicUsize::new(0),
            ground: AtomicU32::new(0),
            usage: AtomicU32::new(Use::Empty as u32),
            walk_from: AtomicUsize::new(0),
            sealed_bytes: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            packed: AtomicUsize::new(1),
            chunk: [AtomicUsize::new(0), AtomicUsize::new(1)],
            header: AtomicHeader::new(Header::filler(HEADER_BYTES, State::Dead)),
            charged: AtomicUsize::new(0),
            clean_from: AtomicUsize::new(0),
            life: Life::new(),
            owner: AtomicU32::new(0),
            class: AtomicU32::new(0),
            sealed_at: AtomicU64::new(0),
            walk: LastWalk::default(),
            walked: AtomicBool::new(false),
            next: ptr::null(),
        }));
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the descriptor is this call's own until the exchange below succeeds.
            unsafe { (*descriptor).next = head };
            // Release: pairs with the acquire in `iter`.
            match self.head.compare_exchange(head, descriptor, Ordering::Release, Ordering::Relaxed) {
                // SAFETY: just made, so not null; the list frees it when the core goes.
                Ok(_) => return unsafe { ArenaRef::from_raw(NonNull::new_unchecked(descriptor)) },
                Err(found) => head = found,
            }
        }
    }

    /// All of them, newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ArenaRef> + use<> {
        // Acquire: pairs with the release in `add`.
        let mut next: *const Descriptor = self.head.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: descriptors are freed only with the list.
            let arena = unsafe { ArenaRef::from_raw(NonNull::new(next.cast_mut())?) };
            next = arena.next;
            Some(arena)
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ids.load(Ordering::Relaxed) as usize
    }

    /// Bytes of the descriptors.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * size_of::<Descriptor>()
    }
}

impl Drop for List {
    fn drop(&mut self) {
        let mut next: *mut Descriptor = *self.head.get_mut();
        while !next.is_null() {
            // SAFETY: `add` made it from a box, and the core that used it is going.
            let owned = unsafe { Box::from_raw(next) };
            next = owned.next.cast_mut();
        }
    }
}

// SAFETY: see `ArenaRef`.
unsafe impl Send for List {}
// SAFETY: see `ArenaRef`.
unsafe impl Sync for List {}
