//! What the library knows of the types in its blocks.
//!
//! A header has 14 bits for a type. They index a registry of the process, keyed by `TypeId`, *access* (plain, versioned,
//! raw) and *shape* (one value, a slice, a string). A block's destructor and alignment come from there, and a raw handle
//! becomes a typed one only if its block's tag says so.

use crate::arena::header::TAGS;
use crate::error::AllocError;
use crate::handle::Versioned;
use crate::primitive::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::alloc::Layout;
use std::any::{TypeId, type_name};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, OnceLock, PoisonError};

/// By which kind of handle a block is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// `Handle<T>`.
    Plain,
    /// `Versioned<T>`.
    Versioned,
    /// `RawHandle` only.
    Raw,
}

/// How a block's bytes are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shape {
    /// One value.
    Single,
    /// A slice of values.
    Slice,
    /// A string.
    Str,
    /// Bytes with an alignment.
    Bytes,
}

/// One type as it can be stored. There is one constant for each; equal types may have several.
#[derive(Debug)]
pub struct TypeInfo {
    id: fn() -> TypeId,
    name: fn() -> &'static str,
    access: Access,
    shape: Shape,
    /// Bytes of one value.
    stride: usize,
    /// Alignment of the payload, bytes.
    pub(crate) align: usize,
    /// Drops one value; `None`: nothing to do.
    drop: Option<unsafe fn(*mut u8)>,
}

type Key = (TypeId, Access, Shape, usize);

impl TypeInfo {
    /// `N` is what errors call it.
    const fn new<T: 'static, N: ?Sized>(access: Access, shape: Shape) -> Self {
        Self {
            id: TypeId::of::<T>,
            name: type_name::<N>,
            access,
            shape,
            stride: size_of::<T>(),
            align: align_of::<T>(),
            drop: if std::mem::needs_drop::<T>() { Some(drop_one::<T>) } else { None },
        }
    }

    fn key(&self) -> Key {
        let align = if self.shape == Shape::Bytes { self.align } else { 0 };
        ((self.id)(), self.access, self.shape, align)
    }

    /// Whether both stand for the same type in the same access and shape.
    pub(crate) fn same(&self, other: &TypeInfo) -> bool {
        ptr::eq(self, other) || self.key() == other.key()
    }

    /// Whether blocks of this type are read without a hold, under an epoch.
    pub(crate) fn is_versioned(&self) -> bool {
        self.access == Access::Versioned
    }

    /// Whether these are bytes from `alloc_layout`.
    pub(crate) fn is_raw(&self) -> bool {
        self.access == Access::Raw
    }

    #[inline]
    pub(crate) fn needs_drop(&self) -> bool {
        self.drop.is_some()
    }

    /// Whether values take no bytes.
    pub(crate) fn is_empty(&self) -> bool {
        self.stride == 0
    }

    /// The type's name as errors give it.
    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }

    /// Drops what lies at `payload`. The values after one whose destructor panics are dropped too; the first panic goes on.
    ///
    /// # Safety
    ///
    /// `bytes` bytes of live values of this type lie at `payload`, the caller alone uses them, and nobody will drop them
    /// again.
    pub(crate) unsafe fn drop_payload(&self, payload: *mut u8, bytes: usize) {
        let Some(drop_one) = self.drop else { return };
        let count = match self.shape {
            Shape::Single => 1,
            _ => bytes.checked_div(self.stride).unwrap_or(0),
        };
        let mut next = 0;
        let mut first_panic = None;
        while next < count {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                while next < count {
                    next += 1;
                    // SAFETY: the caller promises that many values, and `next` passes each once, also after a panic.
                    unsafe { drop_one(payload.add((next - 1) * self.stride)) };
                }
            }));
            crate::panics::keep_first(&mut first_panic, outcome);
        }
        if let Some(panic) = first_panic {
            resume_unwind(panic);
        }
    }
}

unsafe fn drop_one<T>(value: *mut u8) {
    // SAFETY: `drop_payload` passes a live value of the type that the function was chosen for.
    unsafe { ptr::drop_in_place(value.cast::<T>()) };
}

mod sealed {
    use super::TypeInfo;
    use std::ptr::NonNull;

    pub trait Layout: 'static {
        const PLAIN: &'static TypeInfo;
        const VERSIONED: &'static TypeInfo;

        /// The value whose `bytes` bytes lie at `payload`.
        fn at(payload: NonNull<u8>, bytes: usize) -> NonNull<Self>;
        /// Whether `at` needs to know the bytes.
        const NEEDS_BYTES: bool;
    }
}

