//! Where the threads of a load and the thread that watches them meet.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The meeting place. The thread that makes it is the watcher.
#[derive(Debug)]
pub struct Stage {
    gate: Barrier,
    still_loading: AtomicU32,
    watcher: Thread,
}

impl Stage {
    /// For so many workers, and the watcher.
    pub fn new(workers: u32) -> Self {
        let gate = Barrier::new(workers as usize + 1);
        Self { gate, still_loading: AtomicU32::new(workers), watcher: thread::current() }
    }

    /// For workers: says that the bookkeeping is in place and waits for the start.
    pub fn ready(&self) {
        self.gate.wait();
        self.gate.wait();
    }

    /// For workers: says that the load is over and waits for the word to verify and free what is left.
    pub fn loaded(&self) {
        // Release: pairs with the acquire in `is_loading`, so the final counts are there to be read.
        if self.still_loading.fetch_sub(1, Ordering::Release) == 1 {
            self.watcher.unpark();
        }
        self.gate.wait();
    }

    /// For the watcher: waits until every worker is ready, gives the start, or gives the word that ends `loaded`.
    pub fn meet(&self) {
        self.gate.wait();
    }

    /// For the watcher: looks every 10 ms until the last worker is through.
    pub fn watch(&self, mut look: impl FnMut()) {
        while self.is_loading() {
            look();
            thread::park_timeout(LOOK_EVERY);
        }
    }

    fn is_loading(&self) -> bool {
        // Acquire: pairs with the release in `loaded`.
        self.still_loading.load(Ordering::Acquire) > 0
    }
}
