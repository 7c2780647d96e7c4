//! The public face: documents, checks, delegates.

use crate::arena::source::ArenaSource;
use crate::builder::{Budget, Builder, Config};
use crate::compact::{Duty, Explanation, Progress, ShuffleReport};
use crate::engine::access::Freed;
use crate::engine::allocate::Building;
use crate::engine::{Core, Life};
use crate::error::{AccessError, AllocError, Rejected, ResizeError};
use crate::frozen::Frozen;
use crate::handle::{Handle, RawHandle, Versioned};
use crate::owned::Owned;
use crate::reader::Reader;
use crate::rent::{OwnedRent, Rent, RentMut};
use crate::stats::{ArenaInfo, BlockInfo, Stats};
use crate::table::numbers::PageNumbers;
use crate::table::{Entry, Hold};
use crate::types::{self, Stored, StoredLayout, TypeInfo};
use bytemuck::Zeroable;
use std::alloc::Layout;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::primitive::sync::atomic::Ordering;

/// A compacting allocator that threads share.
///
/// A clone is another reference to the same shuffler. When the last one is dropped, every block that nobody holds is
/// dropped, and the memory goes back to its source.
#[derive(Clone)]
#[doc(alias("init", "deinit"))]
pub struct Shuffler {
    core: Arc<Core>,
    /// Dropped with the last clone; dropping it ends the blocks.
    #[expect(dead_code, reason = "it is there to be dropped")]
    life: Arc<Life>,
}

impl Shuffler {
    /// A shuffler of the default configuration. Nothing is mapped and no thread is started until they are needed.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build().expect("the default configuration makes sense")
    }

    /// A builder, to choose another configuration.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn with_config(config: Config, source: Box<dyn ArenaSource>) -> Self {
        Self::with_numbers(config, source, PageNumbers::process())
    }

    pub(crate) fn with_numbers(config: Config, source: Box<dyn ArenaSource>, numbers: &'static PageNumbers) -> Self {
        let core = Core::new(config, source, numbers);
        Self { life: Arc::new(Life { core: core.clone() }), core }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }
}

