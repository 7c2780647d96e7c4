//! `shuffler`: replays the allocations of real programs over Memory Shuffler and over other allocators.
//!
//! The parent parses every trace, then starts one child process for each trace and allocator ([`parent`]), so that no
//! allocator inherits another's heap. A child ([`child`]) gets the parsed operations over its standard input, runs
//! them ([`replay`], [`worker`]) over one [`backend`], and sends back progress and figures. The parent prints the
//! table and writes the JSON ([`report`]).
//!
//! `measure` does the same with loads of its own instead of traces ([`measure`]).
//! [`simulate`] runs no allocator: it drives the compactor's policy alone, and prints what that costs.
//!
//! Exit status: 0 when every block was verified, 1 when a check or an allocator failed, 2 for bad input or usage.

#![allow(clippy::disallowed_types, reason = "plain counters and flags of a harness; the protocols are the library's")]

mod args;
mod backend;
mod child;
mod children;
mod counters;
mod failure;
mod figures;
mod job;
mod living;
mod mailbox;
mod measure;
mod parent;
mod pattern;
mod progress;
mod random;
mod refusal;
mod replay;
mod report;
mod resident;
mod sampler;
mod simulate;
mod stage;
mod synthetic;
mod trace;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Replay(args) => parent::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::ReplayOne => child::run(),
        Command::Measure(args) => measure::run(&args),
        Command::MeasureOne => measure::child::run(),
    }
}
