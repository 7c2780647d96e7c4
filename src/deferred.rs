//! What is put off until the readers of the moment are gone.
//!
//! A record goes through three places. Whoever unlinked something *retires* it: one push to a list, and nothing of the
//! epochs'. A step takes that list whole and *submits* it: one closure of the epochs' for the whole batch, since each costs an
//! allocation of 2 KiB and a place in a global queue. An epoch's closure runs in whichever thread finds it expired, inside
//! another reader's pin, so it only makes the batch *ready*; then steps carry its records out, one at a time.
//!
//! **Why no reader is passed over.** A record's readers are those that can still see what it is about. It was unlinked before
//! it was retired, and `retire`'s release and `submit`'s acquire make that happen before the closure is handed over. The
//! epochs seal what they are handed with the epoch that they read after a sequentially consistent fence, and a reader has one
//! between pinning and its first look. Either the reader's fence is the later one: then it sees the block unlinked. Or the
//! seal's is: then the epoch of the seal is not before the reader's, which lets it advance once at the most, and the closure
//! waits for two advances. So it does no harm that the batch is submitted by another thread than retired it, and at any later
//! time; but the list must be taken before the closure is handed over, not when it runs.
//!
//! What waits is counted, in records and in bytes of the memory that they hold back, from the moment that it is retired: so
//! that a reader that is kept for ever shows, and can be given a limit.

use crate::primitive::sync::atomic::{AtomicUsize, Ordering};
use crate::ready::Ready;
use crossbeam_epoch::Guard;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::vec;

/// Batches that are with the epochs at a time. While a reader holds them up, what is retired stays on its list, which costs
/// less than a closure each time that a step comes by.
const MOST_SUBMITTED: usize = 8;

/// A record, and the bytes that it holds back.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    pub(crate) record: R,
    pub(crate) bytes: usize,
}

type Batch<R> = Vec<Pending<R>>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Deferred<R> {
    retired: Ready<Pending<R>>,
    ready: Ready<Batch<R>>,
    /// What was taken from `ready` and is not carried out yet.
    queue: Mutex<VecDeque<vec::IntoIter<Pending<R>>>>,
    /// Of records that are retired or submitted.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Records that wait for movers: counted before they are put off, until they are carried out.
    for_movers: AtomicUsize,
    /// Of records that are ready or in the queue.
    due: AtomicUsize,
    due_bytes: AtomicUsize,
    /// Batches ever submitted, and ever made ready.
    submitted: AtomicUsize,
    expired: AtomicUsize,
}

// Relaxed, of all counts: they order nothing.
impl<R: Send + 'static> Deferred<R> {
    pub(crate) fn new() -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Self {
            retired: Ready::new(),
            ready: Ready::new(),
            queue: Mutex::default(),
            waiting: zero(),
            waiting_bytes: zero(),
            for_movers: zero(),
            due: zero(),
            due_bytes: zero(),
            submitted: zero(),
            expired: zero(),
        })
    }

    /// Puts a record off until every reader of this moment is gone; meanwhile it holds back so many bytes. What it is about was
    /// unlinked before.
    ///
    /// `true`: the next step must be told. (If not, it was told when the first of those was retired that are not submitted
    /// yet.)
    #[must_use]
    pub(crate) fn retire(&self, record: R, bytes: usize) -> bool {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.retired.push(Pending { record, bytes })
    }

    /// Adds a record that waits for no reader, but must not be carried out here.
    pub(crate) fn make_ready(&self, record: R, bytes: usize) {
        self.add_ready(vec![Pending { record, bytes }], bytes);
    }

    /// Takes records back that cannot be carried out yet.
    pub(crate) fn put_back(&self, records: Vec<Pending<R>>) {
        if !records.is_empty() {
            let bytes = total_bytes(&records);
            self.add_ready(records, bytes);
        }
    }

    fn add_ready(&self, batch: Batch<R>, bytes: usize) {
        self.due.fetch_add(batch.len(), Ordering::Relaxed);
        self.due_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.ready.push(batch);
    }

    /// Hands everything that was retired to the epochs, if there is room for another batch; `true`: there was.
    pub(crate) fn submit(self: &Arc<Self>, pin: impl FnOnce() -> Guard) -> bool {
        if self.in_flight() >= MOST_SUBMITTED {
            return false;
        }
        let batch = self.retired.take_all();
        if batch.is_empty() {
            return true;
        }
        self.submitted.fetch_add(1, Ordering::Relaxed);
        let (records, bytes) = (batch.len(), total_bytes(&batch));
        let deferred = self.clone();
        let guard = pin();
        guard.defer(move || {
            deferred.add_ready(batch, bytes);
            deferred.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            deferred.waiting.fetch_sub(records, Ordering::Relaxed);
            deferred.expired.fetch_add(1, Ordering::Relaxed);
        });
        // At once: an idle thread would keep it.
        guard.flush();
        true
    }

    fn in_flight(&self) -> usize {
        // This one first, so that it is not found to be more.
        let expired = self.expired.load(Ordering::Relaxed);
        self.submitted.load(Ordering::Relaxed).saturating_sub(expired)
    }

    /// Batches ever submitted.
    pub(crate) fn submitted(&self) -> usize {
        self.submitted.load(Ordering::Relaxed)
    }

    /// Of those, batches that are ready.
    pub(crate) fn expired(&self) -> usize {
        self.expired.load(Ordering::Relaxed)
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

    /// Records to carry out now.
    #[inline]
    pub(crate) fn due(&self) -> usize {
        self.due.load(Ordering::Relaxed)
    }

    /// Records that are not carried out, and bytes that they hold back.
    #[inline]
    pub(crate) fn backlog(&self) -> (usize, usize) {
        (self.waiting() + self.due(), self.waiting_bytes() + self.due_bytes.load(Ordering::Relaxed))
    }

    /// The next record to carry out.
    pub(crate) fn next(&self) -> Option<Pending<R>> {
        self.pop(self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`next`](Self::next), if nobody else is at it: for those who must not wait for a step.
    pub(crate) fn try_next(&self) -> Option<Pending<R>> {
        match self.queue.try_lock() {
            Ok(queue) => self.pop(queue),
            Err(TryLockError::Poisoned(poisoned)) => self.pop(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn pop(&self, mut queue: MutexGuard<'_, VecDeque<vec::IntoIter<Pending<R>>>>) -> Option<Pending<R>> {
        loop {
            // Also after a batch that was handed out to its end.
            if queue.is_empty() {
                queue.extend(self.ready.take_all().into_iter().map(Vec::into_iter));
            }
            let Some(pending) = queue.front_mut()?.next() else {
                queue.pop_front();
                continue;
            };
            self.due.fetch_sub(1, Ordering::Relaxed);
            self.due_bytes.fetch_sub(pending.bytes, Ordering::Relaxed);
            return Some(pending);
        }
    }
}

fn total_bytes<R>(records: &[Pending<R>]) -> usize {
    records.iter().map(|pending| pending.bytes).sum()
}
