//! Models of the ready list: every record is carried out once, by one thread, after what its pusher did.

#[path = "support/model.rs"]
#[allow(dead_code, reason = "the models join their threads when they like")]
mod model;
#[path = "support/primitive.rs"]
mod primitive;
#[path = "../src/ready.rs"]
mod ready;

use loom::cell::UnsafeCell;
use model::check;
use ready::Ready;
use std::sync::{Arc, Mutex};

/// A record whose contents loom watches: written before the push, and by nobody but the taker afterwards.
struct Record {
    number: u32,
    contents: Arc<Contents>,
}

struct Contents(UnsafeCell<u32>);

// SAFETY: the cell is loom's, which reports any access that the list does not order.
unsafe impl Sync for Contents {}
// SAFETY: as above.
unsafe impl Send for Contents {}

impl Record {
    fn new(number: u32) -> Self {
        let contents = Arc::new(Contents(UnsafeCell::new(0)));
        // SAFETY: nobody else knows the cell yet.
        contents.0.with_mut(|place| unsafe { *place = number });
        Self { number, contents }
    }

    fn carry_out(self) -> u32 {
        // SAFETY: loom checks that the pusher's write happened before, and that nobody else looks.
        self.contents.0.with_mut(|place| unsafe {
            assert_eq!(*place, self.number, "carried out twice");
            *place = 0;
        });
        self.number
    }
}

fn push(list: &Arc<Ready<Record>>, numbers: [u32; 2]) -> loom::thread::JoinHandle<()> {
    let list = list.clone();
    loom::thread::spawn(move || {
        for number in numbers {
            list.push(Record::new(number));
        }
    })
}

fn take(list: &Ready<Record>) -> Vec<u32> {
    list.take_all().into_iter().map(Record::carry_out).collect()
}

/// Each pusher's records come in its order; together they are all of them.
fn assert_all(rounds: &[Vec<u32>]) {
    let mut all = rounds.concat();
    for pusher in [1, 3] {
        let at = |number| all.iter().position(|&other| other == number);
        assert!(at(pusher) < at(pusher + 1), "out of order: {rounds:?}");
    }
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4], "lost or doubled: {rounds:?}");
}

#[test]
fn two_pushers_and_a_taker() {
    let paths = ["took some", "took none", "took all", "interleaved"];
    check("two pushers and a taker", 3, &paths, |paths| {
        let list = Arc::new(Ready::new());
        let others = [push(&list, [1, 2]), push(&list, [3, 4])];
        let first = take(&list);
        paths.reached(match first.len() {
            0 => "took none",
            4 => "took all",
            _ => "took some",
        });
        for other in others {
            other.join().unwrap();
        }
        let second = take(&list);
        assert!(list.take_all().is_empty());
        if first.is_empty() && second[0] != second[1] - 1 {
            paths.reached("interleaved");
        }
        assert_all(&[first, second]);
    });
}

#[test]
fn two_pushers_and_two_takers() {
    check("two pushers and two takers", 2, &["both took"], |paths| {
        let list = Arc::new(Ready::new());
        let pushers = [push(&list, [1, 2]), push(&list, [3, 4])];
        let taken = Arc::new(Mutex::new(Vec::new()));
        let taker = {
            let (list, taken) = (list.clone(), taken.clone());
            loom::thread::spawn(move || {
                let mine = take(&list);
                taken.lock().unwrap().push(mine);
            })
        };
        let mine = take(&list);
        taken.lock().unwrap().push(mine);
        for other in pushers {
            other.join().unwrap();
        }
        taker.join().unwrap();
        let mut rounds = taken.lock().unwrap().clone();
        if rounds.iter().all(|round| !round.is_empty()) {
            paths.reached("both took");
        }
        rounds.push(take(&list));
        let mut all = rounds.concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4], "lost or doubled: {rounds:?}");
    });
}

#[test]
fn what_is_left_is_dropped_with_the_list() {
    check("what is left is dropped with the list", 3, &["dropped"], |paths| {
        let list = Arc::new(Ready::new());
        let record = Record::new(1);
        let contents = Arc::downgrade(&record.contents);
        let pusher = {
            let list = list.clone();
            loom::thread::spawn(move || list.push(record))
        };
        drop(list);
        pusher.join().unwrap();
        assert!(contents.upgrade().is_none(), "the list was dropped and its record was not");
        paths.reached("dropped");
    });
}
