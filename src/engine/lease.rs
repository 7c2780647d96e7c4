//! How a thread comes to its shard.
//!
//! The first use leases one and keeps it until the thread ends; later uses find it in one thread-local read. Shufflers are
//! told apart by numbers that are never used again, so a lease of a shuffler that is gone matches nothing. Where
//! thread-local storage is gone, in the destructors of other thread-locals, a shard is leased for the one use.

use super::Core;
use crate::arena::shard::{Bump, Counts, Private, Role, Shard, ShardRef};
use crate::seats::Registration;
use std::cell::{Cell, RefCell};
use std::sync::Weak;
use std::{ptr, thread};

thread_local! {
    /// The lease that was used last. It has no destructor, so it can be read until the thread is gone.
    static LAST: Cell<(u64, *const Shard)> = const { Cell::new((0, ptr::null())) };
    static LEASES: RefCell<Leases> = const { RefCell::new(Leases(Vec::new())) };
}

struct Lease {
    number: u64,
    shard: ShardRef,
    core: Weak<Core>,
}

struct Leases(Vec<Lease>);

impl Drop for Leases {
    fn drop(&mut self) {
        LAST.set((0, ptr::null()));
        for lease in self.0.drain(..) {
            if let Some(core) = lease.core.upgrade() {
                // SAFETY: this thread leases the shard, until here.
                unsafe { end_lease(&core, lease.shard) };
            }
        }
    }
}

/// Hands a shard back. If readers of this thread outlive the lease, they keep the registration to themselves.
///
/// # Safety
///
/// The caller leases the shard, and does not use it after this.
unsafe fn end_lease(core: &Core, shard: ShardRef) {
    // SAFETY: the caller's promise.
    let private = unsafe { &mut *(*shard.0).private.get() };
    private.thread = None;
    private.epoch = private.epoch.take().and_then(Registration::end_lease);
    if let Some(registration) = &private.epoch {
        core.seats.assign(registration.seat(), None);
    }
    let sparse = |bump: &Bump| bump.state().is_some_and(|(_, _, dead)| dead >= core.pool.worth_sealing());
    // For a pass of random placement, whatever lies there can be moved now.
    let is_worth_sealing = private.bumps.iter().any(sparse) || core.makes_passes();
    core.shards.hand_back(shard, Role::Mutator);
    if is_worth_sealing {
        core.notify();
    }
}

/// Calls `work` with the calling thread's shard.
///
/// `work` must not run user code, and must not come here again for the same core.
#[inline]
pub(crate) fn with_shard<R>(core: &Core, work: impl FnOnce(&mut Private, &Counts, u32) -> R) -> R {
    let (number, shard) = LAST.get();
    if number == core.number {
        // SAFETY: shards live as long as the core, and this thread leases the one that `LAST` names under the core's number.
        return unsafe { enter(shard, work) };
    }
    with_shard_slow(core, work)
}

/// # Safety
///
/// The caller leases the shard.
#[inline]
unsafe fn enter<R>(shard: *const Shard, work: impl FnOnce(&mut Private, &Counts, u32) -> R) -> R {
    // SAFETY: the caller leases the shard, so it is there and nobody else uses its private part; `work` does not come here
    // again, so there is no second reference.
    let (private, shard) = unsafe { (&mut *(*shard).private.get(), &*shard) };
    work(private, &shard.counts, shard.id)
}

/// As [`with_shard`], but only if the thread used this core's shard last: the common case, without the code for others.
#[inline]
pub(crate) fn with_last_shard<R>(core: &Core, work: impl FnOnce(&mut Private, &Counts) -> Option<R>) -> Option<R> {
    // SAFETY: the core is borrowed.
    unsafe { with_last_shard_of(core.number, work) }
}

/// As [`with_last_shard`], and never if the core scrubs.
#[inline]
pub(crate) fn with_last_shard_unscrubbed<R>(
    core: &Core,
    work: impl FnOnce(&mut Private, &Counts) -> Option<R>,
) -> Option<R> {
    // SAFETY: the core is borrowed; if it scrubs, the number is nobody's.
    unsafe { with_last_shard_of(core.unscrubbed_number, work) }
}

/// # Safety
///
/// The core with this number is there, or there never is one.
#[inline]
unsafe fn with_last_shard_of<R>(core: u64, work: impl FnOnce(&mut Private, &Counts) -> Option<R>) -> Option<R> {
    let (number, shard) = LAST.get();
    if number != core {
        return None;
    }
    // SAFETY: as in `with_shard`.
    unsafe { enter(shard, |private, counts, _| work(private, counts)) }
}

#[cold]
#[inline(never)]
fn with_shard_slow<R>(core: &Core, work: impl FnOnce(&mut Private, &Counts, u32) -> R) -> R {
    if let Ok(shard) = LEASES.try_with(|leases| leased(core, &mut leases.borrow_mut().0)) {
        LAST.set((core.number, shard.0));
        // SAFETY: this thread leases the shard.
        return unsafe { enter(shard.0, work) };
    }
    let shard = core.shards.lease(Role::Mutator);
    // SAFETY: leased just now, for this one use.
    let result = unsafe { enter(shard.0, work) };
    // SAFETY: leased above, and the use is over.
    unsafe { end_lease(core, shard) };
    result
}

fn leased(core: &Core, leases: &mut Vec<Lease>) -> ShardRef {
    if let Some(lease) = leases.iter().find(|lease| lease.number == core.number) {
        return lease.shard;
    }
    leases.retain(|lease| lease.core.strong_count() > 0);
    let shard = core.shards.lease(Role::Mutator);
    // SAFETY: leased just now.
    let private = unsafe { &mut *(*shard.0).private.get() };
    private.thread = Some(thread::current());
    if let Some(registration) = &private.epoch {
        core.seats.assign(registration.seat(), private.thread.clone());
    }
    leases.push(Lease { number: core.number, shard, core: core.weak.clone() });
    shard
}

/// A shard leased for the length of a step.
#[derive(Debug)]
pub(crate) struct MoverLease<'a> {
    core: &'a Core,
    shard: ShardRef,
}

impl<'a> MoverLease<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self { core, shard: core.shards.lease(Role::Mover) }
    }

    pub(crate) fn private(&mut self) -> &mut Private {
        // SAFETY: the shard is leased to this value alone, which is borrowed exclusively.
        unsafe { &mut *(*self.shard.0).private.get() }
    }

    pub(crate) fn counts(&self) -> &Counts {
        // SAFETY: shards live as long as the core.
        unsafe { &(*self.shard.0).counts }
    }

    pub(crate) fn id(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.shard.0).id }
    }
}

impl Drop for MoverLease<'_> {
    fn drop(&mut self) {
        self.core.shards.hand_back(self.shard, Role::Mover);
    }
}
