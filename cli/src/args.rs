//! The command line.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::measure::workload::Workload;

/// Memory Shuffler's command.
#[derive(Debug, Parser)]
#[command(
    name = "shuffler",
    version,
    about = "Runs the allocations of real programs, and loads that fragment, over Memory Shuffler and its peers"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the command can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replay allocation traces and print how much time and memory each allocator needed
    ///
    /// A trace is text, plain or gzip, one operation a line: `a ID SIZE [ALIGN]` allocates, `r ID SIZE` resizes,
    /// `f ID` frees; `#` starts a comment. ALIGN is 8 when it is left out. Every block is filled with a pattern that
    /// is checked at each resize, at each free, and at the end. Resident memory is what the operating system says,
    /// less what the process had before the first operation.
    Replay(ReplayArgs),

    /// Simulate the compactor's policy and print what it costs: bytes copied for each byte allocated
    ///
    /// Memory is a cap and blocks are numbers, but what to move is decided by the library's own functions. Theory is
    /// u_v / (1 − u_v), where u = (u_v − 1) / ln u_v is the utilisation. Hot/cold: nine in ten writes go to a tenth of the
    /// blocks; Zipf: the exponent is 0.99. Greedy empties the sparsest arenas first. A second table shows where memory
    /// settles when nothing caps it.
    Simulate(SimulateArgs),

    /// Run the job given on standard input (what `replay` starts once for each trace and allocator)
    #[command(hide = true)]
    ReplayOne,

    /// Run loads that are known to fragment memory and print what is resident over what is live
    ///
    /// Live is the sum of the sizes asked for. Resident memory is what the operating system says, less what the process had
    /// when its inputs and maps were in place. F is what Memory Shuffler would need with no fragmentation at all, over live: 8
    /// bytes a block, 16 a slot (as many as there were blocks at the most) and sizes rounded up to 8. Every block is filled
    /// with a pattern; random reads check it during the load, and a full pass at the end.
    Measure(MeasureArgs),

    /// Run the job given on standard input (what `measure` starts once for each workload and allocator)
    #[command(hide = true)]
    MeasureOne,
}

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Trace files; without any, a built-in synthetic trace
    #[arg(value_name = "TRACE")]
    pub traces: Vec<PathBuf>,

    /// Threads that each run a copy of the trace, all over one allocator
    #[arg(long, value_name = "N", default_value_t = default_threads(), value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,

    /// Free each block on another thread than the one that made it
    #[arg(long)]
    pub cross: bool,

    /// Allocators to run, each in a process of its own
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = Allocator::defaults(), value_parser = Allocator::parse)]
    pub allocators: Vec<Allocator>,

    /// Where Memory Shuffler gets its arenas from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = Source::Os)]
    pub source: Source,

    /// Write the figures to FILE too: an array with one object for each trace and allocator, in bytes and nanoseconds
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Milliseconds between the end of the load and the look at what has settled
    #[arg(long, value_name = "MS", default_value_t = 2000, hide = true)]
    pub settle_ms: u64,

    /// Faults to provoke.
    #[command(flatten)]
    pub faults: Faults,
}

/// The arguments of `measure`.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// Workloads; without any, all
    #[arg(value_name = "WORKLOAD", value_enum)]
    pub workloads: Vec<Workload>,

    /// Allocators to run, each in a process of its own
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [Allocator::Shuffler, Allocator::System], value_parser = Allocator::parse)]
    pub allocators: Vec<Allocator>,

    /// Part of the full counts and limits, for a quick look: small loads say little about ratios
    #[arg(long, value_name = "P", default_value_t = 100.0, value_parser = percent)]
    pub percent: f64,

    /// Look at memory again 10 s after the load
    #[arg(long)]
    pub long: bool,

    /// Write the figures to FILE too: an array with one object for each workload and allocator, in bytes and nanoseconds
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Milliseconds between the end of the load and the look at what has settled; other looks are early or late in proportion
    #[arg(long, value_name = "MS", default_value_t = 2000, hide = true)]
    pub settle_ms: u64,
}

/// The arguments of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Fewer and smaller runs
    #[arg(long)]
    pub quick: bool,

    /// Write the figures to FILE too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Faults that tests provoke in the library. Without the feature `test-hooks` there are no such flags.