/// # Allocate
impl Shuffler {
    /// Moves a value into a block of its own.
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells; the value comes back in [`Rejected`].
    #[inline]
    pub fn create<T: Send + 'static>(&self, value: T) -> Result<Handle<T>, Rejected<T>> {
        self.create_as(<T as StoredLayout>::PLAIN, true, value).map(Handle::from_raw)
    }

    /// As [`create`](Self::create), for a value that is read far more often than it ends: reads through
    /// [`reader`](Self::reader) write no shared memory at all.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create), and `ReadersBehind` if readers hold more back than the
    /// [limit](Builder::reader_limit) allows.
    #[inline]
    pub fn create_versioned<T: Frozen + Send + Sync + 'static>(&self, value: T) -> Result<Versioned<T>, Rejected<T>> {
        // Whatever is not placed at once goes the way that looks into it.
        self.create_as(<T as StoredLayout>::VERSIONED, !self.core.is_behind(), value).map(Versioned::from_raw)
    }

    #[inline(always)]
    fn create_as<T>(&self, info: &'static TypeInfo, at_once: bool, value: T) -> Result<RawHandle, Rejected<T>> {
        let placed = if at_once { self.core.place(info, size_of::<T>(), align_of::<T>()) } else { None };
        let Some(placed) = placed else {
            // Through a closure, which the value is copied into: so only the cold path gives it an address.
            return cold(move || self.create_slow(info, value));
        };
        // SAFETY: the room was made for a `T`, and is the caller's own until the block is linked.
        unsafe { placed.payload.cast::<T>().write(value) };
        Ok(self.core.link(placed))
    }

    fn create_slow<T>(&self, info: &'static TypeInfo, value: T) -> Result<RawHandle, Rejected<T>> {
        match self.core.reserve(info, size_of::<T>(), align_of::<T>(), false) {
            Ok(building) => {
                // SAFETY: the room was made for a `T`, and is the building block's own.
                unsafe { building.payload().cast::<T>().write(value) };
                Ok(building.publish())
            }
            Err(cause) => Err(Rejected::new(value, cause)),
        }
    }

    /// Makes room for a value, and then the value. If `make` panics there is no block.
    ///
    /// `make` runs with no lock held and may use this shuffler.
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells; then `make` was not called.
    pub fn create_with<T: Send + 'static>(&self, make: impl FnOnce() -> T) -> Result<Handle<T>, AllocError> {
        let building = self.core.reserve(<T as StoredLayout>::PLAIN, size_of::<T>(), align_of::<T>(), false)?;
        let value = make();
        // SAFETY: the room was made for a `T`, and is the building block's own.
        unsafe { building.payload().cast::<T>().write(value) };
        Ok(Handle::from_raw(building.publish_late()))
    }

    /// A slice of `n` zeroed values. One of a zero-sized type has no bytes to tell its length by, and reads as empty whatever
    /// `n` is.
    ///
    /// A size far beyond the machine's memory may succeed, `alloc::<u8>(1 << 44)` for one: the operating system gives
    /// address space, and memory only for the pages that are written to. A [memory limit](Builder::memory_limit) counts all of
    /// it.
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells; `LayoutOverflow` if `n` values are more bytes than an address space has.
    pub fn alloc<T: Zeroable + Send + 'static>(&self, n: usize) -> Result<Handle<[T]>, AllocError> {
        let building = self.room_for::<T>(<[T] as StoredLayout>::PLAIN, n, true)?;
        Ok(Handle::from_raw(building.publish()))
    }

    /// A copy of a slice.
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells.
    pub fn alloc_copy<T: Copy + Send + 'static>(&self, values: &[T]) -> Result<Handle<[T]>, AllocError> {
        self.copy_as(<[T] as StoredLayout>::PLAIN, values).map(Handle::from_raw)
    }

    /// A copy of a string.
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells.
    pub fn alloc_str(&self, text: &str) -> Result<Handle<str>, AllocError> {
        self.copy_as(<str as StoredLayout>::PLAIN, text.as_bytes()).map(Handle::from_raw)
    }

    /// A copy of a slice, to be read through [`reader`](Self::reader).
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells, `ReadersBehind` as for [`create_versioned`](Self::create_versioned).
    pub fn alloc_versioned<T>(&self, values: &[T]) -> Result<Versioned<[T]>, AllocError>
    where
        T: Copy + Frozen + Send + Sync + 'static,
    {
        self.copy_as(<[T] as StoredLayout>::VERSIONED, values).map(Versioned::from_raw)
    }

    /// A copy of a string, to be read through [`reader`](Self::reader).
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells, `ReadersBehind` as for [`create_versioned`](Self::create_versioned).
    pub fn alloc_versioned_str(&self, text: &str) -> Result<Versioned<str>, AllocError> {
        self.copy_as(<str as StoredLayout>::VERSIONED, text.as_bytes()).map(Versioned::from_raw)
    }

    /// Zeroed bytes of a layout, reached through [`rent_pointer`](Self::rent_pointer). A move keeps the alignment.
    ///
    /// # Errors
    ///
    /// What [`AllocError`] tells; `UnsupportedAlignment` above 2 MiB.
    pub fn alloc_layout(&self, layout: Layout) -> Result<RawHandle, AllocError> {
        if layout.align() > types::MAX_ALIGN {
            return Err(AllocError::UnsupportedAlignment { max: types::MAX_ALIGN });
        }
        let building = self.core.reserve(types::raw(layout.align()), layout.size(), layout.align(), true)?;
        Ok(building.publish())
    }

    fn copy_as<T: Copy>(&self, info: &'static TypeInfo, values: &[T]) -> Result<RawHandle, AllocError> {
        let building = self.room_for::<T>(info, values.len(), false)?;
        // SAFETY: the room was made for that many values, and is the building block's own.
        unsafe { building.payload().cast::<T>().copy_from_nonoverlapping(NonNull::from(values).cast(), values.len()) };
        Ok(building.publish())
    }

    fn room_for<T>(&self, info: &'static TypeInfo, n: usize, zeroed: bool) -> Result<Building<'_>, AllocError> {
        let bytes = n.checked_mul(size_of::<T>()).ok_or(AllocError::LayoutOverflow)?;
        self.core.reserve(info, bytes, align_of::<T>(), zeroed)
    }

    /// Makes a handle own its block: dropping the result frees the block.
    pub fn owned<T: ?Sized + Stored>(&self, handle: Handle<T>) -> Owned<T> {
        Owned::new(self.clone(), handle)
    }
}

