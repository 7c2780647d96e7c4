//! From an address to the descriptor of its arena: a radix tree of three levels over the upper bits of the address.
//!
//! Its nodes come zeroed from the supply, are made at first use and stay until the core goes.

use super::descriptor::{ArenaRef, Descriptor};
use super::supply::Supply;
use crate::error::AllocError;
use crate::primitive::sync::atomic::{AtomicPtr, Ordering};
use std::alloc::Layout;
use std::ptr::{self, NonNull};

/// Addresses have this many bits: the contract of a source.
const ADDRESS_BITS: u32 = 48;
const LEVELS: u32 = 3;

/// A place in a node: the next node, or in a node of the lowest level a descriptor.
type Place = AtomicPtr<()>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ArenaMap {
    root: Place,
    /// Arena bytes are 2 to this power.
    arena_shift: u32,
    /// A node has 2 to this power places.
    node_bits: u32,
}

/// The place of an address, ready to be set.
#[derive(Debug)]
pub(crate) struct Prepared<'a>(&'a Place);

impl Prepared<'_> {
    /// Makes `arena` the one that the address is in.
    pub(crate) fn set(self, arena: ArenaRef) {
        // Release: pairs with the acquire in `find`; the descriptor's fields are visible.
        self.0.store(arena.as_ptr().cast(), Ordering::Release);
    }
}

impl ArenaMap {
    pub(crate) fn new(arena_bytes: usize) -> Self {
        let arena_shift = arena_bytes.trailing_zeros();
        let node_bits = (ADDRESS_BITS - arena_shift).div_ceil(LEVELS);
        Self { root: AtomicPtr::new(ptr::null_mut()), arena_shift, node_bits }
    }

    /// The place of an address in the node of a level, counted from the leaves.
    #[inline]
    fn index(&self, address: usize, level: u32) -> usize {
        (address >> (self.arena_shift + level * self.node_bits)) & ((1 << self.node_bits) - 1)
    }

    fn node_layout(&self) -> Layout {
        let layout = Layout::array::<Place>(1 << self.node_bits).expect("at most 2^11 pointers");
        layout.align_to(4096).expect("a power of two").pad_to_align()
    }

    /// The place of an address in a node.
    ///
    /// # Safety
    ///
    /// The node is one of this map's.
    #[inline]
    unsafe fn place(&self, node: NonNull<()>, address: usize, level: u32) -> &Place {
        // SAFETY: a node has 2^node_bits places, and stays until the map is dissolved.
        unsafe { node.cast::<Place>().add(self.index(address, level)).as_ref() }
    }

    /// The arena that an address was last in, if any.
    #[inline]
    pub(crate) fn find(&self, address: usize) -> Option<ArenaRef> {
        // Acquire, here and below: pairs with the releases in `Prepared::set` and `child`.
        let mut node = NonNull::new(self.root.load(Ordering::Acquire))?;
        for level in (0..LEVELS).rev() {
            // SAFETY: places of the root and of the levels below it lead to nodes of this map; the lowest to descriptors.
            node = NonNull::new(unsafe { self.place(node, address, level) }.load(Ordering::Acquire))?;
        }
        // SAFETY: `set` stored it from an `ArenaRef` of the same core.
        Some(unsafe { ArenaRef::from_raw(node.cast::<Descriptor>()) })
    }

    /// The place of an address, its nodes made if there are none.
    pub(crate) fn prepare(&self, address: usize, supply: &Supply) -> Result<Prepared<'_>, AllocError> {
        let mut node = self.child(&self.root, supply)?;
        for level in (1..LEVELS).rev() {
            // SAFETY: as in `find`.
            node = self.child(unsafe { self.place(node, address, level) }, supply)?;
        }
        // SAFETY: as in `find`.
        Ok(Prepared(unsafe { self.place(node, address, 0) }))
    }

    /// The node that a place leads to, made if there is none.
    fn child(&self, place: &Place, supply: &Supply) -> Result<NonNull<()>, AllocError> {
        if let Some(node) = NonNull::new(place.load(Ordering::Acquire)) {
            return Ok(node);
        }
        let layout = self.node_layout();
        let made = supply.acquire_zeroed(layout, 0)?.cast::<()>();
        // Release: pairs with the acquire in `find`; the zeros are visible. Acquire: another thread's node may be found.
        match place.compare_exchange(ptr::null_mut(), made.as_ptr(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(made),
            Err(found) => {
                // SAFETY: made above with this layout, and nobody else has seen it.
                unsafe { supply.release(made.cast(), layout) };
                Ok(NonNull::new(found).expect("the exchange failed because it was not null"))
            }
        }
    }

    /// Gives every node back. Nobody may use the map any more.
    pub(crate) fn dissolve(&mut self, supply: &Supply) {
        if let Some(root) = NonNull::new(std::mem::replace(self.root.get_mut(), ptr::null_mut())) {
            self.release(root, LEVELS - 1, supply);
        }
    }

    fn release(&self, node: NonNull<()>, level: u32, supply: &Supply) {
        for index in 0..if level > 0 { 1_usize << self.node_bits } else { 0 } {
            // SAFETY: within the node; the map is going, so nobody else uses it.
            let child = unsafe { node.cast::<Place>().add(index).as_ref() }.load(Ordering::Relaxed);
            if let Some(child) = NonNull::new(child) {
                self.release(child, level - 1, supply);
            }
        }
        // SAFETY: `child` made it with this layout.
        unsafe { supply.release(node.cast(), self.node_layout()) };
    }
}
