//! `shuffler measure`: how much memory allocators need for loads that are known to fragment it.
//!
//! A [`workload`] is a name for a [`script`]. The parent starts a [`child`] for each workload and allocator. There the
//! [`hand`]s, a thread each, carry out the script, with their blocks on a [`shelf`] and counted in a [`ledger`]; the
//! [`watch`] looks at memory and makes the [`figures`], with the help of the [`series`] of samples and, where the compactor
//! was paused, of [`defrag`]. The parent compares with the [`goal`]s and prints the [`table`].

pub mod child;
mod defrag;
mod figures;
mod goal;
mod hand;
mod job;
mod ledger;
mod processor;
mod script;
mod series;
mod shelf;
mod table;
mod watch;
pub mod workload;

use std::io::Write;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::args::{Allocator, MeasureArgs};
use crate::children;
use crate::progress::Progress;
use crate::refusal::{self, Refusal, bad_input, failed};
use crate::report::JsonFile;
use figures::{Figures, Run};
use goal::Verdict;
use job::Job;
use workload::{Scale, Workload};

/// The command.
pub fn run(args: &MeasureArgs) -> ExitCode {
    refusal::exit(try_run(args))
}

fn try_run(args: &MeasureArgs) -> Result<(), Refusal> {
    let json = args.json.as_deref().map(JsonFile::prepare).transpose().map_err(bad_input)?;
    let all = if args.workloads.is_empty() { Workload::value_variants() } else { &args.workloads };
    let pairs = all.iter().flat_map(|&workload| args.allocators.iter().map(move |&allocator| (workload, allocator)));
    let mut runs = Vec::new();
    let mut failure = None;
    for (workload, allocator) in pairs {
        match run_one(args, workload, allocator) {
            Ok(run) => {
                // The table comes at the end of many minutes: whoever stops before has these lines.
                eprintln!("{}", table::line(&run));
                runs.push(run);
            }
            Err(refusal) => {
                failure = Some(refusal);
                break;
            }
        }
    }
    // A full run takes many minutes: what was measured before a failure is not lost.
    refusal::print(&table::tables(&runs))?;
    json.map_or(Ok(()), |json| json.write(&runs)).map_err(bad_input)?;
    failure.map_or(Ok(()), Err)
}

fn run_one(args: &MeasureArgs, workload: Workload, allocator: Allocator) -> Result<Run, Refusal> {
    let job = Job { workload, allocator, percent: args.percent, settle_ms: args.settle_ms, long: args.long };
    let figures = figures_of(job).map_err(|why| failed(format!("{allocator}, {workload}: {why}")))?;
    let goals = if allocator.has_arenas() { workload.goals() } else { Vec::new() };
    let goals = goals.into_iter().map(|goal| Verdict::new(goal, &figures)).collect();
    Ok(Run { workload, allocator, percent: args.percent, goals, figures })
}

fn figures_of(job: Job) -> Result<Figures, String> {
    let script = job.workload.script(Scale { percent: job.percent });
    let bytes = u64::from(job.workload.threads()) * script::requested_bytes(&script);
    let progress = Progress::new(&job.workload.to_string(), job.allocator, bytes);
    let send = |stdin: &mut dyn Write| serde_json::to_writer(stdin, &job).map_err(Into::into);
    children::run("measure-one", send, &progress)?.map_err(|failure| failure.to_string())
}
