//! What is put off until the readers of the moment are gone.
//!
//! An epoch's closure runs in whichever thread finds it expired, inside another reader's pin. So it only takes the record
//! off what waits and pushes it to the ready list; a step carries it out. What waits is counted, in records and in bytes of
//! the memory that they hold back, so that a reader that is kept for ever shows, and can be given a limit.

use crate::primitive::sync::atomic::{AtomicUsize, Ordering};
use crate::ready::Ready;
use crossbeam_epoch::Guard;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Deferred<R> {
    pub(crate) ready: Ready<R>,
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// What was taken from `ready` and is not carried out yet.
    queue: Mutex<VecDeque<R>>,
}

impl<R: Send + 'static> Deferred<R> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: Ready::new(),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            queue: Mutex::default(),
        })
    }

    /// Puts a record off until every reader of this moment is gone; meanwhile it holds back so many bytes. The guard is of
    /// this moment too, and what the record is about was unlinked before.
    pub(crate) fn put_off(self: &Arc<Self>, guard: &Guard, record: R, bytes: usize) {
        // Relaxed, here and below: the counts order nothing.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let deferred = self.clone();
        guard.defer(move || {
            deferred.ready.push(record);
            deferred.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            deferred.waiting.fetch_sub(1, Ordering::Relaxed);
        });
        // At once: an idle thread would keep it.
        guard.flush();
    }

    /// Records that wait for readers.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes that they hold back.
    #[inline]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// The next record to carry out.
    pub(crate) fn next(&self) -> Option<R> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            queue.extend(self.ready.take_all());
        }
        queue.pop_front()
    }

    /// Takes records back that cannot be carried out yet.
    pub(crate) fn put_back(&self, records: Vec<R>) {
        if !records.is_empty() {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).extend(records);
        }
    }

    /// Whether there is nothing to carry out now.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
