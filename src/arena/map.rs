//! From an address to the descriptor of its arena: a radix tree of two levels over the upper bits of the address.
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

type Leaf = AtomicPtr<Descriptor>;
type Branch = AtomicPtr<Leaf>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ArenaMap {
    root: AtomicPtr<Branch>,
    /// Arena bytes are 2 to this power.
    arena_shift: u32,
    leaf_bits: u32,
}

impl ArenaMap {
    pub(crate) fn new(arena_bytes: usize) -> Self {
        let arena_shift = arena_bytes.trailing_zeros();
        Self { root: AtomicPtr::new(ptr::null_mut()), arena_shift, leaf_bits: (ADDRESS_BITS - arena_shift) / 2 }
    }

    #[inline]
    fn indexes(&self, address: usize) -> (usize, usize) {
        let key = address >> self.arena_shift;
        (key >> self.leaf_bits, key & ((1 << self.leaf_bits) - 1))
    }

    fn root_layout(&self) -> Layout {
        let bits = ADDRESS_BITS - self.arena_shift - self.leaf_bits;
        Layout::array::<Branch>(1 << bits).expect("at most 2^16 pointers").align_to(4096).expect("a power of two")
    }

    fn leaf_layout(&self) -> Layout {
        let layout = Layout::array::<Leaf>(1 << self.leaf_bits).expect("at most 2^16 pointers");
        layout.align_to(4096).expect("a power of two")
    }

    /// The arena that an address was last in, if any.
    #[inline]
    pub(crate) fn find(&self, address: usize) -> Option<ArenaRef> {
        let (branch, leaf) = self.indexes(address);
        // Acquire, all three: pair with the releases in `set` and `node`.
        let root = NonNull::new(self.root.load(Ordering::Acquire))?;
        // SAFETY: an address of 48 bits has a branch within the root, which stays until the core goes.
        let leaves = NonNull::new(unsafe { root.add(branch).as_ref() }.load(Ordering::Acquire))?;
        // SAFETY: as above, within the leaves.
        let descriptor = NonNull::new(unsafe { leaves.add(leaf).as_ref() }.load(Ordering::Acquire))?;
        // SAFETY: `set` stored it from an `ArenaRef` of the same core.
        Some(unsafe { ArenaRef::from_raw(descriptor) })
    }

    /// Makes sure that `set` can be called for an address.
    pub(crate) fn prepare(&self, address: usize, supply: &Supply) -> Result<(), AllocError> {
        let root = Self::node(&self.root, self.root_layout(), supply)?;
        // SAFETY: as in `find`.
        Self::node(unsafe { root.add(self.indexes(address).0).as_ref() }, self.leaf_layout(), supply)?;
        Ok(())
    }

    fn node<N>(place: &AtomicPtr<N>, layout: Layout, supply: &Supply) -> Result<NonNull<N>, AllocError> {
        if let Some(node) = NonNull::new(place.load(Ordering::Acquire)) {
            return Ok(node);
        }
        let made = supply.acquire_zeroed(layout)?.cast::<N>();
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

    /// Makes `arena` the one that `address` is in. The address was prepared.
    pub(crate) fn set(&self, address: usize, arena: ArenaRef) {
        let (branch, leaf) = self.indexes(address);
        let root = NonNull::new(self.root.load(Ordering::Acquire)).expect("prepared");
        // SAFETY: as in `find`.
        let leaves = unsafe { root.add(branch).as_ref() }.load(Ordering::Acquire);
        // SAFETY: as in `find`. Release: pairs with the acquire there; the descriptor's fields are visible.
        unsafe { NonNull::new(leaves).expect("prepared").add(leaf).as_ref() }.store(arena.as_ptr(), Ordering::Release);
    }

    /// Gives every node back. Nobody may use the map any more.
    pub(crate) fn dissolve(&mut self, supply: &Supply) {
        let Some(root) = NonNull::new(*self.root.get_mut()) else { return };
        let branches = self.root_layout().size() / size_of::<Branch>();
        for branch in 0..branches {
            // SAFETY: within the root.
            if let Some(leaves) = NonNull::new(unsafe { root.add(branch).as_ref() }.load(Ordering::Relaxed)) {
                // SAFETY: `node` made it with this layout; the core is going, so nobody uses it.
                unsafe { supply.release(leaves.cast(), self.leaf_layout()) };
            }
        }
        // SAFETY: as above.
        unsafe { supply.release(root.cast(), self.root_layout()) };
        *self.root.get_mut() = ptr::null_mut();
    }
}