/// # Use
impl Shuffler {
    /// Rents a block to read it: it stays in place until the result is dropped. Never waits.
    ///
    /// # Errors
    ///
    /// `Stale` after a free, `Busy` while it is rented to write, `TooManyRents` beyond 32,767 at a time, `Invalid` for a
    /// handle that this shuffler never gave out, `OutOfMemory` if the block is being moved and no memory can be had to
    /// finish that.
    #[inline]
    #[doc(alias = "rentPointer")]
    pub fn rent<T: ?Sized + Stored + Send + Sync>(&self, handle: Handle<T>) -> Result<Rent<'_, T>, AccessError> {
        let (entry, address) = self.core.hold(handle.raw(), Hold::Shared)?;
        // SAFETY: the hold was taken just now, and a `Handle<T>` is only made for a block of `T`.
        Ok(unsafe { self.rent_held(entry, address) })
    }

    /// Rents several blocks to read them: all of them or none. The same handle may be there twice. Never waits, and
    /// allocates nothing.
    ///
    /// ```
    /// use memory_shuffler::Shuffler;
    ///
    /// let shuffler = Shuffler::new();
    /// let (price, count) = (shuffler.create(7_u64)?, shuffler.create(6_u64)?);
    /// let [price, count] = shuffler.rent_many([price, count])?;
    /// assert_eq!(*price * *count, 42);
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`rent`](Self::rent), for the first block that cannot be rented. Those before it are returned by then; while
    /// they were held, others may have been told `Busy`.
    pub fn rent_many<T, const N: usize>(&self, handles: [Handle<T>; N]) -> Result<[Rent<'_, T>; N], AccessError>
    where
        T: ?Sized + Stored + Send + Sync,
    {
        all_or_none(handles, |handle| self.rent(handle))
    }

    /// As [`rent`](Self::rent), but sleeps up to `patience` while the block is rented to write.
    ///
    /// # Errors
    ///
    /// As for [`rent`](Self::rent), with `TimedOut` in the place of `Busy`.
    pub fn rent_for<T>(&self, handle: Handle<T>, patience: Duration) -> Result<Rent<'_, T>, AccessError>
    where
        T: ?Sized + Stored + Send + Sync,
    {
        let (entry, address) = self.core.hold_until(handle.raw(), Hold::Shared, deadline(patience))?;
        // SAFETY: as in `rent`.
        Ok(unsafe { self.rent_held(entry, address) })
    }

    /// # Safety
    ///
    /// The caller has a shared hold on the entry's block at `address`, a `T`, and passes it on.
    #[inline]
    unsafe fn rent_held<'a, T>(&'a self, entry: &'a Entry, address: usize) -> Rent<'a, T>
    where
        T: ?Sized + StoredLayout,
    {
        // SAFETY: the caller's promise.
        unsafe { Rent::new(&self.core, entry, self.core.value_at(address)) }
    }

    /// Rents a block to write it, alone. Never waits.
    ///
    /// # Errors
    ///
    /// As for [`rent`](Self::rent); `Busy` while it is rented at all, by this thread too.
    #[inline]
    pub fn rent_mut<T: ?Sized + Stored + Send>(&self, handle: Handle<T>) -> Result<RentMut<'_, T>, AccessError> {
        let (entry, address) = self.core.hold(handle.raw(), Hold::Exclusive)?;
        // SAFETY: the hold was taken just now, and a `Handle<T>` is only made for a block of `T`.
        Ok(unsafe { RentMut::new(&self.core, entry, self.core.value_at(address)) })
    }

    /// Rents several blocks to write them, alone: all of them or none. Never waits, so it cannot deadlock, and allocates
    /// nothing. (Two calls for the same blocks at the same time may both be refused.)
    ///
    /// ```
    /// use memory_shuffler::{AccessError, Shuffler};
    ///
    /// let shuffler = Shuffler::new();
    /// let (from, to) = (shuffler.create(100_u64)?, shuffler.create(0_u64)?);
    /// let [mut source, mut target] = shuffler.rent_many_mut([from, to])?;
    /// *source -= 30;
    /// *target += 30;
    /// drop((source, target));
    /// assert_eq!(shuffler.rent_many_mut([from, from]).err(), Some(AccessError::Busy));
    /// assert_eq!(shuffler.take(to), Ok(30));
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`rent_mut`](Self::rent_mut), for the first block that cannot be rented; `Busy` if a handle is there twice.
    /// Those before it are returned by then; while they were held, others may have been told `Busy`.
    pub fn rent_many_mut<T, const N: usize>(&self, handles: [Handle<T>; N]) -> Result<[RentMut<'_, T>; N], AccessError>
    where
        T: ?Sized + Stored + Send,
    {
        all_or_none(handles, |handle| self.rent_mut(handle))
    }

    /// As [`rent_mut`](Self::rent_mut), but sleeps up to `patience` while the block is rented.
    ///
    /// # Errors
    ///
    /// As for [`rent_mut`](Self::rent_mut), with `TimedOut` in the place of `Busy`.
    pub fn rent_mut_for<T>(&self, handle: Handle<T>, patience: Duration) -> Result<RentMut<'_, T>, AccessError>
    where
        T: ?Sized + Stored + Send,
    {
        let (entry, address) = self.core.hold_until(handle.raw(), Hold::Exclusive, deadline(patience))?;
        // SAFETY: as in `rent_mut`.
        Ok(unsafe { RentMut::new(&self.core, entry, self.core.value_at(address)) })
    }

    /// As [`rent`](Self::rent), with a guard that borrows nothing.
    ///
    /// # Errors
    ///
    /// As for [`rent`](Self::rent).
    pub fn rent_owned<T>(&self, handle: Handle<T>) -> Result<OwnedRent<T>, AccessError>
    where
        T: ?Sized + Stored + Send + Sync,
    {
        let (entry, address) = self.core.hold(handle.raw(), Hold::Shared)?;
        // SAFETY: as in `rent`; the entry is the core's.
        Ok(unsafe { OwnedRent::new(self.core.clone(), NonNull::from(entry), self.core.value_at(address)) })
    }

    /// Makes a slice longer, with zeroed elements, or shorter, dropping the last ones. The handle stays. Never waits.
    ///
    /// A slice that becomes shorter stays where it is, and so does one that there is room for: within the 8 bytes that its
    /// length was rounded up to, or, of more than 64 KiB, within whole arenas' lengths of address space. Others are copied.
    ///
    /// The elements' destructors run here, with no lock held; meanwhile the slice is rented to write. If one panics the
    /// slice is shorter all the same, and the panic goes on to the caller.
    ///
    /// # Errors
    ///
    /// As for [`rent_mut`](Self::rent_mut), `Busy` among them, or what [`AllocError`] tells: `LayoutOverflow` if `n` values
    /// are more bytes than an address space has. The slice is as it was. To become shorter needs no memory.
    #[doc(alias = "realloc")]
    pub fn resize<T: Zeroable + Send + 'static>(&self, handle: Handle<[T]>, n: usize) -> Result<(), ResizeError> {
        let payload = n.checked_mul(size_of::<T>()).ok_or(AllocError::LayoutOverflow)?;
        self.core.resize(handle.raw(), <[T] as StoredLayout>::PLAIN, payload)
    }

    /// A look at `Versioned` blocks: what is read under it stays readable until it is dropped, even if moved or freed
    /// meanwhile.
    #[inline]
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.core)
    }

    /// Replaces a `Versioned` value. Readers that have it keep it until they are dropped; then it is dropped, in a step.
    ///
    /// When values are replaced faster than steps drop them, this call drops two that were replaced or freed earlier, perhaps
    /// by other threads. So it should not be called under a lock that a destructor of such a value takes. A panic of one is
    /// caught, and counted in [`Stats`](crate::Stats).
    ///
    /// # Errors
    ///
    /// `Stale` or `Invalid` as for [`rent`](Self::rent), `Busy` while another call replaces the value, `OutOfMemory` if there
    /// is no room for the new one, `ReadersBehind` if readers hold more back than the [limit](Builder::reader_limit) allows.
    /// The value comes back in [`Rejected`].
    pub fn publish<T>(&self, handle: Versioned<T>, value: T) -> Result<(), Rejected<T, AccessError>>
    where
        T: Frozen + Send + Sync + 'static,
    {
        self.core.publish(handle.raw(), value)
    }

    /// Replaces a `Versioned` value by what `make` makes of it. If `make` panics the value stays.
    ///
    /// `make` runs with no lock held and may use this shuffler; of this very block it may only read. Earlier values may be
    /// dropped here, as in [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish); `make` may have been called, and what it made is dropped.
    pub fn update<T>(&self, handle: Versioned<T>, make: impl FnOnce(&T) -> T) -> Result<(), AccessError>
    where
        T: Frozen + Send + Sync + 'static,
    {
        self.core.update(handle.raw(), make)
    }

    /// Replaces the values of a `Versioned` slice by copies of others, as many as there are. Readers that have the slice keep
    /// it as it was, length and all, until they are dropped.
    ///
    /// Nobody is kept out for longer than it takes to swap the new slice in: that is made before. So who makes the new values
    /// from the old may find that another thread has replaced those in between; where that matters, [`update`](Self::update)
    /// a `Versioned<Vec<T>>`. Earlier values may be dropped here, as in [`publish`](Self::publish).
    ///
    /// ```
    /// use memory_shuffler::Shuffler;
    ///
    /// let shuffler = Shuffler::new();
    /// let primes = shuffler.alloc_versioned(&[2, 3, 5])?;
    /// let reader = shuffler.reader();
    /// let before = reader.get(primes)?;
    /// shuffler.publish_copy(primes, &[2, 3, 5, 7, 11])?;
    /// assert_eq!(reader.get(primes)?, [2, 3, 5, 7, 11]);
    /// assert_eq!(before, [2, 3, 5]);
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`publish`](Self::publish). The slice is as it was.
    pub fn publish_copy<T>(&self, handle: Versioned<[T]>, values: &[T]) -> Result<(), AccessError>
    where
        T: Copy + Frozen + Send + Sync + 'static,
    {
        self.core.publish_copy(handle.raw(), <[T] as StoredLayout>::VERSIONED, values)
    }

    /// As [`publish_copy`](Self::publish_copy), for a string.
    ///
    /// ```
    /// use memory_shuffler::Shuffler;
    ///
    /// let shuffler = Shuffler::new();
    /// let page = shuffler.alloc_versioned_str("<p>Under construction.")?;
    /// shuffler.publish_str(page, "<p>Welcome.")?;
    /// assert_eq!(shuffler.reader().get(page)?, "<p>Welcome.");
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`publish_copy`](Self::publish_copy).
    pub fn publish_str(&self, handle: Versioned<str>, text: &str) -> Result<(), AccessError> {
        self.core.publish_copy(handle.raw(), <str as StoredLayout>::VERSIONED, text.as_bytes())
    }

    /// Rents a block by raw handle, to read through a pointer. It must be returned with
    /// [`return_pointer`](Self::return_pointer). `T` is the block's type (or its element type), or, for a block of
    /// [`alloc_layout`](Self::alloc_layout), any type that fits in it.
    ///
    /// # Errors
    ///
    /// As for [`rent`](Self::rent), and `TypeMismatch`.
    #[doc(alias = "rentPointer")]
    pub fn rent_pointer<T: 'static>(&self, handle: RawHandle) -> Result<NonNull<T>, AccessError> {
        self.pointer(handle, Hold::Shared)
    }

    /// As [`rent_pointer`](Self::rent_pointer), alone, to write.
    ///
    /// # Errors
    ///
    /// As for [`rent_mut`](Self::rent_mut), and `TypeMismatch`.
    pub fn rent_pointer_mut<T: 'static>(&self, handle: RawHandle) -> Result<NonNull<T>, AccessError> {
        self.pointer(handle, Hold::Exclusive)
    }

    fn pointer<T: 'static>(&self, handle: RawHandle, hold: Hold) -> Result<NonNull<T>, AccessError> {
        let (glimpse, payload) = self.core.glimpse_sized(handle)?;
        let stored = glimpse.info;
        let fits = if stored.is_raw() {
            align_of::<T>() <= stored.align && size_of::<T>() <= payload
        } else {
            [<T as StoredLayout>::PLAIN, <[T] as StoredLayout>::PLAIN].into_iter().any(|info| stored.same(info))
        };
        if !fits {
            let requested = <T as StoredLayout>::PLAIN.name();
            return Err(AccessError::TypeMismatch { stored: stored.name(), requested });
        }
        let (_, address) = self.core.hold(handle, hold)?;
        Ok(<T as StoredLayout>::at(crate::engine::allocate::payload_at(address), 0))
    }

    /// Returns what [`rent_pointer`](Self::rent_pointer) or [`rent_pointer_mut`](Self::rent_pointer_mut) rented.
    ///
    /// # Errors
    ///
    /// `NotRented` if nobody holds the block, `Stale` or `Invalid` as for [`rent`](Self::rent).
    ///
    /// # Safety
    ///
    /// The caller has such a rent of this block, which it gives up: no pointer from it is used any more. Otherwise
    /// another's hold would be returned.
    #[doc(alias = "returnPointer")]
    pub unsafe fn return_pointer(&self, handle: RawHandle) -> Result<(), AccessError> {
        self.core.give_back_any(handle)
    }
}

