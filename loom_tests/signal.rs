//! Models of the compactor's signal: no work is announced in vain.

#[path = "support/model.rs"]
#[allow(dead_code, reason = "the models join their threads when they like")]
mod model;
#[path = "support/primitive.rs"]
mod primitive;
#[path = "../src/compact/signal.rs"]
mod signal;

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use model::check;
use signal::Signal;
use std::sync::Arc;

struct Place {
    signal: Signal,
    /// What there is to do; relaxed, so that only the signal orders it.
    work: AtomicU32,
    /// A wake-up that was sent and not used up yet, as `thread::unpark` leaves one.
    woken: AtomicBool,
}

impl Place {
    fn announce(&self) {
        self.work.fetch_add(1, Ordering::Relaxed);
        if self.signal.raise() {
            self.woken.store(true, Ordering::Release);
        }
    }
}

/// Two threads announce work; the sleeper looks once in between, and once when all is announced. Whatever it has not seen
/// by the first look, it has been woken for, and sees by the second.
#[test]
fn a_raise_is_never_lost() {
    check("a raise is never lost", 3, &["seen at the first look", "woken for the second"], |paths| {
        let place = Arc::new(Place { signal: Signal::new(), work: AtomicU32::new(0), woken: AtomicBool::new(false) });
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let place = place.clone();
                thread::spawn(move || place.announce())
            })
            .collect();
        let sleeper = {
            let (place, paths) = (place.clone(), paths.clone());
            thread::spawn(move || {
                if place.signal.lower() {
                    let seen = place.work.load(Ordering::Relaxed);
                    assert!(seen > 0, "the signal was up before there was work");
                    paths.reached("seen at the first look");
                    seen
                } else {
                    0
                }
            })
        };
        for worker in workers {
            worker.join().unwrap();
        }
        let seen = sleeper.join().unwrap();
        if seen < 2 {
            // The sleeper would park now: the signal is up, and somebody found it down and woke the sleeper.
            assert!(place.woken.load(Ordering::Acquire), "work was announced and nobody woke the sleeper");
            assert!(place.signal.lower());
            assert_eq!(place.work.load(Ordering::Relaxed), 2);
            paths.reached("woken for the second");
        }
    });
}
