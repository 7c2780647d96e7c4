//! A spike of allocations, of which little stays: how much memory is left, beside the system's allocator.
//!
//! The spike of eight threads is a quarter of the size that is usual for it: 8 × 40 MiB of 32 to 4096 bytes, of which all
//! but every 16th block are freed. Each allocator runs in a process of its own: this test starts itself again.

use memory_shuffler::{Freed, RawHandle, Shuffler};
use std::alloc::{GlobalAlloc, Layout, System};
use std::thread;
use std::time::Duration;

mod common;
use common::{in_a_child, resident};

const THREADS: usize = 8;
const BYTES_A_THREAD: usize = 40 << 20;
const SMALLEST: usize = 32;
const LARGEST: usize = 4096;
const KEEP_EVERY: usize = 16;
const CHILD: &str = "SPIKE_CHILD";

fn sizes(thread: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x1234_5678_9ABC_DEF1_u64.wrapping_mul(thread as u64 + 1);
    let mut left = BYTES_A_THREAD;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let size = SMALLEST + (state % (LARGEST - SMALLEST + 1) as u64) as usize;
        left = left.checked_sub(size)?;
        Some(size)
    })
}

/// Runs the spike and returns the live bytes that are left.
fn spike<B: Copy + Send>(
    tables: Vec<Vec<Option<(B, usize)>>>,
    allocate: impl Fn(usize) -> B + Sync,
    free: impl Fn(B, usize) + Sync,
) -> usize {
    thread::scope(|scope| {
        let (allocate, free) = (&allocate, &free);
        let threads = tables.into_iter().enumerate().map(|(thread, mut table)| {
            scope.spawn(move || {
                for (place, size) in table.iter_mut().zip(sizes(thread)) {
                    *place = Some((allocate(size), size));
                }
                let mut live = 0;
                for (index, place) in table.iter().enumerate() {
                    let Some((block, size)) = *place else { continue };
                    if index % KEEP_EVERY == 0 {
                        live += size;
                    } else {
                        free(block, size);
                    }
                }
                // The table stays: it was counted before the spike.
                std::mem::forget(table);
                live
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// Tables for the blocks, every page of them touched.
fn tables<B: Copy>() -> Vec<Vec<Option<(B, usize)>>> {
    (0..THREADS)
        .map(|thread| {
            let mut table = vec![None; sizes(thread).count()];
            table.iter_mut().for_each(|place| std::hint::black_box(place).clone_from(&None));
            table
        })
        .collect()
}

fn ratio_in_this_process(allocator: &str) -> f64 {
    let fill = |address: *mut u8, size: usize| {
        // SAFETY: both callers pass a block of `size` bytes that is theirs alone.
        unsafe { address.write_bytes(0x5A, size) };
    };
    let settle = |base: usize, live: usize| {
        // What is measured is what is left two seconds after the load.
        thread::sleep(Duration::from_secs(2));
        (resident().unwrap() - base) as f64 / live as f64
    };
    if allocator == "system" {
        let layout = |size: usize| Layout::from_size_align(size, 8).unwrap();
        let tables = tables::<usize>();
        let base = resident().unwrap();
        let allocate = |size: usize| {
            // SAFETY: the layout is not empty.
            let address = unsafe { System.alloc(layout(size)) };
            fill(address, size);
            address.expose_provenance()
        };
        // SAFETY: allocated above with this layout, and freed once.
        let free = |block: usize, size: usize| unsafe {
            System.dealloc(std::ptr::with_exposed_provenance_mut(block), layout(size));
        };
        let live = spike(tables, allocate, free);
        return settle(base, live);
    }
    let shuffler = Shuffler::new();
    let tables = tables::<RawHandle>();
    let base = resident().unwrap();
    let allocate = |size: usize| {
        let block = shuffler.alloc_layout(Layout::from_size_align(size, 8).unwrap()).unwrap();
        fill(shuffler.rent_pointer_mut::<u8>(block).unwrap().as_ptr(), size);
        // SAFETY: rented in the line above.
        unsafe { shuffler.return_pointer(block) }.unwrap();
        block
    };
    let free = |block: RawHandle, _| assert_eq!(shuffler.free(block), Ok(Freed::Now));
    let live = spike(tables, allocate, free);
    let ratio = settle(base, live);
    println!("{:?}", shuffler.stats());
    ratio
}

fn ratio_of(allocator: &str) -> f64 {
    let text = in_a_child("a_spike_leaves_little_behind", CHILD, allocator);
    let line = text.lines().find_map(|line| line.strip_prefix("ratio: "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[test]
fn a_spike_leaves_little_behind() {
    if resident().is_none() {
        println!("skipped: this system does not tell what is resident");
        return;
    }
    if let Ok(allocator) = std::env::var(CHILD) {
        println!("\nratio: {}", ratio_in_this_process(&allocator));
        return;
    }
    let (shuffler, system) = (ratio_of("shuffler"), ratio_of("system"));
    println!("resident/live 2 s after the spike: {shuffler:.3}, the system's allocator {system:.3}");
    assert!(shuffler <= 1.25, "{shuffler}");
    assert!(system > 4.0, "the spike did not fragment the system's allocator: {system}");
}
