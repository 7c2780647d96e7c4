//! One bit by which any thread tells the compactor's thread that there may be work.

use crate::primitive::sync::atomic::{AtomicBool, Ordering};

/// Raised by many, lowered by one. A raise is never lost: whoever lowers the signal afterwards sees all that came before.
#[derive(Debug)]
pub(crate) struct Signal(AtomicBool);

impl Signal {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Raises the signal. `true`: it was not up, so the sleeper must be woken.
    pub(crate) fn raise(&self) -> bool {
        // A read-modify-write, so that it is either seen by the lowering after, or comes after one. Release: pairs with the
        // acquire in `lower`; what there is to do is visible.
        !self.0.swap(true, Ordering::Release)
    }

    /// Lowers the signal. `true`: it was up.
    pub(crate) fn lower(&self) -> bool {
        // Acquire: pairs with the release in `raise`.
        self.0.swap(false, Ordering::Acquire)
    }
}
