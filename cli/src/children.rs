//! Child processes: the job in, messages out.

use std::env;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::process::{Child, Command, Stdio};

use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::job::Message;
use crate::progress::Progress;

/// Runs `subcommand` in a process of its own, to the end. `send` writes the job to its standard input.
///
/// # Errors
/// The outer one: the child could not be run, or ended without an answer. The inner one is the child's own.
pub fn run<F: DeserializeOwned>(
    subcommand: &str,
    send: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    progress: &Progress,
) -> Result<Result<F, Failure>, String> {
    let mut child = start(subcommand).map_err(|error| format!("cannot start: {error}"))?;
    let stdin = child.0.stdin.take().expect("piped");
    let stdout = child.0.stdout.take().expect("piped");
    // A child that has died already takes no job; how it died is told below. The end of the writer closes its input.
    let _ = send(&mut BufWriter::new(stdin));

    let mut last = None;
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| format!("cannot read from its process: {error}"))?;
        match serde_json::from_str(&line).map_err(|error| format!("its process said `{line}`: {error}"))? {
            Message::Progress(done) => progress.update(done),
            Message::Settling => progress.settling(),
            end => last = Some(end),
        }
    }
    let status = child.0.wait().map_err(|error| format!("cannot wait for its process: {error}"))?;
    match last {
        Some(Message::Finished(figures)) if status.success() => Ok(Ok(*figures)),
        Some(Message::Failed(failure)) => Ok(Err(failure)),
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

fn start(subcommand: &str) -> io::Result<Owned> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(subcommand).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Owned)
}
