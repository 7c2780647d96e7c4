//! What went wrong, as types. Every message says in one line what happened and what to do about it.

use std::error::Error as StdError;
use std::fmt;
use std::thread::ThreadId;

/// Why a block could not be rented, read, replaced, returned or freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AccessError {
    /// The handle names nothing that this shuffler has: [`RawHandle::INVALID`](crate::RawHandle::INVALID), made-up
    /// bits, or a handle of another shuffler.
    Invalid,
    /// The block of this handle has been freed. Its slot may hold another block by now, under another version.
    Stale,
    /// Somebody holds the block in a way that excludes this access. Nothing was waited for.
    Busy,
    /// The block holds another type, or the same type in another way (`Versioned`, not `Handle`; a slice, not one
    /// value).
    TypeMismatch {
        /// The type that the block holds.
        stored: &'static str,
        /// The type that was asked for.
        requested: &'static str,
    },
    /// The block is rented 32,767 times at once, which is as far as its count goes.
    TooManyRents,
    /// A pointer was returned that is not rented.
    NotRented,
    /// The key has no grant, or its grant lacks the right that was asked for.
    Denied,
    /// The access needed memory (a move under way must be finished first, or a new version made) and there was none.
    OutOfMemory,
    /// Readers hold back more memory of `Versioned` blocks than they may, so no new version is made.
    ReadersBehind {
        /// Bytes that wait for readers.
        waiting: usize,
        /// The [limit](crate::Builder::reader_limit), in bytes.
        limit: usize,
        /// Whose reader is the oldest, if that is known; [`thread_name`](crate::Shuffler::thread_name) tells its name.
        thread: Option<ThreadId>,
    },
    /// The block was still held at the deadline.
    TimedOut,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => {
                "invalid handle: it names no block of this shuffler; use a handle that this very shuffler returned"
            }
            Self::Stale => "stale handle: its block has been freed; forget this handle and create the block anew",
            Self::Busy => {
                "block is busy: another hold excludes this access; return that hold first, \
                 wait with rent_for or rent_mut_for, or try again"
            }
            Self::TypeMismatch { stored, requested } => {
                return write!(
                    f,
                    "type mismatch: the block holds {stored}, not {requested}; \
                     ask for the type and kind it was made with"
                );
            }
            Self::TooManyRents => {
                "too many rents: one block can be rented 32767 times at once; \
                 return some rents, and look for any that were forgotten"
            }
            Self::NotRented => {
                "block is not rented: there is nothing to return; return each rented pointer exactly once"
            }
            Self::Denied => {
                "access denied: this key has no grant with that right; ask the block's owner to grant the right"
            }
            Self::OutOfMemory => {
                "out of memory: this access needed a new copy of the block and there was no memory for it; \
                 free some blocks, then try again"
            }
            Self::ReadersBehind { waiting, limit, thread } => return readers_behind(f, *waiting, *limit, *thread),
            Self::TimedOut => {
                "timed out: the block was still held at the deadline; \
                 wait longer, or look in stats for the oldest rent"
            }
        })
    }
}

impl StdError for AccessError {}

fn readers_behind(f: &mut fmt::Formatter<'_>, waiting: usize, limit: usize, thread: Option<ThreadId>) -> fmt::Result {
    write!(
        f,
        "readers are behind: {waiting} bytes of Versioned blocks are waiting for them, and the limit is {limit}; "
    )?;
    match thread {
        Some(thread) => write!(f, "drop or repin the reader of thread {thread:?}"),
        None => f.write_str("drop or repin the oldest reader"),
    }?;
    f.write_str(", or raise the limit with reader_limit")
}

