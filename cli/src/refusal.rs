//! How a command ends when there is no result.

use std::io::{self, Write};
use std::process::ExitCode;

/// Why there is no result, in one line, and the exit status that says so.
#[derive(Debug)]
pub struct Refusal {
    status: u8,
    reason: String,
}

/// The status of a check or an allocator that failed.
pub fn failed(reason: String) -> Refusal {
    Refusal { status: 1, reason }
}

/// The status of input or usage that cannot be served.
pub fn bad_input(reason: impl ToString) -> Refusal {
    Refusal { status: 2, reason: reason.to_string() }
}

/// The exit status of a command, its reason told on standard error.
pub fn exit(outcome: Result<(), Refusal>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { status, reason }) => {
            eprintln!("shuffler: {reason}");
            ExitCode::from(status)
        }
    }
}

/// Prints a table.
pub fn print(text: &str) -> Result<(), Refusal> {
    match writeln!(io::stdout(), "{text}") {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(format!("standard output: {error}"))),
        _ => Ok(()),
    }
}