/// # Free and ask
impl Shuffler {
    /// Ends a block. New rents are refused from here on; if somebody holds it, the last return lets it go.
    ///
    /// The block's destructor runs here, unless it has to wait for a holder or a reader. With a `Versioned` block it does, and
    /// earlier ones may be dropped here, as in [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// `Stale` if it is freed already, `Invalid` for a handle that this shuffler never gave out.
    #[inline]
    pub fn free(&self, handle: impl Into<RawHandle>) -> Result<Freed, AccessError> {
        self.core.free(handle.into())
    }

    /// Moves the value out and ends the block.
    ///
    /// # Errors
    ///
    /// As for [`rent_mut`](Self::rent_mut).
    pub fn take<T: Stored + Send>(&self, handle: Handle<T>) -> Result<T, AccessError> {
        self.core.take(handle.raw())
    }

    /// Whether a handle's block is live. By the time that the caller looks it may have been freed.
    #[must_use]
    #[doc(alias = "validHandle")]
    pub fn valid_handle(&self, handle: impl Into<RawHandle>) -> bool {
        self.core.is_live(handle.into())
    }

    /// Bytes of a block's payload. Takes no hold; while another thread gives the block another length, that is the one before
    /// or the one after.
    ///
    /// # Errors
    ///
    /// `Stale` or `Invalid` as for [`rent`](Self::rent).
    #[doc(alias = "getSize")]
    pub fn get_size(&self, handle: impl Into<RawHandle>) -> Result<usize, AccessError> {
        let handle = handle.into();
        let (glimpse, payload) = self.core.glimpse_sized(handle)?;
        if glimpse.pending_free { Err(AccessError::Stale) } else { Ok(payload) }
    }

