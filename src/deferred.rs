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
    /// Records that wait for movers: counted before they are put off, until they are carried out.
    for_movers: AtomicUsize,
    /// What was taken from `ready` and is not carried out yet.
    queue: Mutex<VecDeque<R>>,
}

impl<R: Send + 'static> Deferred<R> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: Ready::new(),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            for_movers: AtomicUsize::new(0),
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

    /// Counts a record that waits for movers, before it is put off.
    pub(crate) fn begin_wait_for_movers(&self) {
        self.for_movers.fetch_add(1, Ordering::Relaxed);
    }

    /// It waits no more.
    pub(crate) fn end_wait_for_movers(&self) {
        self.for_movers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a record waits for movers. Who gave back a claim that a step met, which came to such a record, sees it counted:
    /// the step had the record from who counted it, and the claims of an arena are read-modify-writes of one word.
    #[inline]
    pub(crate) fn waits_for_movers(&self) -> bool {
        self.for_movers.load(Ordering::Relaxed) > 0
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
