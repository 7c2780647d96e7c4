//! What the parent tells a child.

use serde::{Deserialize, Serialize};

use super::workload::Workload;
use crate::args::Allocator;

/// One workload over one allocator.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Job {
    /// What to run.
    pub workload: Workload,
    /// What to run over.
    pub allocator: Allocator,
    /// The part of the full counts and limits.
    pub percent: f64,
    /// Milliseconds from the load to the look at what has settled.
    pub settle_ms: u64,
    /// Whether to look again after five times as long.
    pub long: bool,
}
