//! The ready list: work that must not run where it fell due.
//!
//! A destructor may not run inside a stranger's rent or another thread's reader, and an arena may not be recycled inside
//! an epoch's closure. So those push a record here, which takes one compare-exchange, and `step` carries the records out.
//! It is a stack of Treiber's kind that is only ever emptied whole, so that no node is looked at while others may free it.

use crate::primitive::sync::atomic::{AtomicPtr, Ordering};
use std::ptr;

struct Node<T> {
    value: T,
    next: *mut Node<T>,
}

/// A lock-free stack that is emptied whole.
#[derive(Debug)]
pub(crate) struct Ready<T> {
    head: AtomicPtr<Node<T>>,
}

impl<T> Ready<T> {
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Adds a record. `true`: there was none.
    pub(crate) fn push(&self, value: T) -> bool {
        let node = Box::into_raw(Box::new(Node { value, next: ptr::null_mut() }));
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is this call's own until the exchange below succeeds.
            unsafe { (*node).next = head };
            // Release: pairs with the acquire in `take_all`; the record is visible to whoever carries it out.
            match self.head.compare_exchange(head, node, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return head.is_null(),
                Err(found) => head = found,
            }
        }
    }

    /// Takes every record, oldest first.
    pub(crate) fn take_all(&self) -> Vec<T> {
        // Acquire: pairs with the release in `push`.
        let mut node = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let mut values = Vec::new();
        while !node.is_null() {
            // SAFETY: `push` made the node from a box, and the swap made this call its only owner.
            let owned = unsafe { Box::from_raw(node) };
            node = owned.next;
            values.push(owned.value);
        }
        values.reverse();
        values
    }
}

impl<T> Drop for Ready<T> {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

// SAFETY: a record is handed from the pusher to the taker whole; nobody has a reference to it in between.
unsafe impl<T: Send> Send for Ready<T> {}
// SAFETY: as above; `&Ready` gives out values, never references to them.
unsafe impl<T: Send> Sync for Ready<T> {}
