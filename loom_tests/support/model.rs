//! How a model is run: the bound on preemptions, the time it took, and whether the paths it is about were reached.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Counts, over all executions of one model, how often each interesting path was taken. A path that is announced and
/// never taken fails the model: it would check nothing.
#[derive(Clone)]
pub(crate) struct Paths(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Paths {
    fn new(expected: &[&'static str]) -> Self {
        Self(Arc::new(Mutex::new(expected.iter().map(|&path| (path, 0)).collect())))
    }

    /// The path was taken. One that the model does not announce is of no interest to it.
    pub(crate) fn reached(&self, path: &'static str) {
        // Never held across an operation of loom's, so no thread of a model ever waits here.
        if let Some(count) = self.0.lock().unwrap().get_mut(path) {
            *count += 1;
        }
    }
}

/// Runs the bodies as one thread each, and joins.
pub(crate) fn race<B: FnOnce() + Send + 'static>(bodies: impl IntoIterator<Item = B>) {
    let threads: Vec<_> = bodies.into_iter().map(loom::thread::spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Runs `body` under every schedule with at most `preemptions` forced switches (`LOOM_MAX_PREEMPTIONS` overrides it), and
/// checks that every path in `expected` was reached.
pub(crate) fn check(
    name: &str,
    preemptions: usize,
    expected: &[&'static str],
    body: impl Fn(&Paths) + Send + Sync + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = builder.max_branches.max(4_000);
    let bound = builder.preemption_bound;

    let executions = Arc::new(Mutex::new(0_u64));
    let paths = Paths::new(expected);
    let started = Instant::now();
    builder.check({
        let (executions, paths) = (executions.clone(), paths.clone());
        move || {
            *executions.lock().unwrap() += 1;
            body(&paths);
        }
    });

    let counts = paths.0.lock().unwrap().clone();
    let executions = *executions.lock().unwrap();
    println!("model {name}: {executions} executions in {:.1?}, bound {bound:?}, {counts:?}", started.elapsed());
    for (path, count) in counts {
        assert!(count > 0, "the model {name} never reached: {path}");
    }
}