/// Why memory for a block could not be had. The shuffler is unchanged, and a later try may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AllocError {
    /// The size, with the block's header and alignment, is more than `isize::MAX` bytes.
    LayoutOverflow,
    /// The alignment is larger than any that blocks can have.
    UnsupportedAlignment {
        /// The largest alignment that blocks can have, in bytes.
        max: usize,
    },
    /// The block would not fit under the memory limit, even after a bounded shuffle.
    MemoryLimit {
        /// The limit, in bytes.
        limit: usize,
        /// Bytes in use, with the room that is left to the compactor: for one arena, or for two if there is a background thread.
        used: usize,
        /// Bytes that this allocation needs.
        requested: usize,
        /// Bytes among those in use that are held and so cannot be moved.
        pinned: usize,
    },
    /// The parent allocator (the operating system, unless another source was given) refused memory.
    OutOfMemory {
        /// Bytes that were asked of it.
        requested: usize,
    },
    /// Readers hold back more memory of `Versioned` blocks than they may, so no new one is made.
    ReadersBehind {
        /// Bytes that wait for readers.
        waiting: usize,
        /// The [limit](crate::Builder::reader_limit), in bytes.
        limit: usize,
        /// Whose reader is the oldest, if that is known; [`thread_name`](crate::Shuffler::thread_name) tells its name.
        thread: Option<ThreadId>,
    },
    /// Every slot of the handle table is in use or retired.
    HandlesExhausted,
    /// As many types are stored as block headers can tell apart: 16,384.
    TypesExhausted,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LayoutOverflow => f.write_str(
                "layout overflow: size, header and alignment together exceed isize::MAX bytes; \
                 ask for fewer bytes or elements",
            ),
            Self::UnsupportedAlignment { max } => {
                write!(f, "unsupported alignment: blocks are aligned to at most {max} bytes; ask for no more than that")
            }
            Self::MemoryLimit { limit, used, requested, pinned } => write!(
                f,
                "memory limit reached: {requested} bytes were requested, {used} of {limit} are in use and {pinned} \
                 pinned by holds; free blocks, return rents, or raise the limit with set_memory_limit"
            ),
            Self::OutOfMemory { requested } => write!(
                f,
                "out of memory: the parent allocator refused {requested} bytes; \
                 free memory or raise the process's limits, then try again"
            ),
            Self::ReadersBehind { waiting, limit, thread } => readers_behind(f, *waiting, *limit, *thread),
            Self::HandlesExhausted => f.write_str(
                "handles exhausted: every slot of the handle table is taken; free some blocks, then try again",
            ),
            Self::TypesExhausted => f.write_str(
                "types exhausted: at most 16384 types can be told apart; store fewer types, or use raw blocks from alloc_layout",
            ),
        }
    }
}

impl StdError for AllocError {}

/// Why a slice was not resized. It is as it was, unless it was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResizeError {
    /// The block could not be accessed.
    Access(AccessError),
    /// Memory for the new length could not be had.
    Alloc(AllocError),
}

impl fmt::Display for ResizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(error) => write!(f, "block not resized: {error}"),
            Self::Alloc(error) => write!(f, "block not resized: {error}"),
        }
    }
}

impl StdError for ResizeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Self::Access(error) => error,
            Self::Alloc(error) => error,
        })
    }
}

impl From<AccessError> for ResizeError {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

impl From<AllocError> for ResizeError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

/// A setting that the builder refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ConfigError {
    /// The setting, by the name of its builder method.
    pub field: &'static str,
    /// The value that it was given.
    pub value: String,
    /// Why that cannot be, and what can.
    pub why: &'static str,
}

impl ConfigError {
    /// `why` says what the setting must be: it is the last part of the message.
    pub(crate) fn new(field: &'static str, value: impl ToString, why: &'static str) -> Self {
        Self { field, value: value.to_string(), why }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad configuration: {} cannot be {}: {}", self.field, self.value, self.why)
    }
}

impl StdError for ConfigError {}

/// A value that could not be stored, given back together with the cause.
///
/// `C` is [`AllocError`] where only memory can be lacking, as in `create`; a call that also looks a handle up gives
/// another cause.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejected<T, C = AllocError> {
    value: T,
    cause: C,
}

impl<T, C> Rejected<T, C> {
    #[inline]
    pub(crate) const fn new(value: T, cause: C) -> Self {
        Self { value, cause }
    }

