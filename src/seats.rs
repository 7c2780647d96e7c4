//! Who reads, and since when.
//!
//! To take a reader must cost next to nothing: it neither reads the clock nor writes what others write. So each registration
//! with the epochs has a *seat*, in which its one user keeps a serial number, odd while a reader is pinned and another for
//! each time that one was. Whoever wants to know how long (the compactor while something waits, statistics, a call that the
//! limit refuses) notes the number that it saw and when: a reader is as old as the first look that saw it.
//!
//! A registration and its seat belong to a shard and go from lease to lease with it. A reader that outlives its thread's lease
//! (it is in a thread-local that is dropped later) keeps both to itself: nobody else counts in the seat until it is gone.

use crate::primitive::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Thread, ThreadId};
use std::time::Duration;

/// Where the readers of one registration are counted. Its user alone writes it; a hand-over to the next goes through a lock.
///
/// All accesses are relaxed: to others these are figures, and nothing is read because of them.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Seat {
    serial: AtomicU64,
    readers: AtomicUsize,
    /// The lease has ended and readers have not.
    is_left: AtomicBool,
    index: usize,
}

impl Seat {
    fn new(index: usize) -> Self {
        Self { serial: AtomicU64::new(0), readers: AtomicUsize::new(0), is_left: AtomicBool::new(false), index }
    }

    #[inline]
    fn advance(&self, by: u64) {
        self.serial.store(self.serial.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    }

    fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// One reader more.
    #[inline]
    fn enter(&self) {
        let readers = self.readers.load(Ordering::Relaxed);
        if readers == 0 {
            self.advance(1);
        }
        self.readers.store(readers + 1, Ordering::Relaxed);
    }

    /// One reader less, which is unpinned. `true`: the seat has nobody any more, and the caller gives it back.
    #[inline]
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        let readers = self.readers.load(Ordering::Relaxed) - 1;
        self.readers.store(readers, Ordering::Relaxed);
        if readers > 0 {
            return false;
        }
        self.advance(1);
        self.is_left.load(Ordering::Relaxed)
    }

    /// The reader was pinned anew. (If there are others beside it, that did nothing.)
    pub(crate) fn renew(&self) {
        if self.readers.load(Ordering::Relaxed) == 1 {
            self.advance(2);
        }
    }
}

/// A registration with the readers' epochs, and its seat.
#[derive(Debug)]
pub(crate) struct Registration {
    local: LocalHandle,
    seat: Arc<Seat>,
}

impl Registration {
    pub(crate) fn new(collector: &Collector, seat: Arc<Seat>) -> Self {
        Self { local: collector.register(), seat }
    }

    /// Pins for a reader, which is counted in the seat and [leaves](Seat::leave) it.
    #[inline]
    pub(crate) fn enter(&self) -> (Guard, &Arc<Seat>) {
        self.seat.enter();
        (self.local.pin(), &self.seat)
    }

    /// Pins for a moment.
    pub(crate) fn pin(&self) -> Guard {
        self.local.pin()
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// Ends the lease's part in a registration, on the thread of the lease: `None` if readers outlive it, which keep it to
    /// themselves.
    pub(crate) fn end_lease(self) -> Option<Self> {
        if self.seat.has_readers() {
            self.seat.is_left.store(true, Ordering::Relaxed);
            return None;
        }
        Some(self)
    }
}

/// A seat with what others know of it.
#[derive(Debug)]
struct Place {
    seat: Arc<Seat>,
    /// Who sits there, if that is known.
    thread: Option<Thread>,
    /// The serial number that the last look saw, and the first look that saw it.
    seen: u64,
    since: u64,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    /// Indices of those that nobody has.
    idle: Vec<usize>,
    looked: Option<u64>,
}

/// A reader that may hold memory back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OldestReader {
    /// Whose it is; [`Shuffler::thread_name`](crate::Shuffler::thread_name) tells its name. `None`: a thread took it whose
    /// thread-local storage was gone already.
    pub thread: Option<ThreadId>,
    /// Since it was first seen, by the compactor, which looks while something waits, or by a call of `stats`: a reader itself
    /// reads no clock. [`Reader::repin`](crate::Reader::repin) begins anew.
    pub age: Duration,
}

/// All seats of a shuffler. They are kept for as long as it is.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<Places>);

impl Seats {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for a new registration of this thread.
    pub(crate) fn take(&self, thread: Option<Thread>) -> Arc<Seat> {
        let mut places = self.places();
        let index = places.idle.pop().unwrap_or_else(|| {
            let index = places.all.len();
            places.all.push(Place { seat: Arc::new(Seat::new(index)), thread: None, seen: 0, since: 0 });
            index
        });
        let place = &mut places.all[index];
        place.thread = thread;
        place.seat.clone()
    }

    /// Notes that a registration is another thread's from now on, or nobody's.
    pub(crate) fn assign(&self, seat: &Seat, thread: Option<Thread>) {
        self.places().all[seat.index].thread = thread;
    }

    /// Takes a seat back whose last reader [said](Seat::leave) so.
    #[cold]
    pub(crate) fn give_back(&self, seat: &Seat) {
        seat.is_left.store(false, Ordering::Relaxed);
        let mut places = self.places();
        places.all[seat.index].thread = None;
        places.idle.push(seat.index);
    }

    /// Notes what every seat shows at this millisecond; the oldest reader among them.
    pub(crate) fn look(&self, now: u64) -> Option<OldestReader> {
        let mut places = self.places();
        places.looked = Some(now);
        let mut oldest: Option<&Place> = None;
        for place in &mut places.all {
            let serial = place.seat.serial.load(Ordering::Relaxed);
            if serial != place.seen {
                (place.seen, place.since) = (serial, now);
            }
            if serial % 2 == 1 && oldest.is_none_or(|oldest| place.since < oldest.since) {
                oldest = Some(place);
            }
        }
        oldest.map(|place| OldestReader {
            thread: place.thread.as_ref().map(Thread::id),
            age: Duration::from_millis(now.saturating_sub(place.since)),
        })
    }

    /// As [`look`](Self::look), once a millisecond at the most, for those who may come often.
    pub(crate) fn glance(&self, now: u64) {
        if self.places().looked != Some(now) {
            self.look(now);
        }
    }

    /// The name of a thread that has a seat.
    pub(crate) fn name(&self, id: ThreadId) -> Option<String> {
        let places = self.places();
        let thread = places.all.iter().filter_map(|place| place.thread.as_ref()).find(|thread| thread.id() == id)?;
        thread.name().map(str::to_owned)
    }
}