    /// All that is known of a block. Takes no hold; while another thread gives the block another length, size and address may
    /// be those of two moments. A block that was freed while it was rented is still shown, as `pending_free`.
    ///
    /// # Errors
    ///
    /// `Stale` or `Invalid` as for [`rent`](Self::rent).
    #[doc(alias = "MemoryEntry")]
    pub fn inspect(&self, handle: impl Into<RawHandle>) -> Result<BlockInfo, AccessError> {
        let handle = handle.into();
        let (glimpse, size) = self.core.glimpse_sized(handle)?;
        Ok(BlockInfo {
            address: glimpse.address,
            size,
            handle,
            rents: glimpse.rents,
            exclusive: glimpse.exclusive,
            pending_free: glimpse.pending_free,
            type_name: glimpse.info.name(),
            arena: self.core.arena_of(glimpse.address).id,
        })
    }

    /// The blocks that hold a `T` and are live, each as it is come to. A block that is live from the first item to the last
    /// is given exactly once; one that is made or freed meanwhile may be or not. By the time that the caller looks at a block
    /// it may have been freed.
    ///
    /// No lock is held between items or during one, so the caller may do anything meanwhile. It looks at every slot of the
    /// table once: those of other types, and free ones, too.
    ///
    /// ```
    /// use memory_shuffler::Shuffler;
    ///
    /// let shuffler = Shuffler::new();
    /// shuffler.create(1_u64)?;
    /// shuffler.create(2_u64)?;
    /// shuffler.alloc_str("another type")?;
    /// let sum: u64 = shuffler.handles::<u64>().filter_map(|handle| shuffler.take(handle).ok()).sum();
    /// assert_eq!((sum, shuffler.stats().live_blocks), (3, 1));
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    pub fn handles<T: ?Sized + Stored>(&self) -> impl Iterator<Item = Handle<T>> {
        self.core.live_of(T::PLAIN).map(Handle::from_raw)
    }