/// What a block can hold: any sized `'static` type, slices of those, and `str`.
///
/// The trait is sealed; it is here to be named in bounds.
pub trait Stored: sealed::Layout {}
impl<T: ?Sized + sealed::Layout> Stored for T {}

pub(crate) use sealed::Layout as StoredLayout;

impl<T: 'static> sealed::Layout for T {
    const PLAIN: &'static TypeInfo = &TypeInfo::new::<T, T>(Access::Plain, Shape::Single);
    const VERSIONED: &'static TypeInfo = &TypeInfo::new::<T, Versioned<T>>(Access::Versioned, Shape::Single);
    const NEEDS_BYTES: bool = false;

    #[inline]
    fn at(payload: NonNull<u8>, _: usize) -> NonNull<Self> {
        payload.cast()
    }
}

impl<T: 'static> sealed::Layout for [T] {
    const PLAIN: &'static TypeInfo = &TypeInfo::new::<T, [T]>(Access::Plain, Shape::Slice);
    const VERSIONED: &'static TypeInfo = &TypeInfo::new::<T, Versioned<[T]>>(Access::Versioned, Shape::Slice);
    const NEEDS_BYTES: bool = true;

    #[inline]
    fn at(payload: NonNull<u8>, bytes: usize) -> NonNull<Self> {
        NonNull::slice_from_raw_parts(payload.cast(), bytes.checked_div(size_of::<T>()).unwrap_or(0))
    }
}

impl sealed::Layout for str {
    const PLAIN: &'static TypeInfo = &TypeInfo::new::<u8, str>(Access::Plain, Shape::Str);
    const VERSIONED: &'static TypeInfo = &TypeInfo::new::<u8, Versioned<str>>(Access::Versioned, Shape::Str);
    const NEEDS_BYTES: bool = true;

    #[inline]
    fn at(payload: NonNull<u8>, bytes: usize) -> NonNull<Self> {
        let slice = NonNull::slice_from_raw_parts(payload, bytes);
        // A `str` has the metadata of its bytes; the cast keeps pointer and length.
        NonNull::new(slice.as_ptr() as *mut str).expect("not null, as the slice was not")
    }
}

/// The greatest alignment that a block can have, bytes.
pub(crate) const MAX_ALIGN: usize = 2 << 20;

/// The type of raw blocks aligned to `align` bytes, a power of two of at most [`MAX_ALIGN`].
pub(crate) fn raw(align: usize) -> &'static TypeInfo {
    const COUNT: usize = MAX_ALIGN.trailing_zeros() as usize + 1;
    static RAW: OnceLock<[TypeInfo; COUNT]> = OnceLock::new();
    let infos = RAW.get_or_init(|| {
        std::array::from_fn(|power| TypeInfo {
            align: 1 << power,
            ..TypeInfo::new::<u8, Layout>(Access::Raw, Shape::Bytes)
        })
    });
    &infos[align.trailing_zeros() as usize]
}

/// Types and their tags. Types with a destructor are numbered upwards from 1 (0 is the filler's), those without downwards
/// from the last tag, so that a tag alone tells whether there is a destructor to run.
#[derive(Debug)]
pub(crate) struct Registry {
    tags: OnceLock<Mutex<Tags>>,
    infos: [AtomicPtr<TypeInfo>; TAGS],
    /// The lowest tag of a type without a destructor.
    trivial_from: AtomicU32,
}

#[derive(Debug, Default)]
struct Tags {
    by_key: HashMap<Key, u32>,
    /// How many types with a destructor there are.
    dropping: u32,
}

static PROCESS: Registry = Registry::new();

/// The registry of this process.
#[inline]
pub(crate) fn registry() -> &'static Registry {
    &PROCESS
}

impl Registry {
    const fn new() -> Self {
        Self {
            tags: OnceLock::new(),
            infos: [const { AtomicPtr::new(ptr::null_mut()) }; TAGS],
            trivial_from: AtomicU32::new(TAGS as u32),
        }
    }

