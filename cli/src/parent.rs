//! The parent: parses the traces, starts a child for each trace and allocator, and reports.

use std::env;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::args::{Allocator, ReplayArgs};
use crate::figures::{Figures, Run};
use crate::job::{self, Job, Message};
use crate::progress::Progress;
use crate::report::{JsonFile, table};
use crate::synthetic;
use crate::trace::{self, Trace};

/// Why there is no result, in one line, and the exit status that says so.
struct Refusal {
    status: u8,
    reason: String,
}

/// The status of a check or an allocator that failed.
fn failed(reason: String) -> Refusal {
    Refusal { status: 1, reason }
}

/// The status of input or usage that cannot be served.
fn bad_input(reason: impl ToString) -> Refusal {
    Refusal { status: 2, reason: reason.to_string() }
}

/// `shuffler replay`.
pub fn run(args: &ReplayArgs) -> ExitCode {
    match try_run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { status, reason }) => {
            eprintln!("shuffler: {reason}");
            ExitCode::from(status)
        }
    }
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
        print(&table(&runs[first..]))?;
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

fn print(text: &str) -> Result<(), Refusal> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
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
    let mut child = start().map_err(|error| format!("cannot start: {error}"))?;
    let stdin = child.0.stdin.take().expect("piped");
    let stdout = child.0.stdout.take().expect("piped");
    // A child that has died already takes no job; how it died is told below.
    let _ = job::send(job, trace, BufWriter::new(stdin));

    let progress = Progress::new(&trace.name, job.allocator, u64::from(job.threads) * trace.ops.len() as u64);
    let mut last = None;
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| format!("cannot read from its process: {error}"))?;
        match serde_json::from_str(&line).map_err(|error| format!("its process said `{line}`: {error}"))? {
            Message::Progress(done) => progress.update(done),
            Message::Settling => progress.settling(),
            end => last = Some(end),
        }
    }
    drop(progress);
    let status = child.0.wait().map_err(|error| format!("cannot wait for its process: {error}"))?;
    match last {
        Some(Message::Finished(figures)) if status.success() => Ok(*figures),
        Some(Message::Failed(failure)) => Err(failure.describe(trace)),
        _ => Err(format!("its process ended by itself ({status})")),
    }
}

/// A child that does not outlive the interest in it.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> io::Result<Owned> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("replay-one").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Owned)
}