    /// As [`handles`](Self::handles), of `Versioned` blocks.
    pub fn versioned_handles<T: ?Sized + Stored>(&self) -> impl Iterator<Item = Versioned<T>> {
        self.core.live_of(T::VERSIONED).map(Versioned::from_raw)
    }

    /// A typed handle of a block whose type is compared.
    ///
    /// # Errors
    ///
    /// `TypeMismatch` if the block holds another type or is of another kind; `Stale` or `Invalid` as for
    /// [`rent`](Self::rent).
    pub fn typed<T: ?Sized + Stored>(&self, handle: RawHandle) -> Result<Handle<T>, AccessError> {
        self.core.check_type(handle, T::PLAIN)?;
        Ok(Handle::from_raw(handle))
    }

    /// As [`typed`](Self::typed), for a `Versioned` block.
    ///
    /// # Errors
    ///
    /// As for [`typed`](Self::typed).
    pub fn typed_versioned<T: ?Sized + Stored>(&self, handle: RawHandle) -> Result<Versioned<T>, AccessError> {
        self.core.check_type(handle, T::VERSIONED)?;
        Ok(Versioned::from_raw(handle))
    }
}

/// # Shuffle and look
impl Shuffler {
    /// Moves blocks out of sparse arenas until nothing can be gained; with [`Placement::Random`](crate::Placement::Random), all
    /// blocks once. Others go on meanwhile.
    ///
    /// Called from inside a block's destructor that a step runs, it returns at once.
    pub fn shuffle(&self) -> ShuffleReport {
        self.core.shuffle()
    }

