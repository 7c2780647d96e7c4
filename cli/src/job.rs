//! What parent and child say to each other.
//!
//! Parent to child, over the child's standard input: a [`Job`] as a line of JSON, then the operations in binary. So the
//! child never parses: its heap holds no litter of a parser when the baseline is taken, and nothing the allocator
//! under test could use again. Child to parent, over the child's standard output: [`Message`]s, a line of JSON each.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::args::{Allocator, Faults, Source};
use crate::failure::Failure;
use crate::figures::Figures;
use crate::trace::{Op, Trace};

/// What a child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// What to run over.
    pub allocator: Allocator,
    /// Where arenas come from.
    pub source: Source,
    /// Copies of the trace.
    pub threads: u32,
    /// Whether blocks are freed by another thread.
    pub cross: bool,
    /// Milliseconds to wait after the load.
    pub settle_ms: u64,
    /// Faults to provoke.
    pub faults: Faults,
    /// How many operations follow.
    pub operations: usize,
    /// [`Trace::slots`].
    pub slots: u32,
    /// [`Trace::peak_at`].
    pub peak_at: usize,
}

/// What a child reports.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message<F = Figures> {
    /// Operations done so far, over all threads.
    Progress(u64),
    /// The load is over; what follows is the wait.
    Settling,
    /// The end, and all is well.
    Finished(Box<F>),
    /// The end, and it is not.
    Failed(Failure),
}

impl<F: Serialize> Message<F> {
    /// Writes the message as a line.
    pub fn send(&self, mut to: impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        to.write_all(&line)?;
        to.flush()
    }
}

/// Writes a job and its operations.
pub fn send(job: &Job, trace: &Trace, mut to: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut to, job)?;
    to.write_all(b"\n")?;
    for op in &trace.ops {
        to.write_all(&encode(*op))?;
    }
    to.flush()
}

/// Reads what [`send`] wrote.
pub fn receive(mut from: impl BufRead) -> io::Result<(Job, Vec<Op>)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    let mut ops = Vec::with_capacity(job.operations);
    let mut record = [0; RECORD];
    for _ in 0..job.operations {
        from.read_exact(&mut record)?;
        ops.push(decode(record).ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok((job, ops))
}

/// Bytes of an operation on the wire: what it is, alignment, two unused, slot, size.
const RECORD: usize = 16;

fn encode(op: Op) -> [u8; RECORD] {
    let (kind, align_log2, slot, size) = match op {
        Op::Allocate { slot, size, align_log2 } => (b'a', align_log2, slot, size),
        Op::Resize { slot, size } => (b'r', 0, slot, size),
        Op::Free { slot } => (b'f', 0, slot, 0),
    };
    let mut record = [kind, align_log2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    record[4..8].copy_from_slice(&slot.to_le_bytes());
    record[8..].copy_from_slice(&size.to_le_bytes());
    record
}

fn decode(record: [u8; RECORD]) -> Option<Op> {
    let [kind, align_log2, _, _, s0, s1, s2, s3, size @ ..] = record;
    let (slot, size) = (u32::from_le_bytes([s0, s1, s2, s3]), u64::from_le_bytes(size));
    match kind {
        b'a' => Some(Op::Allocate { slot, size, align_log2 }),
        b'r' => Some(Op::Resize { slot, size }),
        b'f' => Some(Op::Free { slot }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Builder;

    #[test]
    fn a_job_arrives_as_it_was_sent() {
        let mut builder = Builder::default();
        builder.allocate(1, 5 << 30, 2 << 20).unwrap();
        builder.resize(1, 77).unwrap();
        builder.free(1).unwrap();
        let trace = builder.finish("t".into());
        let job = Job {
            allocator: Allocator::System,
            source: Source::Os,
            threads: 3,
            cross: true,
            settle_ms: 10,
            faults: Faults::default(),
            operations: trace.ops.len(),
            slots: trace.slots,
            peak_at: trace.peak_at,
        };
        let mut wire = Vec::new();
        send(&job, &trace, &mut wire).unwrap();

        let (received, ops) = receive(&wire[..]).unwrap();
        assert_eq!(ops, trace.ops);
        assert_eq!((received.threads, received.cross, received.settle_ms), (3, true, 10));
        assert!(receive(&wire[..wire.len() - 1]).is_err(), "a cut job");
    }
}