    /// Why the value was not stored.
    #[must_use]
    pub const fn cause(&self) -> C
    where
        C: Copy,
    {
        self.cause
    }

    /// The value, as it was handed in.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T, C: fmt::Debug> fmt::Debug for Rejected<T, C> {
    /// The value is left out, since `T` need not be `Debug`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<T, C: fmt::Display> fmt::Display for Rejected<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "value not stored (into_inner gives it back): {}", self.cause)
    }
}

impl<T, C: StdError + 'static> StdError for Rejected<T, C> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.cause)
    }
}

/// Any error of this library, for functions that do several of its things.
///
/// Its message is that of the error inside; [`source`](StdError::source) gives that error as its own type.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// A block could not be accessed.
    Access(AccessError),
    /// Memory could not be had.
    Alloc(AllocError),
    /// A setting was refused.
    Config(ConfigError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access(error) => error.fmt(f),
            Self::Alloc(error) => error.fmt(f),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Self::Access(error) => error,
            Self::Alloc(error) => error,
            Self::Config(error) => error,
        })
    }
}

impl From<AccessError> for Error {
    fn from(error: AccessError) -> Self {
        Self::Access(error)
    }
}

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<ResizeError> for Error {
    fn from(error: ResizeError) -> Self {
        match error {
            ResizeError::Access(error) => Self::Access(error),
            ResizeError::Alloc(error) => Self::Alloc(error),
        }
    }
}

