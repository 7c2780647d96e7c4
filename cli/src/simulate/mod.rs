//! `shuffler simulate`: what the compactor's policy costs, without a compactor.
//!
//! Blocks are numbers and moves are bookkeeping ([`heap`]), but what to move, where to and how fast is decided by the very
//! functions that the library decides by ([`memory_shuffler::policy`]). Two questions are put to them: how much is copied
//! when memory is capped and the cap makes it necessary ([`curve`]), and where memory settles when nothing caps it but the
//! pace of the background thread and the assistance of those who allocate ([`pace`]).

mod curve;
mod heap;
mod pace;
mod theory;
mod writes;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use serde::Serialize;

use crate::args::SimulateArgs;
use crate::report::JsonFile;

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Results {
    curve: Vec<curve::Row>,
    pace: Vec<pace::Row>,
}

/// `shuffler simulate`.
pub fn run(args: &SimulateArgs) -> ExitCode {
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("shuffler: {reason}");
            ExitCode::from(2)
        }
    }
}

fn try_run(args: &SimulateArgs) -> Result<(), String> {
    let json = args.json.as_deref().map(JsonFile::prepare).transpose()?;
    let mut curve = Vec::new();
    for scale in if args.quick { curve::QUICK } else { curve::FULL } {
        let rows = curve::rows(scale);
        print(&curve::table(scale, &rows))?;
        curve.extend(rows);
    }
    let scale = if args.quick { &pace::QUICK } else { &pace::FULL };
    let pace = pace::rows(scale);
    print(&pace::table(scale, &pace))?;
    json.map_or(Ok(()), |json| json.write(&Results { curve, pace }))
}

fn print(text: &str) -> Result<(), String> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// Does `work` on each of `items`, on as many threads as there are cores; the results are in the order of the items.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // The last first: they take longest.
    let left = Mutex::new(items.iter().enumerate());
    let next = || left.lock().expect("nothing panics under the lock").next_back();
    let mut results: Vec<_> = thread::scope(|scope| {
        let worker = || scope.spawn(|| std::iter::from_fn(next).map(|(at, item)| (at, work(item))).collect::<Vec<_>>());
        let workers: Vec<_> = (0..threads).map(|_| worker()).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a simulation does not panic")).collect()
    });
    results.sort_unstable_by_key(|&(at, _)| at);
    results.into_iter().map(|(_, result)| result).collect()
}