    /// The tag of a type, given out at its first use.
    pub(crate) fn tag_of(&self, info: &'static TypeInfo) -> Result<u32, AllocError> {
        let mut tags = self.tags.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&tag) = tags.by_key.get(&info.key()) {
            return Ok(tag);
        }
        let trivial_from = self.trivial_from.load(Ordering::Relaxed);
        if tags.dropping + 1 == trivial_from {
            return Err(AllocError::TypesExhausted);
        }
        let tag = if info.needs_drop() {
            tags.dropping += 1;
            tags.dropping
        } else {
            trivial_from - 1
        };
        // Release: pairs with the acquire in `info`.
        self.infos[tag as usize].store(ptr::from_ref(info).cast_mut(), Ordering::Release);
        if !info.needs_drop() {
            // Relaxed: whoever has a header with this tag has it by a way that this happened before.
            self.trivial_from.store(tag, Ordering::Relaxed);
        }
        tags.by_key.insert(info.key(), tag);
        Ok(tag)
    }

    /// Whether blocks with this tag have a destructor to run.
    #[inline]
    pub(crate) fn drops(&self, tag: u32) -> bool {
        tag < self.trivial_from.load(Ordering::Relaxed)
    }

    /// The type of a tag that a header or an extent showed. Tags of no type read as bytes.
    #[inline]
    pub(crate) fn info(&self, tag: u32) -> &'static TypeInfo {
        // Acquire: pairs with the release in `tag_of`.
        let info = NonNull::new(self.infos[tag as usize].load(Ordering::Acquire));
        match info {
            // SAFETY: only `&'static TypeInfo`s are stored.
            Some(info) => unsafe { info.as_ref() },
            None => Self::no_type(),
        }
    }
}

impl Registry {
    #[cold]
    fn no_type() -> &'static TypeInfo {
        raw(1)
    }
}

/// The tags that a shard used last, so that its allocations need no lock to find them.
#[derive(Debug)]
pub(crate) struct TagCache([(*const TypeInfo, u32); 16]);

impl TagCache {
    pub(crate) fn new() -> Self {
        Self([(ptr::null(), 0); 16])
    }

    fn index(info: &'static TypeInfo) -> usize {
        (ptr::from_ref(info).addr() >> 6) % 16
    }

    /// The tag, if it is among those used last.
    #[inline]
    pub(crate) fn cached(&self, info: &'static TypeInfo) -> Option<u32> {
        let (cached, tag) = self.0[Self::index(info)];
        ptr::eq(cached, info).then_some(tag)
    }

    /// As [`Registry::tag_of`].
    pub(crate) fn tag_of(&mut self, info: &'static TypeInfo) -> Result<u32, AllocError> {
        if let Some(tag) = self.cached(info) {
            return Ok(tag);
        }
        let tag = registry().tag_of(info)?;
        self.0[Self::index(info)] = (info, tag);
        Ok(tag)
    }
}

// SAFETY: the pointers are to `'static` constants and only compared.
unsafe impl Send for TagCache {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_type_has_one_tag_in_each_access_and_shape() {
        let registry = Registry::new();
        let single = registry.tag_of(<u64 as StoredLayout>::PLAIN).unwrap();
        assert_eq!(registry.tag_of(<u64 as StoredLayout>::PLAIN), Ok(single));
        assert_ne!(registry.tag_of(<[u64] as StoredLayout>::PLAIN), Ok(single));
        assert_ne!(registry.tag_of(<u64 as StoredLayout>::VERSIONED), Ok(single));
        assert_ne!(registry.tag_of(raw(8)), registry.tag_of(raw(16)));
        assert_eq!(registry.info(single).name(), "u64");
        let string = registry.tag_of(<String as StoredLayout>::PLAIN).unwrap();
        assert!(registry.drops(string) && !registry.drops(single));
    }

    #[test]
    fn tags_run_out_with_an_error_and_keep_working() {
        let registry = Box::leak(Box::new(Registry::new()));
        let infos: &'static [TypeInfo] = (0..TAGS)
            .map(|align| TypeInfo { align, ..TypeInfo::new::<u8, u8>(Access::Raw, Shape::Bytes) })
            .collect::<Vec<_>>()
            .leak();
        for info in &infos[..TAGS - 1] {
            registry.tag_of(info).unwrap();
        }
        assert_eq!(registry.tag_of(&infos[TAGS - 1]), Err(AllocError::TypesExhausted));
        assert_eq!(registry.tag_of(&infos[5]), Ok(TAGS as u32 - 6));
    }

    #[test]
    fn a_slice_is_dropped_past_a_panic() {
        use std::cell::Cell;
        thread_local!(static DROPPED: Cell<u32> = const { Cell::new(0) });
        struct Bomb(bool);
        impl Drop for Bomb {
            fn drop(&mut self) {
                DROPPED.set(DROPPED.get() + 1);
                assert!(!self.0, "boom");
            }
        }
        let mut bombs = std::mem::ManuallyDrop::new([Bomb(false), Bomb(true), Bomb(true), Bomb(false)]);
        let info = <[Bomb] as StoredLayout>::PLAIN;
        // SAFETY: four live values, dropped nowhere else.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { info.drop_payload(bombs.as_mut_ptr().cast(), 4) }));
        assert!(outcome.is_err());
        assert_eq!(DROPPED.get(), 4);
    }
}
