//! Rents that are held across `await`, and sent as `Bytes` without a copy.
//!
//! A cache of pages lives in blocks. Requests, which are tasks on several threads, rent a page, wait for other things while
//! they hold it, and answer with a part of it as `Bytes`: the rent itself is the owner, so nothing is copied, and the page
//! stays where it is until the last `Bytes` is dropped. Pages that nobody holds are moved together meanwhile.
//!
//! `cargo run --release --example async_rents`

use bytes::Bytes;
use memory_shuffler::{AccessError, Error, Handle, Shuffler};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, yield_now};

const PAGES: usize = 100_000;
const REQUESTS: usize = 20_000;

fn main() -> Result<(), Error> {
    let shuffler = Shuffler::new();
    let mut pages = Vec::new();
    for page in 0..PAGES {
        let contents = format!("page {page} ").repeat(40);
        pages.push(shuffler.alloc_copy(contents.as_bytes())?);
    }
    let full = shuffler.stats();
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    println!("{PAGES} pages: {:.1} MiB live, {:.1} held", mib(full.live_bytes), mib(full.resident_bytes));

    // Most pages leave the cache; what is left is sparse.
    let mut cached = Vec::new();
    for (page, handle) in pages.into_iter().enumerate() {
        if page % 8 == 0 {
            cached.push((page, handle));
        } else {
            shuffler.free(handle)?;
        }
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().expect("threads can be had");
    let sent = runtime.block_on(async {
        let requests: Vec<JoinHandle<_>> = (0..REQUESTS)
            .map(|request| {
                let (page, handle) = cached[request * 31 % cached.len()];
                tokio::spawn(answer(shuffler.clone(), page, handle))
            })
            .collect();
        let mut sent = 0;
        for request in requests {
            sent += request.await.expect("no request panics")?.len();
        }
        Ok::<_, AccessError>(sent)
    })?;

    let patience = Instant::now() + Duration::from_secs(2);
    while shuffler.stats().resident_bytes > full.resident_bytes / 4 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(10));
    }
    let stats = shuffler.stats();
    println!("{REQUESTS} requests answered with {sent} bytes, none of them copied");
    println!("{} moves: {:.1} MiB live, {:.1} held", stats.moves, mib(stats.live_bytes), mib(stats.resident_bytes));
    Ok(())
}

/// A part of a page.
async fn answer(shuffler: Shuffler, page: usize, handle: Handle<[u8]>) -> Result<Bytes, AccessError> {
    let rent = shuffler.rent_owned(handle)?;
    let address = rent.as_ptr().addr();
    // Whatever else the answer needs. The task may go on on another thread.
    for _ in 0..10 {
        yield_now().await;
    }
    assert_eq!(rent.as_ptr().addr(), address, "a rented page stays where it is");
    let bytes = Bytes::from_owner(rent);
    assert_eq!(bytes.as_ptr().addr(), address, "and is not copied");
    assert!(bytes.starts_with(format!("page {page} ").as_bytes()));
    Ok(bytes.slice(bytes.len() / 2..))
}