impl<T, C: Into<Error>> From<Rejected<T, C>> for Error {
    /// Keeps the cause; the value is dropped.
    fn from(rejected: Rejected<T, C>) -> Self {
        rejected.cause.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not `Debug`, not `Send`: what a rejected value may be.
    struct Plain(std::rc::Rc<u8>);

    #[test]
    fn access_errors_say_what_to_do() {
        let texts = [
            (
                AccessError::Invalid,
                "invalid handle: it names no block of this shuffler; use a handle that this very shuffler returned",
            ),
            (
                AccessError::Stale,
                "stale handle: its block has been freed; forget this handle and create the block anew",
            ),
            (
                AccessError::Busy,
                "block is busy: another hold excludes this access; return that hold first, wait with rent_for or \
                 rent_mut_for, or try again",
            ),
            (
                AccessError::TypeMismatch { stored: "u32", requested: "f32" },
                "type mismatch: the block holds u32, not f32; ask for the type and kind it was made with",
            ),
            (
                AccessError::TooManyRents,
                "too many rents: one block can be rented 32767 times at once; return some rents, and look for any that \
                 were forgotten",
            ),
            (
                AccessError::NotRented,
                "block is not rented: there is nothing to return; return each rented pointer exactly once",
            ),
            (
                AccessError::Denied,
                "access denied: this key has no grant with that right; ask the block's owner to grant the right",
            ),
            (
                AccessError::OutOfMemory,
                "out of memory: this access needed a new copy of the block and there was no memory for it; free some \
                 blocks, then try again",
            ),
            (
                AccessError::ReadersBehind { waiting: 9, limit: 8, thread: None },
                "readers are behind: 9 bytes of Versioned blocks are waiting for them, and the limit is 8; drop or repin the oldest \
                 reader, or raise the limit with reader_limit",
            ),
            (
                AccessError::TimedOut,
                "timed out: the block was still held at the deadline; wait longer, or look in stats for the oldest \
                 rent",
            ),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
            assert_eq!(Error::from(error).to_string(), text);
        }
    }

    #[test]
    fn alloc_errors_say_what_to_do() {
        let texts = [
            (
                AllocError::LayoutOverflow,
                "layout overflow: size, header and alignment together exceed isize::MAX bytes; ask for fewer bytes or \
                 elements",
            ),
            (
                AllocError::UnsupportedAlignment { max: 2_097_152 },
                "unsupported alignment: blocks are aligned to at most 2097152 bytes; ask for no more than that",
            ),
            (
                AllocError::MemoryLimit { limit: 100, used: 90, requested: 20, pinned: 5 },
                "memory limit reached: 20 bytes were requested, 90 of 100 are in use and 5 pinned by holds; free \
                 blocks, return rents, or raise the limit with set_memory_limit",
            ),
            (
                AllocError::OutOfMemory { requested: 1_048_576 },
                "out of memory: the parent allocator refused 1048576 bytes; free memory or raise the process's limits, \
                 then try again",
            ),
            (
                AllocError::ReadersBehind { waiting: 9, limit: 8, thread: None },
                "readers are behind: 9 bytes of Versioned blocks are waiting for them, and the limit is 8; drop or repin the oldest \
                 reader, or raise the limit with reader_limit",
            ),
            (
                AllocError::HandlesExhausted,
                "handles exhausted: every slot of the handle table is taken; free some blocks, then try again",
            ),
            (
                AllocError::TypesExhausted,
                "types exhausted: at most 16384 types can be told apart; store fewer types, or use raw blocks from alloc_layout",
            ),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), text);
            assert_eq!(Error::from(error).to_string(), text);
        }
    }

    #[test]
    fn a_resize_error_has_its_cause() {
        let (busy, overflow) = (ResizeError::from(AccessError::Busy), ResizeError::from(AllocError::LayoutOverflow));
        assert_eq!(busy.to_string(), format!("block not resized: {}", AccessError::Busy));
        assert_eq!(overflow.to_string(), format!("block not resized: {}", AllocError::LayoutOverflow));
        assert_eq!(busy.source().and_then(|source| source.downcast_ref()), Some(&AccessError::Busy));
        assert_eq!(overflow.source().and_then(|source| source.downcast_ref()), Some(&AllocError::LayoutOverflow));
        assert_eq!(Error::from(busy), Error::Access(AccessError::Busy));
        assert_eq!(Error::from(overflow), Error::Alloc(AllocError::LayoutOverflow));
    }

    #[test]
    fn config_errors_name_the_setting() {
        let error = ConfigError::new("arena_bytes", 3, "it must be a power of two");
        assert_eq!((error.field, error.value.as_str(), error.why), ("arena_bytes", "3", "it must be a power of two"));
        assert_eq!(error.to_string(), "bad configuration: arena_bytes cannot be 3: it must be a power of two");
        assert_eq!(Error::from(error.clone()), Error::Config(error));
    }

    #[test]
    fn every_message_is_one_line() {
        let errors = [
            Error::from(AccessError::Busy),
            Error::from(AllocError::LayoutOverflow),
            Error::from(ConfigError::new("seed", 1, "no")),
        ];
        assert!(errors.iter().all(|error| !error.to_string().contains('\n')));
    }

    #[test]
    fn a_rejected_value_comes_back() {
        let cause = AllocError::OutOfMemory { requested: 64 };
        let rejected = Rejected::new(Plain(std::rc::Rc::new(7)), cause);
        assert_eq!(rejected.cause(), cause);
        assert_eq!(format!("{rejected:?}"), "Rejected { cause: OutOfMemory { requested: 64 }, .. }");
        assert_eq!(rejected.to_string(), format!("value not stored (into_inner gives it back): {cause}"));
        let source = StdError::source(&rejected).and_then(|source| source.downcast_ref::<AllocError>());
        assert_eq!(source, Some(&cause));
        assert_eq!(*rejected.into_inner().0, 7);
        assert_eq!(Error::from(Rejected::new("borrowed", cause)), Error::Alloc(cause));
        assert_eq!(Error::from(Rejected::new((), AccessError::Stale)), Error::Access(AccessError::Stale));
    }

    #[test]
    fn the_source_is_the_typed_error() {
        let error = Error::from(AccessError::Stale);
        assert_eq!(error.source().and_then(|source| source.downcast_ref()), Some(&AccessError::Stale));
        assert!(AccessError::Stale.source().is_none());
    }

    #[test]
    fn errors_cross_threads() {
        fn check<E: StdError + Send + Sync + 'static>() {}
        check::<AccessError>();
        check::<AllocError>();
        check::<ConfigError>();
        check::<Error>();
        check::<ResizeError>();
        check::<Rejected<Vec<u8>>>();
    }
}
