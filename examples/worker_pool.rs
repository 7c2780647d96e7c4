//! Worker threads that share one shuffler.
//!
//! A producer makes jobs as blocks and queues their handles, which are 8 bytes and may go to any thread. Workers rent a job,
//! make a result of it, free the job, and keep every tenth result. What is left is sparse; the compactor moves it together.
//!
//! `cargo run --release --example worker_pool`

use memory_shuffler::{Error, Handle, Shuffler};
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;

const JOBS: usize = 400_000;
const WORKERS: usize = 4;

fn main() -> Result<(), Error> {
    let shuffler = Shuffler::new();
    let (queue, jobs) = sync_channel::<(usize, Handle<str>)>(1024);
    let jobs = Mutex::new(jobs);

    let work = || -> Result<Vec<Handle<[u64]>>, Error> {
        let mut kept = Vec::new();
        loop {
            let next = jobs.lock().expect("no worker panics").recv();
            let Ok((number, job)) = next else { return Ok(kept) };
            let length = shuffler.rent(job)?.len();
            let result = shuffler.alloc_copy(&vec![number as u64; length / 4 + 1])?;
            shuffler.free(job)?;
            if number.is_multiple_of(10) {
                kept.push(result);
            } else {
                shuffler.free(result)?;
            }
        }
    };

    let kept = thread::scope(|scope| -> Result<Vec<_>, Error> {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for number in 0..JOBS {
            let job = shuffler.alloc_str(&"x".repeat(16 + number % 400))?;
            queue.send((number, job)).expect("the workers are there");
        }
        drop(queue);
        let mut kept = Vec::new();
        for worker in workers {
            kept.extend(worker.join().expect("no worker panics")?);
        }
        Ok(kept)
    })?;

    // The background thread would do this by itself in a moment.
    shuffler.shuffle();
    let stats = shuffler.stats();
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    println!("{JOBS} jobs on {WORKERS} workers, {} results kept", kept.len());
    println!("live {:.1} MiB, held from the system {:.1} MiB", mib(stats.live_bytes), mib(stats.resident_bytes));
    println!("{} blocks moved, {} arenas given back", stats.moves, stats.arenas_returned);
    for handle in kept {
        let result = shuffler.rent(handle)?;
        assert!(result.iter().all(|&number| number == result[0]));
    }
    Ok(())
}