    /// Moves blocks so that they lie in memory in the order of their handles: who goes through them in this order afterwards goes
    /// through memory in order. For a list, a tree or an index whose blocks have been scattered by years of use.
    ///
    /// Afterwards the addresses of these blocks ascend, as long as nothing else moves them: they are moved again when enough around
    /// them has died (or in the next pass, with [`Placement::Random`](crate::Placement::Random)). What is moved from one arena
    /// stays in order. A handle that is there several times counts once. `Versioned` blocks and others, and of each those aligned
    /// to 512 bytes or more, lie in different arenas: each kind ascends by itself.
    ///
    /// Left where they are, and out of the order, are blocks that are held (`skipped_pinned` tells how many), that are larger than
    /// 64 KiB, or that lie in the arena that another live thread filled last, even if it is idle; and `Versioned` blocks while a reader keeps much of what
    /// such blocks have left (`waiting` is set then).
    ///
    /// It needs room for a second copy of these blocks until it returns; where the source or the memory limit has less, the first
    /// ones are moved and `more` is set in the report. It takes a few hundred nanoseconds a block that lies anywhere, and holds
    /// nobody up. Steps rest meanwhile, but not for more than two seconds in four: blocks that they move then may be left out.
    ///
    /// ```
    /// use memory_shuffler::Shuffler;
    ///
    /// let shuffler = Shuffler::new();
    /// let mut handles = (0..1000).map(|number| shuffler.create(number)).collect::<Result<Vec<_>, _>>()?;
    /// handles.reverse();
    /// shuffler.shuffle_along(handles.iter().copied());
    /// let addresses: Vec<usize> = handles.iter().map(|&block| shuffler.inspect(block).unwrap().address).collect();
    /// assert!(addresses.is_sorted());
    /// # Ok::<(), memory_shuffler::Error>(())
    /// ```
    pub fn shuffle_along<H: Into<RawHandle>>(&self, handles: impl IntoIterator<Item = H>) -> ShuffleReport {
        self.core.shuffle_along(handles.into_iter().map(Into::into))
    }

    /// Does at most `budget` of the work that [`shuffle`](Self::shuffle) does to gain memory.
    pub fn shuffle_step(&self, budget: Budget) -> Progress {
        self.core.step(budget, Duty::Full)
    }

