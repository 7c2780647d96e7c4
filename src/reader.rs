//! Reading without a shared write: epoch guards over `Versioned` blocks.

use crate::arena::Headers;
use crate::engine::Core;
use crate::engine::lease::with_shard;
use crate::error::AccessError;
use crate::frozen::Frozen;
use crate::handle::{RawHandle, Versioned};
use crate::seats::Seat;
use crate::table::{Location, PageDirectory};
use crate::types::Stored;
use crossbeam_epoch::Guard;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;

/// A look at the `Versioned` blocks of a shuffler. Made by [`Shuffler::reader`](crate::Shuffler::reader).
///
/// While it lives, what its `get` returned stays readable and unchanged, and memory that such blocks leave is kept. So it
/// should not be kept long; [`repin`](Self::repin) lets go of what was kept so far.
#[must_use = "a reader that is dropped at once sees nothing"]
pub struct Reader<'a> {
    core: &'a Core,
    /// As it was when the reader was made: so that one `get` after another finds it in registers.
    directory: PageDirectory<'a>,
    guard: ManuallyDrop<Guard>,
    seat: &'a Seat,
}

impl<'a> Reader<'a> {
    // Inline, so that a reader whose address nobody is given lies in registers.
    #[inline]
    pub(crate) fn new(core: &'a Core) -> Self {
        let (guard, seat) = Self::enter(core);
        Self { core, directory: core.table.directory(), guard: ManuallyDrop::new(guard), seat }
    }

    fn enter(core: &'a Core) -> (Guard, &'a Seat) {
        with_shard(core, |shard, _, _| {
            let (guard, seat) = shard.epoch(&core.collector, &core.seats).enter();
            // SAFETY: the core keeps every seat for as long as it is there.
            (guard, unsafe { &*Arc::as_ptr(seat) })
        })
    }

    /// The value of a block, readable until this reader is dropped.
    ///
    /// # Errors
    ///
    /// `Stale` after a free, `Invalid` for a handle that this shuffler never gave out.
    #[inline]
    pub fn get<T>(&self, handle: Versioned<T>) -> Result<&T, AccessError>
    where
        T: ?Sized + Stored + Frozen + Send + Sync,
    {
        let raw = handle.raw();
        let entry = self.directory.entry(raw.slot());
        let location = match entry.and_then(|entry| entry.read(raw.version())) {
            Some(location) => location,
            None => Self::find_anew(self.core, raw)?,
        };
        // SAFETY: the block was linked while this reader's epoch was pinned, so neither it nor its arena goes before the
        // reader does; a `Versioned<T>` is only made for a block of `T`, which is frozen, so copying it is no race.
        Ok(unsafe { self.core.value_at::<T>(location.address()).as_ref() })
    }

    /// Looks again, since the table may have grown since the reader was made, or says why there is nothing to see.
    #[cold]
    #[inline(never)]
    fn find_anew(core: &Core, raw: RawHandle) -> Result<Location, AccessError> {
        let entry = core.entry(raw)?;
        entry.read(raw.version()).ok_or_else(|| Core::outdated(raw, entry))
    }

    /// As [`get`](Self::get), for a block that probably lies right behind `before` in memory: what was read before it, by who goes
    /// through blocks in the order that [`shuffle_along`](crate::Shuffler::shuffle_along) put them in.
    ///
    /// The result is the same wherever the block lies. But where the guess is right, the processor goes on to the block, and from
    /// there to the next one, before it has the entry that says so: a list is walked several times as fast as by waiting
    /// for one entry after the other. Where it is wrong, a few nanoseconds are lost.
    ///
    /// ```
    /// use memory_shuffler::{Frozen, Shuffler, Versioned};
    ///
    /// struct Node {
    ///     number: u64,
    ///     next: Option<Versioned<Node>>,
    /// }
    ///
    /// // SAFETY: a number and a handle, neither of which changes by itself.
    /// unsafe impl Frozen for Node {}
    ///
    /// let shuffler = Shuffler::new();
    /// let mut first = shuffler.create_versioned(Node { number: 0, next: None }).unwrap();
    /// let mut order = vec![first];
    /// for number in 1..1000 {
    ///     first = shuffler.create_versioned(Node { number, next: Some(first) }).unwrap();
    ///     order.insert(0, first);
    /// }
    /// shuffler.shuffle_along(order);
    ///
    /// let reader = shuffler.reader();
    /// let mut node = reader.get(first).unwrap();
    /// let mut sum = node.number;
    /// while let Some(next) = node.next {
    ///     node = reader.get_after(node, next).unwrap();
    ///     sum += node.number;
    /// }
    /// assert_eq!(sum, 999 * 1000 / 2);
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    #[inline]
    pub fn get_after<B, T>(&self, before: &B, handle: Versioned<T>) -> Result<&T, AccessError>
    where
        B: ?Sized,
        T: Stored + Frozen + Send + Sync,
    {
        let found = self.get(handle)?;
        let guess = guess_after::<B, T>(before);
        // Two copies, which the compiler does not know to be equal, or it would use the address that was found.
        let (guess, same) = (unknown(guess), unknown(guess));
        if guess != ptr::from_ref(found).addr() {
            return Ok(elsewhere(found));
        }
        // SAFETY: the same address as that of the value that was found, with the provenance that addresses of blocks have.
        Ok(unsafe { &*ptr::with_exposed_provenance(same) })
    }

