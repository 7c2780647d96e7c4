//! The parent: parses the traces, starts a child for each trace and allocator, and reports.

use std::io::Write;
use std::process::ExitCode;

use crate::args::{Allocator, ReplayArgs};
use crate::children;
use crate::figures::{Figures, Run};
use crate::job::{self, Job};
use crate::progress::Progress;
use crate::refusal::{self, Refusal, bad_input, failed};
use crate::report::{JsonFile, table};
use crate::synthetic;
use crate::trace::{self, Trace};

/// `shuffler replay`.
pub fn run(args: &ReplayArgs) -> ExitCode {
    refusal::exit(try_run(args))
}

fn try_run(args: &ReplayArgs) -> Result<(), Refusal> {
    let traces = load(args)?;
    let json = args.json.as_deref().map(JsonFile::prepare).transpose().map_err(bad_input)?;
    let mut runs = Vec::new();
    for trace in &traces {
        let first = runs.len();
        for &allocator in &args.allocators {
            runs.push(run_one(args, trace, allocator)?);
        }
        refusal::print(&table(&runs[first..]))?;
    }
    json.map_or(Ok(()), |json| json.write(&runs)).map_err(bad_input)
}

/// All traces, before anything is run: the last may be the damaged one.
fn load(args: &ReplayArgs) -> Result<Vec<Trace>, Refusal> {
    if args.traces.is_empty() {
        return Ok(vec![synthetic::trace()]);
    }
    args.traces.iter().map(|path| trace::load(path).map_err(bad_input)).collect()
}

fn run_one(args: &ReplayArgs, trace: &Trace, allocator: Allocator) -> Result<Run, Refusal> {
    let job = Job {
        allocator,
        source: args.source,
        threads: u32::from(args.threads),
        cross: args.cross,
        settle_ms: args.settle_ms,
        faults: args.faults,
        operations: trace.ops.len(),
        slots: trace.slots,
        peak_at: trace.peak_at,
    };
    let figures = figures_of(&job, trace).map_err(|why| failed(format!("{allocator}, {}: {why}", trace.name)))?;
    Ok(Run {
        trace: trace.name.clone(),
        allocator,
        source: allocator.has_arenas().then_some(args.source),
        threads: job.threads,
        cross: job.cross,
        operations: u64::from(job.threads) * trace.ops.len() as u64,
        figures,
    })
}

/// What the child's run measured, or why there is nothing.
fn figures_of(job: &Job, trace: &Trace) -> Result<Figures, String> {
    let operations = u64::from(job.threads) * trace.ops.len() as u64;
    let progress = Progress::new(&trace.name, job.allocator, operations);
    let send = |stdin: &mut dyn Write| job::send(job, trace, stdin);
    children::run("replay-one", send, &progress)?.map_err(|failure| failure.describe(trace))
}
