//! Which types may be stored in `Versioned` blocks.

use crate::directory::OpaqueHandle;
use crate::handle::{Handle, RawHandle, Versioned};
use std::borrow::Cow;
use std::hash::BuildHasherDefault;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::num::{NonZero, Saturating, Wrapping};
use std::ops::{Bound, ControlFlow, Range, RangeFrom, RangeInclusive, RangeTo, RangeToInclusive};
use std::pin::Pin;
use std::task::Poll;
use std::{cmp, collections, ffi, net, path, sync, time};

/// Types without interior mutability inline: a value that is only reached through `&T` never changes its own bytes.
///
/// A `Versioned` block is copied while others read it, which is no race only because of this. What a value points to may
/// change: the copy points to the same. So an `Arc<Mutex<u8>>` is frozen and a `Mutex<u8>` is not.
///
/// With the feature `derive`, `#[derive(Frozen)]` implements it for structs and enums of frozen fields. A crate that has the
/// library by another name says so: `#[frozen(crate = "path")]`.
///
/// # Safety
///
/// No byte of a value changes through a shared reference: no `Cell`, no atomic, no lock among its fields, at any depth short
/// of a pointer.
#[diagnostic::on_unimplemented(
    message = "`{Self}` may change through a shared reference, or is not known not to",
    label = "not `Frozen`",
    note = "keep what changes behind a pointer, such as an `Arc`; for a type of your own, `#[derive(Frozen)]` (feature \
            `derive`) if all its fields are frozen"
)]
pub unsafe trait Frozen {}

/// Types that need nothing of their parameters, since what those stand for lies behind pointers or nowhere.
macro_rules! frozen {
    ($($({$($parameters:tt)*})? $type:ty;)*) => {$(
        // SAFETY: the type is plain data or owns its contents through pointers, without interior mutability inline.
        unsafe impl $(<$($parameters)*>)? Frozen for $type {}
    )*};
}

/// Types whose values consist of values of their parameters and of plain data.
macro_rules! frozen_parts {
    ($($name:ident)::+ <$($parameter:ident),+>; $($rest:tt)*) => {
        // SAFETY: the parts are frozen, and what else there is, a tag or a flag, only changes through `&mut`.
        unsafe impl<$($parameter: Frozen),+> Frozen for $($name)::+<$($parameter),+> {}
        frozen_parts! { $($rest)* }
    };
    () => {};
}

frozen! {
    (); bool; char; str;
    u8; u16; u32; u64; u128; usize; i8; i16; i32; i64; i128; isize; f32; f64;
    cmp::Ordering; std::ops::RangeFull; std::convert::Infallible; std::any::TypeId; std::alloc::Layout; std::thread::ThreadId;
    time::Duration; time::Instant; time::SystemTime;
    net::Ipv4Addr; net::Ipv6Addr; net::IpAddr; net::SocketAddrV4; net::SocketAddrV6; net::SocketAddr;
    String; path::Path; path::PathBuf; ffi::OsStr; ffi::OsString; ffi::CStr; ffi::CString;
    std::hash::RandomState; std::io::ErrorKind; std::fmt::Error; std::str::Utf8Error; std::string::FromUtf8Error;
    std::num::ParseIntError; std::num::ParseFloatError; std::num::TryFromIntError;

    {T: ?Sized} &T;
    {T: ?Sized} *const T;
    {T: ?Sized} *mut T;
    {T: ?Sized} std::ptr::NonNull<T>;
    {T: ?Sized} Box<T>;
    {T: ?Sized} sync::Arc<T>;
    {T: ?Sized} sync::Weak<T>;
    {T: ?Sized} std::marker::PhantomData<T>;
    {T} Vec<T>;
    {T} collections::VecDeque<T>;
    {T} collections::LinkedList<T>;
    {T} collections::BTreeSet<T>;
    {T} collections::BinaryHeap<T>;
    {K, V} collections::BTreeMap<K, V>;
    {H} BuildHasherDefault<H>;

    RawHandle; OpaqueHandle;
    {T: ?Sized} Handle<T>;
    {T: ?Sized} Versioned<T>;
}

frozen_parts! {
    Option<T>; Result<T, E>; Poll<T>; ControlFlow<B, C>; Bound<T>;
    Range<T>; RangeFrom<T>; RangeInclusive<T>; RangeTo<T>; RangeToInclusive<T>;
    Wrapping<T>; Saturating<T>; cmp::Reverse<T>; Pin<P>; MaybeUninit<T>;
}

// SAFETY: an array is its elements, which are frozen.
unsafe impl<T: Frozen, const N: usize> Frozen for [T; N] {}
// SAFETY: a slice is its elements, which are frozen.
unsafe impl<T: Frozen> Frozen for [T] {}
// SAFETY: it is its value, which is frozen.
unsafe impl<T: ?Sized + Frozen> Frozen for ManuallyDrop<T> {}
// SAFETY: it is a reference, or the owned value, which is frozen, and a tag.
unsafe impl<B: ?Sized + ToOwned<Owned: Frozen>> Frozen for Cow<'_, B> {}
// SAFETY: a map is its hasher, which is frozen, and pointers.
unsafe impl<K, V, S: Frozen> Frozen for collections::HashMap<K, V, S> {}
// SAFETY: a set is its hasher, which is frozen, and pointers.
unsafe impl<T, S: Frozen> Frozen for collections::HashSet<T, S> {}

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

macro_rules! frozen_functions {
    ($($($name:ident)*;)*) => {$(
        // SAFETY: a plain address.
        unsafe impl<R, $($name),*> Frozen for fn($($name),*) -> R {}
    )*};
}

frozen_tuples! {
    A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H; A B C D E F G H I; A B C D E F G H I J;
    A B C D E F G H I J K; A B C D E F G H I J K L;
}
// Those that are general over a lifetime of an argument are types of their own, and not among these.
frozen_functions! { ; A; A B; A B C; A B C D; A B C D E; A B C D E F; }
