//! What is known of an arena without touching it.
//!
//! A descriptor lives as long as its shuffler and is used again for other memory, so a thread that comes late always finds
//! one to ask, and learns from its [`Account`] that there is nothing to claim. Its other fields are written by whoever has
//! the arena to itself, before an account is opened or sealed, and read under a claim or by its owner.

use super::account::{Account, Outcome};
use super::ground::Ground;
use super::header::{AtomicHeader, HEADER_BYTES, Header, State};
use super::shard::Filled;
use crate::primitive::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::ops::Deref;
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

/// See the module's documentation.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Descriptor {
    pub(crate) account: Account,
    pub(crate) id: u32,
    base: AtomicUsize,
    /// The index of a [`Ground`].
    ground: AtomicU32,
    usage: AtomicU32,
    /// Bytes from the first block to where the bumping ended; where a walk ends.
    used: AtomicUsize,
    /// Bytes that blocks filled, or could have filled but for the gaps before aligned ones and the end that was too short.
    packed: AtomicUsize,
    /// Live bytes below which it is worth emptying.
    sparse_below: AtomicUsize,
    /// Bytes and alignment of the chunk.
    chunk: [AtomicUsize; 2],
    /// Of a large block.
    pub(crate) header: AtomicHeader,
    payload: AtomicUsize,
    /// Counts the lives of the descriptor.
    life: AtomicU32,
    owner: AtomicU32,
    /// Milliseconds from the shuffler's start to the sealing.
    sealed_at: AtomicU64,
    pub(crate) walk: LastWalk,
    next: *const Descriptor,
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
}

impl Descriptor {
    /// Opens the descriptor for a chunk, active. The caller has both to itself.
    pub(crate) fn open(&self, chunk: NonNull<u8>, layout: std::alloc::Layout, ground: Ground, usage: Use, owner: u32) {
        // Exposed provenance: addresses are packed into words and come back as pointers by `with_exposed_provenance`.
        self.base.store(chunk.as_ptr().expose_provenance(), Ordering::Relaxed);
        self.chunk[0].store(layout.size(), Ordering::Relaxed);
        self.chunk[1].store(layout.align(), Ordering::Relaxed);
        self.reopen(ground, usage, owner);
    }

    /// Opens the descriptor again for the chunk that it has.
    pub(crate) fn reopen(&self, ground: Ground, usage: Use, owner: u32) {
        self.ground.store(ground.index() as u32, Ordering::Relaxed);
        self.usage.store(usage as u32, Ordering::Relaxed);
        self.owner.store(owner, Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
        self.packed.store(1, Ordering::Relaxed);
        self.sparse_below.store(0, Ordering::Relaxed);
        self.life.fetch_add(1, Ordering::Relaxed);
        self.walk.pinned.store(0, Ordering::Relaxed);
        self.walk.witness.store(0, Ordering::Relaxed);
        self.walk.live.store(0, Ordering::Relaxed);
        self.account.open();
    }

    /// Ends the active life.
    pub(crate) fn seal(&self, filled: &Filled, sparse_below: usize, now: u64) -> Outcome {
        self.used.store(filled.used, Ordering::Relaxed);
        self.packed.store(filled.packed.max(1), Ordering::Relaxed);
        self.sparse_below.store(sparse_below, Ordering::Relaxed);
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
        self.account.open();
        self.usage.store(Use::Empty as u32, Ordering::Relaxed);
    }

    pub(crate) fn base(&self) -> usize {
        self.base.load(Ordering::Relaxed)
    }

    /// Where the first block begins, and a walk.
    pub(crate) fn start(&self) -> usize {
        self.base() + self.ground().headers.column_bytes(self.chunk[0].load(Ordering::Relaxed))
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn packed(&self) -> usize {
        self.packed.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn sparse_below(&self) -> usize {
        self.sparse_below.load(Ordering::Relaxed)
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    pub(crate) fn life(&self) -> u32 {
        self.life.load(Ordering::Relaxed)
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

    /// Payload bytes of the large block.
    pub(crate) fn large_payload(&self) -> usize {
        // Acquire: pairs with the release in `set_large`; who sees the size of a later block sees that the earlier one's life
        // is over.
        self.payload.load(Ordering::Acquire)
    }

    /// Makes the descriptor a large block's: its header and its size.
    pub(crate) fn set_large(&self, header: Header, payload: usize) {
        self.header.store(header);
        // Release: pairs with the acquire in `large_payload`.
        self.payload.store(payload, Ordering::Release);
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
            return self.chunk[0].load(Ordering::Relaxed);
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
            return self.large_payload();
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
            used: AtomicUsize::new(0),
            packed: AtomicUsize::new(1),
            sparse_below: AtomicUsize::new(0),
            chunk: [AtomicUsize::new(0), AtomicUsize::new(1)],
            header: AtomicHeader::new(Header::filler(HEADER_BYTES, State::Dead)),
            payload: AtomicUsize::new(0),
            life: AtomicU32::new(0),
            owner: AtomicU32::new(0),
            sealed_at: AtomicU64::new(0),
            walk: LastWalk::default(),
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

    /// Bytes of the descriptors.
    pub(crate) fn bytes(&self) -> usize {
        self.ids.load(Ordering::Relaxed) as usize * size_of::<Descriptor>()
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
