//! Reading without a shared write: epoch guards over `Versioned` blocks.

use crate::engine::Core;
use crate::engine::lease::with_shard;
use crate::error::AccessError;
use crate::handle::{RawHandle, Versioned};
use crate::primitive::sync::atomic::Ordering;
use crate::table::{Entry, PageDirectory};
use crate::types::Stored;
use crossbeam_epoch::Guard;
use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZero;

/// Types without interior mutability inline: a value that is only reached through `&T` never changes its own bytes.
///
/// A `Versioned` block is copied while others read it, which is no race only because of this. What a value points to may
/// change: the copy points to the same.
///
/// # Safety
///
/// No byte of a value changes through a shared reference: no `Cell`, no atomic, no lock among its fields, at any depth short
/// of a pointer.
pub unsafe trait Frozen {}

macro_rules! frozen {
    ($($({$($parameters:tt)*})? $type:ty;)*) => {$(
        // SAFETY: the type is plain data or owns its contents through pointers, without interior mutability inline.
        unsafe impl $(<$($parameters)*>)? Frozen for $type {}
    )*};
}

frozen! {
    (); bool; char; String; str;
    u8; u16; u32; u64; u128; usize; i8; i16; i32; i64; i128; isize; f32; f64;
    std::time::Duration; std::time::Instant; std::time::SystemTime;
    std::net::Ipv4Addr; std::net::Ipv6Addr; std::net::IpAddr; std::net::SocketAddr;
    std::path::PathBuf; std::ffi::OsString; std::ffi::CString;
    {T: ?Sized} Box<T>;
    {T: ?Sized} std::sync::Arc<T>;
    {T: ?Sized} &'static T;
    {T} Vec<T>;
    {T} std::collections::VecDeque<T>;
    {T} std::collections::BTreeSet<T>;
    {T} std::collections::BinaryHeap<T>;
    {K, V} std::collections::BTreeMap<K, V>;
    {T: ?Sized} std::marker::PhantomData<T>;
}

// SAFETY: an array is its elements, which are frozen.
unsafe impl<T: Frozen, const N: usize> Frozen for [T; N] {}
// SAFETY: a slice is its elements, which are frozen.
unsafe impl<T: Frozen> Frozen for [T] {}
// SAFETY: an option is its value, which is frozen, and a tag.
unsafe impl<T: Frozen> Frozen for Option<T> {}
// SAFETY: a result is one of its values, which are frozen, and a tag.
unsafe impl<T: Frozen, E: Frozen> Frozen for Result<T, E> {}
// SAFETY: a map is its hasher, which is frozen, and pointers.
unsafe impl<K, V, S: Frozen> Frozen for std::collections::HashMap<K, V, S> {}
// SAFETY: a set is its hasher, which is frozen, and pointers.
unsafe impl<T, S: Frozen> Frozen for std::collections::HashSet<T, S> {}
// SAFETY: two keys.
unsafe impl Frozen for std::hash::RandomState {}

macro_rules! frozen_nonzero {
    ($($number:ty)*) => {$(
        // SAFETY: a plain number.
        unsafe impl Frozen for NonZero<$number> {}
    )*};
}

frozen_nonzero! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize }

macro_rules! frozen_tuples {
    ($($($name:ident)+;)*) => {$(
        // SAFETY: a tuple is its fields, which are frozen.
        unsafe impl<$($name: Frozen),+> Frozen for ($($name,)+) {}
    )*};
}

frozen_tuples! { A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H; }

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
}

impl<'a> Reader<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        let guard = with_shard(core, |shard, _, _| shard.epoch(&core.collector).pin());
        Self { core, directory: core.table.directory(), guard: ManuallyDrop::new(guard) }
    }

    /// The entry that a handle names.
    #[inline]
    fn entry(&self, raw: RawHandle) -> Result<&'a Entry, AccessError> {
        if !raw.version().is_multiple_of(2)
            && let Some(entry) = self.directory.entry(raw.slot())
        {
            return Ok(entry);
        }
        Self::entry_anew(self.core, raw)
    }

    /// As [`entry`](Self::entry): the table may have grown since the reader was made.
    #[cold]
    #[inline(never)]
    fn entry_anew(core: &'a Core, raw: RawHandle) -> Result<&'a Entry, AccessError> {
        core.entry(raw)
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
        let entry = self.entry(raw)?;
        // Version, word, version: the word was the life's own if the life had begun before and had not ended after. Acquire,
        // both loads of the version: they pair with the release in `begin_life`.
        if entry.version() != raw.version() {
            return Err(Core::outdated(raw, entry));
        }
        let word = entry.word();
        if !word.is_open() || entry.version() != raw.version() {
            return Err(AccessError::Stale);
        }
        // SAFETY: the block was linked while this reader's epoch was pinned, so neither it nor its arena goes before the
        // reader does; a `Versioned<T>` is only made for a block of `T`, which is frozen, so copying it is no race.
        Ok(unsafe { self.core.value_at::<T>(word.address()).as_ref() })
    }

    /// Lets go of everything that was kept for this reader so far, and starts anew.
    pub fn repin(&mut self) {
        // The epoch advances once past a reader that is pinned, and garbage waits for two advances.
        for _ in 0..3 {
            self.guard.repin();
            self.guard.flush();
        }
        self.directory = self.core.table.directory();
        self.tell();
    }

    /// Tells the compactor that something which waits may be ready. (If this look comes too early to see what waits, the
    /// compactor's own looks, a few after each ring, find the reader gone.)
    #[inline]
    fn tell(&self) {
        if self.core.deferred.waiting.load(Ordering::Relaxed) > 0 {
            self.core.notify();
        }
    }
}

impl Drop for Reader<'_> {
    // Inline, so that a reader whose address nobody else is given need not lie in memory.
    #[inline]
    fn drop(&mut self) {
        // SAFETY: not used after this, and dropped nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.guard) };
        self.tell();
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}
