//! Millions of blocks come and go, and so does their memory, that of the handle table too, while the threads that used them
//! live on.
//!
//! What is resident is measured in a process of its own: this test starts itself again.

use memory_shuffler::{AccessError, Freed, Handle, RawHandle, Shuffler};
use std::num::NonZeroU64;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

mod common;
use common::{in_a_child, resident};

const THREADS: usize = 2;
// Without optimisation it would take most of a minute.
const BLOCKS: usize = if cfg!(debug_assertions) { 2_000_000 } else { 10_000_000 };
const MOST_LEFT: usize = 8 << 20;
const MOST_QUIET: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 3 });
const CHILD: &str = "GIVEN_BACK_CHILD";
const NOWHERE: &str = "NOWHERE_CHILD";
/// Set in the child that has little address space.
const SCARCE: &str = "MEMORY_SHUFFLER_SCARCE";

type Block = Handle<[u64; 2]>;
type List = Mutex<Vec<Block>>;

fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ seed;
    for end in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(end, (state % (end as u64 + 1)) as usize);
    }
}

/// Makes a list of blocks, and frees the other thread's.
fn work(shuffler: &Shuffler, lists: &[List; THREADS], own: usize, all_made: &Barrier) {
    {
        let mut list = lists[own].lock().unwrap();
        for (number, place) in (0..).zip(list.iter_mut()) {
            *place = shuffler.create([number; 2]).unwrap();
        }
        shuffle(&mut list, own as u64);
    }
    all_made.wait();
    for &block in lists[(own + 1) % THREADS].lock().unwrap().iter() {
        assert_eq!(shuffler.free(block), Ok(Freed::Now));
    }
}

/// Bytes that are left over when all is quiet, and for how long it was.
fn left_in_this_process() -> (usize, Duration) {
    let shuffler = Shuffler::new();
    // Places for the handles, every page of them touched before the first look.
    let some = shuffler.create([0; 2]).unwrap();
    let lists: [List; THREADS] = std::array::from_fn(|_| Mutex::new(vec![some; BLOCKS / THREADS]));
    assert_eq!(shuffler.free(some), Ok(Freed::Now));
    let before = resident().unwrap();
    let (all_made, all_freed, measured) = (Barrier::new(THREADS), Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    thread::scope(|scope| {
        for own in 0..THREADS {
            let (shuffler, lists, all_made, all_freed, measured) =
                (&shuffler, &lists, &all_made, &all_freed, &measured);
            scope.spawn(move || {
                work(shuffler, lists, own, all_made);
                all_freed.wait();
                // Alive, and idle.
                measured.wait();
            });
        }
        all_freed.wait();
        let start = Instant::now();
        let left = || resident().unwrap().saturating_sub(before);
        while left() > MOST_LEFT && start.elapsed() < MOST_QUIET {
            // It is to be quiet: a look takes time on a core, too.
            thread::sleep(Duration::from_millis(20));
        }
        let outcome = (left(), start.elapsed());
        println!("{:?}", shuffler.stats());
        measured.wait();
        outcome
    })
}

#[test]
fn millions_of_blocks_leave_nothing_behind() {
    if resident().is_none() {
        println!("skipped: this system does not tell what is resident");
        return;
    }
    if std::env::var(CHILD).is_ok() {
        let (left, quiet) = left_in_this_process();
        println!("\nleft: {left} {}", quiet.as_millis());
        return;
    }
    let start = Instant::now();
    let text = in_a_child("millions_of_blocks_leave_nothing_behind", CHILD, "1");
    let figures = text.lines().find_map(|line| line.strip_prefix("left: ")?.split_once(' '));
    let (left, quiet) = figures.unwrap_or_else(|| panic!("{text}"));
    println!("{left} bytes left after {quiet} ms of quiet, {:?} in all", start.elapsed());
    assert!(left.parse::<usize>().unwrap() <= MOST_LEFT, "{left} bytes are left: {text}");
}

/// Handles that name no block cost no memory when they are used, though there is address space for what they could name.
#[test]
fn handles_from_nowhere_touch_nothing() {
    const HANDLES: u64 = 100_000;
    let Some(_) = resident() else { return };
    if std::env::var_os(NOWHERE).is_none() {
        in_a_child("handles_from_nowhere_touch_nothing", NOWHERE, "1");
        return;
    }
    let shuffler = Shuffler::new();
    shuffler.create(1_u8).unwrap();
    let before = resident().unwrap();
    for number in 0..HANDLES {
        // Each in another page of memory, in its first life.
        let bits = (number * (1 << 32) / HANDLES) << 32 | 1;
        let handle = RawHandle::from_bits(NonZeroU64::new(bits | 1 << 40).unwrap());
        assert_eq!(shuffler.free(handle), Err(AccessError::Invalid));
        assert_eq!(shuffler.typed::<u8>(handle), Err(AccessError::Invalid));
        assert_eq!(shuffler.rent_pointer::<u8>(handle), Err(AccessError::Invalid));
        // SAFETY: there is no such block, so nobody's hold is returned.
        assert_eq!(unsafe { shuffler.return_pointer(handle) }, Err(AccessError::Invalid));
    }
    let more = resident().unwrap().saturating_sub(before);
    assert!(more < MOST_LEFT, "{HANDLES} handles made {more} bytes resident");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let tables = status.lines().find_map(|line| line.strip_prefix("VmPTE:")?.trim().strip_suffix(" kB"));
    let kilobytes: usize = tables.expect("a figure in kB").trim().parse().unwrap();
    assert!(kilobytes < 4096, "the system's page tables take {kilobytes} kB");
}

/// Where a process may have little address space, the table of handles does not take most of it.
#[test]
#[cfg(target_os = "linux")]
fn the_table_leaves_address_space_to_blocks() {
    const GIB: usize = 1 << 30;
    let test = "the_table_leaves_address_space_to_blocks";
    if std::env::var_os(SCARCE).is_some() {
        let shuffler = Shuffler::new();
        shuffler.create(1_u8).unwrap();
        let blocks = (0..100).map_while(|_| shuffler.alloc::<u8>(GIB).ok()).count();
        println!("\nblocks: {blocks}");
        return;
    }
    // So much that the table could have its range, and nobody else anything.
    let shell = format!("ulimit -v {} && exec \"$0\" {test} --exact --nocapture", 80 << 20);
    let mut command = std::process::Command::new("sh");
    let output = command.arg("-c").arg(shell).arg(std::env::current_exe().unwrap()).env(SCARCE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let blocks = text.lines().find_map(|line| line.strip_prefix("blocks: "));
    let blocks: usize = blocks.unwrap_or_else(|| panic!("{output:?}")).parse().unwrap();
    assert!(blocks > 60, "of 80 GiB of address space {blocks} could be had");
}
