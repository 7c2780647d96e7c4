//! What becomes of destructors' panics: the first goes on, and what any other carried is not dropped.

use std::any::Any;
use std::mem;

/// What a destructor's panic carried.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Keeps the first panic, and forgets the payload of any other: to drop it could panic again.
pub(crate) fn keep_first(first: &mut Option<Panic>, outcome: Result<(), Panic>) {
    if let Err(panic) = outcome {
        match first {
            Some(_) => mem::forget(panic),
            None => *first = Some(panic),
        }
    }
}