#[derive(Debug, Clone, Copy, Default, Args, Serialize, Deserialize)]
pub struct Faults {
    /// Park the compactor's thread for ever in the middle of its first move
    #[cfg_attr(feature = "test-hooks", arg(long, hide = true))]
    #[cfg_attr(not(feature = "test-hooks"), arg(skip))]
    pub park_mid_move: bool,

    /// Flip a byte in a block that is being moved
    #[cfg_attr(feature = "test-hooks", arg(long, hide = true))]
    #[cfg_attr(not(feature = "test-hooks"), arg(skip))]
    pub corrupt_copy: bool,
}

/// An allocator to replay over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Allocator {
    /// Memory Shuffler, blocks named by handle.
    #[value(name = "shuffler")]
    #[serde(rename = "shuffler")]
    Shuffler,
    /// Memory Shuffler, each access resolved through a directory of opaque handles.
    #[value(name = "shuffler+directory")]
    #[serde(rename = "shuffler+directory")]
    ShufflerDirectory,
    /// The allocator of the platform's C library.
    #[value(name = "system")]
    #[serde(rename = "system")]
    System,
    /// mimalloc.
    #[value(name = "mimalloc")]
    #[serde(rename = "mimalloc")]
    Mimalloc,
    /// jemalloc.
    #[value(name = "jemalloc")]
    #[serde(rename = "jemalloc")]
    Jemalloc,
}

impl Allocator {
    /// Whether this build has it.
    fn is_built_in(self) -> bool {
        match self {
            Self::Mimalloc => cfg!(feature = "mimalloc"),
            Self::Jemalloc => cfg!(feature = "jemalloc"),
            Self::Shuffler | Self::ShufflerDirectory | Self::System => true,
        }
    }

    /// Whether its memory comes in arenas from a [`Source`].
    pub fn has_arenas(self) -> bool {
        matches!(self, Self::Shuffler | Self::ShufflerDirectory)
    }

    /// What runs when nobody chooses.
    fn defaults() -> Vec<Self> {
        [Self::Shuffler, Self::System, Self::Mimalloc, Self::Jemalloc].into_iter().filter(|a| a.is_built_in()).collect()
    }

    fn parse(name: &str) -> Result<Self, String> {
        let known = || Self::value_variants().iter().filter(|a| a.is_built_in());
        known().copied().find(|a| a.to_string() == name).ok_or_else(|| {
            let names: Vec<_> = known().map(Self::to_string).collect();
            format!("this build has {}", names.join(", "))
        })
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shuffler => "shuffler",
            Self::ShufflerDirectory => "shuffler+directory",
            Self::System => "system",
            Self::Mimalloc => "mimalloc",
            Self::Jemalloc => "jemalloc",
        })
    }
}

/// Where Memory Shuffler gets its arenas from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The operating system.
    Os,
    /// `bumpalo` over the global allocator.
    Bump,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Os => "os",
            Self::Bump => "bump",
        })
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| "not a number above 0 and up to 100".into())
}

fn default_threads() -> u16 {
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    cores.min(4) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(args: &[&str]) -> Result<ReplayArgs, clap::Error> {
        let cli = Cli::try_parse_from(["shuffler", "replay"].iter().chain(args))?;
        match cli.command {
            Command::Replay(args) => Ok(args),
            _ => unreachable!("`replay` was asked for"),
        }
    }

    #[test]
    fn a_list_of_allocators_leaves_the_traces_alone() {
        let args = replay(&["--allocators", "shuffler+directory,system", "one", "two"]).unwrap();
        assert_eq!(args.allocators, [Allocator::ShufflerDirectory, Allocator::System]);
        assert_eq!(args.traces.len(), 2);
        assert_eq!(args.source, Source::Os);
    }

    #[test]
    fn the_defaults_are_what_is_built_in() {
        let args = replay(&[]).unwrap();
        assert_eq!(args.allocators, Allocator::defaults());
        assert!(args.threads >= 1 && args.threads <= 4);
        assert!(!args.cross && args.json.is_none());
    }

    #[test]
    fn a_percentage_is_part_of_the_whole() {
        assert_eq!(percent("0.5"), Ok(0.5));
        for bad in ["0", "-1", "100.1", "NaN", "inf", "1%", ""] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [["--threads", "0"], ["--allocators", "tcmalloc"], ["--allocators", ""], ["--source", "sbrk"]] {
            assert!(replay(&bad).is_err(), "{bad:?}");
        }
    }
}
