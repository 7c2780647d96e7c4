use std::alloc::{GlobalAlloc, Layout, System};

use super::*;
use crate::backend::faulty::{Fault, Faulty};
use crate::backend::global::Global;
use crate::failure::Trouble;
use crate::trace::{Builder, Trace};

/// Blocks that come and go, some resized, some aligned, some left alive; `blocks` of them.
fn trace(blocks: u64) -> Trace {
    let mut builder = Builder::default();
    for id in 0..blocks {
        builder.allocate(id, id * 37 % 3000, 1 << (id % 8)).unwrap();
        if id % 5 == 0 {
            builder.resize(id / 2 * 2, id * 53 % 5000).unwrap_or(());
        }
        if id % 3 == 0 {
            builder.free(id / 3).unwrap_or(());
        }
    }
    builder.finish("test".into())
}

fn load(trace: &Trace, threads: u32, cross: bool) -> Load<'_> {
    Load { ops: &trace.ops, slots: trace.slots, peak_at: trace.peak_at, threads, cross, settle: Duration::ZERO }
}

fn run<B: Backend>(mut backend: B, load: &Load) -> Result<Figures, Failure> {
    replay(&mut backend, load, &mut |_| ())
}

#[test]
fn every_block_is_verified_on_any_number_of_threads() {
    let trace = trace(5000);
    let count = |which: fn(&Op) -> bool| trace.ops.iter().filter(|op| which(op)).count() as u64;
    let allocated = count(|op| matches!(op, Op::Allocate { .. }));
    let resized = count(|op| matches!(op, Op::Resize { .. }));
    let survivors = allocated - count(|op| matches!(op, Op::Free { .. }));
    for threads in [1, 2, 5] {
        let near = run(Global(System), &load(&trace, threads, false)).unwrap();
        // Once at each resize and each free, the survivors in their pass as well.
        assert_eq!(near.blocks_verified, u64::from(threads) * (resized + allocated + survivors));
        assert!(near.end_live > 0 && near.end_live == near.settled_live && near.peak_live >= near.end_live);

        // Handed over, a resized block is checked by its new owner too.
        let cross = run(Global(System), &load(&trace, threads, true)).unwrap();
        assert_eq!(cross.blocks_verified, u64::from(threads) * (2 * resized + allocated + survivors));
        assert_eq!(cross.end_live, near.end_live);
    }
}

#[test]
fn the_peak_of_one_copy_is_exact() {
    let mut builder = Builder::default();
    builder.allocate(0, 1000, 8).unwrap();
    builder.allocate(1, 5000, 8).unwrap();
    builder.free(1).unwrap();
    builder.allocate(2, 100, 8).unwrap();
    let trace = builder.finish("test".into());
    let figures = run(Global(System), &load(&trace, 1, false)).unwrap();
    assert_eq!((figures.peak_live, figures.end_live), (6000, 1100));
    assert_eq!((figures.peak_ratio, figures.end_ratio), (None, None), "too little for a ratio");
}

/// 64 blocks of 4096 bytes at a multiple of 4096, all freed.
fn pages() -> Trace {
    let mut builder = Builder::default();
    (0..64).for_each(|id| builder.allocate(id, 4096, 4096).unwrap());
    (0..64).for_each(|id| builder.free(id).unwrap());
    builder.finish("pages".into())
}

#[test]
fn a_spoilt_byte_stops_the_replay() {
    for cross in [false, true] {
        let failure = run(Faulty::new(Fault::Spoil, 9), &load(&pages(), 1, cross)).unwrap_err();
        let Failure::Block { thread: 0, birth: 9, trouble: Trouble::Content { offset: 4095, size: 4096, .. } } =
            failure
        else {
            panic!("{failure:?}");
        };
        assert!(run(Faulty::new(Fault::Spoil, 100), &load(&pages(), 3, cross)).is_err(), "the others end too");
    }
}

#[test]
fn refusals_misalignment_and_leaks_are_told() {
    let pages = pages();
    let told = |fault| run(Faulty::new(fault, 3), &load(&pages, 2, true)).unwrap_err();
    assert!(matches!(told(Fault::Refuse), Failure::Block { trouble: Trouble::Refused { .. }, .. }));
    assert!(matches!(told(Fault::Shift), Failure::Block { trouble: Trouble::Misaligned { alignment: 4096, .. }, .. }));
    assert_eq!(told(Fault::LeaveAlive), Failure::LeftAlive { blocks: 1 });
}

/// An allocator that has had enough.
struct Exhausted;

// SAFETY: it hands out no memory at all.
unsafe impl GlobalAlloc for Exhausted {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        std::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[test]
fn running_out_is_a_failure_and_not_a_crash() {
    let failure = run(Global(Exhausted), &load(&pages(), 4, true)).unwrap_err();
    assert!(matches!(failure, Failure::Block { birth: 0, trouble: Trouble::Refused { .. }, .. }), "{failure:?}");
}