    /// Nothing starts to move while the result lives; moves that have begun are finished.
    pub fn pause(&self) -> Paused<'_> {
        // Release: pairs with the acquire in `is_paused`.
        self.core.compactor.paused.fetch_add(1, Ordering::Release);
        Paused { core: &self.core, marker: PhantomData }
    }

    /// Shuffles, and gives every empty arena back to the source, those that are kept for reuse too.
    pub fn trim(&self) {
        self.core.trim();
    }

    /// Changes the most bytes to hold from the source. What is held already stays; allocations fail until less is.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.core.supply.set_limit(bytes);
        // What found no memory may find it now.
        self.core.compactor.totals.no_memory.store(false, Ordering::Relaxed);
        self.core.notify();
    }

    /// Changes how much one step of the background thread may do. A budget of no bytes or no time moves one block a step.
    pub fn set_budget(&self, budget: Budget) {
        self.core.compactor.budget.set(budget);
    }

    /// Figures of this moment. Costs a walk over the arenas' descriptors and the shards.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.core)
    }

    /// The name of a thread that has used this shuffler and still runs, or whose reader was forgotten: of the one that
    /// [`Stats::oldest_reader`] or `ReadersBehind` tells.
    #[must_use]
    pub fn thread_name(&self, thread: ThreadId) -> Option<String> {
        self.core.seats.name(thread)
    }

    /// What stands in each arena's account.
    #[must_use]
    pub fn arenas(&self) -> Vec<ArenaInfo> {
        ArenaInfo::all(&self.core)
    }

    /// The blocks that lie in an arena now, those included that were freed and are still held. Costs a look at every entry of
    /// the handle table; nothing is locked or held meanwhile, so blocks may come, go and move.
    #[must_use]
    #[doc(alias = "entries_indexes")]
    pub fn blocks_in(&self, arena: u32) -> Vec<BlockInfo> {
        let mut blocks = Vec::new();
        self.core.table.for_each(|slot, entry| {
            let version = entry.version();
            // One that was freed while it was held is known by the version that it had.
            let handle = RawHandle::new(slot, version.wrapping_sub((version % 2) ^ 1));
            if entry.word().address() != 0
                && let Ok(block) = self.inspect(handle)
                && block.arena == arena
            {
                blocks.push(block);
            }
        });
        blocks
    }

    /// Why nothing is being gained just now, or what is, in words.
    ///
    /// ```
    /// use memory_shuffler::{Reason, Shuffler};
    ///
    /// let shuffler = Shuffler::new();
    /// let paused = shuffler.pause();
    /// let explanation = shuffler.explain();
    /// assert_eq!(explanation.reasons[0], Reason::Paused { guards: 1 });
    /// println!("{explanation}");
    /// # drop(paused);
    /// ```
    #[must_use]
    pub fn explain(&self) -> Explanation {
        self.core.explain()
    }
}

/// Rents in order, and returns all of them at the first refusal.
#[inline]
fn all_or_none<H, R, const N: usize>(
    handles: [H; N],
    rent: impl Fn(H) -> Result<R, AccessError>,
) -> Result<[R; N], AccessError> {
    let mut rents = [const { None }; N];
    for (place, handle) in rents.iter_mut().zip(handles) {
        *place = Some(rent(handle)?);
    }
    Ok(rents.map(|rent| rent.expect("each place was filled")))
}

#[cold]
#[inline(never)]
fn cold<R>(work: impl FnOnce() -> R) -> R {
    work()
}

fn deadline(patience: Duration) -> Option<Instant> {
    Instant::now().checked_add(patience)
}

impl Default for Shuffler {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Shuffler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        f.debug_struct("Shuffler")
            .field("live_blocks", &stats.live_blocks)
            .field("live_bytes", &stats.live_bytes)
            .field("resident_bytes", &stats.resident_bytes)
            .finish_non_exhaustive()
    }
}

/// Keeps blocks from being moved. Made by [`Shuffler::pause`].
#[derive(Debug)]
#[must_use = "a pause ends when this is dropped"]
pub struct Paused<'a> {
    core: &'a Core,
    marker: PhantomData<&'a ()>,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // Release: as in `pause`.
        self.core.compactor.paused.fetch_sub(1, Ordering::Release);
        self.core.notify();
    }
}