    /// Lets go of everything that was kept for this reader so far, and starts anew.
    pub fn repin(&mut self) {
        // The epoch advances once past a reader that is pinned, and garbage waits for two advances.
        for _ in 0..3 {
            self.guard.repin();
            self.guard.flush();
        }
        self.seat.renew();
        self.directory = self.core.table.directory();
        self.tell();
    }

    /// Tells the compactor that something which waits may be ready. (If this look comes too early to see what waits, the
    /// compactor's own looks, a few after each ring, find the reader gone.)
    #[inline]
    fn tell(&self) {
        if self.core.is_waiting() {
            self.core.notify();
        }
    }
}

/// Where a `T` lies if its block is the next one in memory.
#[inline]
fn guess_after<B: ?Sized, T>(before: &B) -> usize {
    let headers = Headers::of(align_of::<T>());
    // The room of a payload counts its header, which lies before it. (`before` may be anything, so anything may come of this.)
    let top = ptr::from_ref(before).addr().wrapping_add(headers.room(size_of_val(before)) - headers.lead());
    headers.payload_behind(top, align_of::<T>())
}

/// The same number, of which the compiler knows nothing, not even that it is the same the next time.
#[inline]
fn unknown(mut number: usize) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: no instruction at all. (It is not called pure, so every one of them is another to the compiler.)
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) number, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        number = std::hint::black_box(number);
    }
    number
}

/// Something to do, so that what leads here is a branch, which the processor predicts. A conditional move would wait.
#[cold]
#[inline(never)]
fn elsewhere<T>(found: &T) -> &T {
    unknown(0);
    found
}

impl Drop for Reader<'_> {
    // Inline, so that a reader whose address nobody else is given need not lie in memory.
    #[inline]
    fn drop(&mut self) {
        // SAFETY: not used after this, and dropped nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.guard) };
        if self.seat.leave() {
            self.core.seats.give_back(self.seat);
        }
        self.tell();
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shuffler, Trigger};

    /// The share of blocks that are where they are guessed to be, one after the other.
    fn guessed<T: Stored + Frozen + Clone + Send + Sync + 'static>(value: T) -> f64 {
        let shuffler = Shuffler::builder().trigger(Trigger::Manual).build().unwrap();
        let mut blocks: Vec<_> = (0..10_000).map(|_| shuffler.create_versioned(value.clone()).unwrap()).collect();
        blocks.reverse();
        shuffler.shuffle_along(blocks.iter().copied());
        let reader = shuffler.reader();
        let values: Vec<&T> = blocks.iter().map(|&block| reader.get(block).unwrap()).collect();
        let right = |pair: &[&T]| guess_after::<T, T>(pair[0]) == ptr::from_ref(pair[1]).addr();
        values.windows(2).filter(|pair| right(pair)).count() as f64 / values.len() as f64
    }

    #[repr(align(64))]
    #[derive(Clone)]
    struct Line(#[allow(dead_code, reason = "it is there to take room")] [u8; 70]);
    // SAFETY: bytes do not change by themselves.
    unsafe impl Frozen for Line {}

    #[repr(align(1024))]
    #[derive(Clone)]
    struct Wide(#[allow(dead_code, reason = "as above")] [u8; 1500]);
    // SAFETY: as above.
    unsafe impl Frozen for Wide {}

    #[test]
    fn the_guess_is_right_in_an_order_that_was_asked_for() {
        for share in [guessed(()), guessed(7_u8), guessed([1_u64; 8]), guessed(String::new()), guessed(Line([0; 70]))] {
            assert!(share > 0.99, "{share}");
        }
        // Some five hundred of them fill an arena.
        let share = guessed(Wide([0; 1500]));
        assert!(share > 0.99, "{share}");
    }
}
