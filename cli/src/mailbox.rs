//! Boxes through which a thread hands batches of blocks to the next one, which frees them.
//!
//! A box holds at most one batch and hands over by swapping vectors, so after the start nothing is allocated here: only
//! the allocator under test grows. Nobody sleeps on a full box, since the threads stand in a ring and could all wait
//! for each other; a sender whose batch is not taken empties its own box and tries again.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A box with one sender and one receiver. Batches come out in the order they went in.
#[derive(Debug)]
pub struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    batch: Vec<T>,
    rounds_closed: u32,
}

impl<T> Mailbox<T> {
    /// An empty box for batches of up to `capacity`.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { inner: Mutex::new(Inner { batch: Vec::with_capacity(capacity), rounds_closed: 0 }) }
    }

    /// Puts `batch` in and leaves an empty vector in its place, unless the last batch has not been taken.
    pub fn deliver(&self, batch: &mut Vec<T>) -> bool {
        let mut inner = self.lock();
        let taken = inner.batch.is_empty();
        if taken {
            mem::swap(&mut inner.batch, batch);
        }
        taken
    }

    /// Takes what is there into `batch`, which must be empty.
    pub fn collect(&self, batch: &mut Vec<T>) {
        debug_assert!(batch.is_empty(), "a batch would be delivered back");
        mem::swap(&mut self.lock().batch, batch);
    }

    /// Says that the sender has delivered everything of this round.
    pub fn close_round(&self) {
        self.lock().rounds_closed += 1;
    }

    /// Whether everything of the first `rounds` rounds has been delivered and taken.
    pub fn is_done_with(&self, rounds: u32) -> bool {
        let inner = self.lock();
        inner.batch.is_empty() && inner.rounds_closed >= rounds
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Swaps and counts leave nothing half done, so a panicking holder spoils nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_full_box_takes_nothing_more() {
        let mailbox = Mailbox::with_capacity(4);
        let mut first = vec![1, 2];
        assert!(mailbox.deliver(&mut first) && first.is_empty());
        let mut second = vec![3];
        assert!(!mailbox.deliver(&mut second) && second == [3]);
        let mut taken = Vec::new();
        mailbox.collect(&mut taken);
        assert_eq!(taken, [1, 2]);
        assert!(mailbox.deliver(&mut second));
    }

    #[test]
    fn a_round_is_done_when_closed_and_empty() {
        let mailbox = Mailbox::with_capacity(4);
        assert!(mailbox.is_done_with(0) && !mailbox.is_done_with(1));
        mailbox.deliver(&mut vec![1]);
        mailbox.close_round();
        assert!(!mailbox.is_done_with(1));
        mailbox.collect(&mut Vec::new());
        assert!(mailbox.is_done_with(1) && !mailbox.is_done_with(2));
    }

    #[test]
    fn batches_arrive_in_order_from_another_thread() {
        let mailbox = Mailbox::with_capacity(8);
        thread::scope(|scope| {
            scope.spawn(|| {
                for start in 0..200 {
                    let mut batch = vec![start * 2, start * 2 + 1];
                    while !mailbox.deliver(&mut batch) {
                        thread::yield_now();
                    }
                }
                mailbox.close_round();
            });
            let (mut all, mut batch) = (Vec::new(), Vec::new());
            while !mailbox.is_done_with(1) {
                mailbox.collect(&mut batch);
                all.append(&mut batch);
                thread::yield_now();
            }
            assert_eq!(all, (0..400).collect::<Vec<_>>());
        });
    }
}
