//! Where memory settles when nothing caps it: the background thread's pace and the assistance of those who allocate.

use comfy_table::{CellAlignment, Table, presets};
use memory_shuffler::policy;
use serde::Serialize;

use super::heap::{Heap, Strategy};
use super::in_parallel;
use super::writes::{Spread, Writes};

/// MiB a second that a core copies: small blocks, gathered from all over, on a machine of 2026.
const COPIED_A_SECOND: f64 = 2000.0;
/// The default of `Builder::target_utilization`.
const TARGET: f64 = 0.95;
const PER_ARENA: usize = 1000;

/// How large a run is.
#[derive(Debug)]
pub struct Scale {
    /// Arenas that the live blocks fill.
    live: usize,
    /// Writes, in fillings of these; the second half is counted.
    fillings: usize,
    /// MiB allocated a second.
    rates: &'static [f64],
}

/// What is simulated by default.
pub const FULL: Scale = Scale { live: 256, fillings: 20, rates: &[10.0, 30.0, 100.0, 300.0, 1000.0, 10000.0] };
/// What `--quick` simulates.
pub const QUICK: Scale = Scale { live: 64, fillings: 10, rates: &[30.0, 10000.0] };

/// What settles at one rate of allocation, with uniform death.
#[derive(Debug, Serialize)]
pub struct Row {
    mib_a_second: f64,
    /// Used over live, in the mean.
    used_over_live: f64,
    /// The greatest it ever was.
    greatest: f64,
    /// The background thread's mean share of a core.
    share_of_core: f64,
    /// Bytes moved by those who allocate, for each byte allocated.
    assistance: f64,
}

/// Runs all rates.
pub fn rows(scale: &Scale) -> Vec<Row> {
    in_parallel(scale.rates, |&rate| settle(scale, rate))
}

fn settle(scale: &Scale, mib_a_second: f64) -> Row {
    let blocks = (scale.live * PER_ARENA) as u32;
    let sparse_below = (TARGET * PER_ARENA as f64) as usize;
    let mut heap = Heap::new(blocks, PER_ARENA, 0);
    let mut writes = Writes::new(Spread::Uniform, blocks);
    writes.each_once().for_each(|block| heap.write(block));
    // Blocks that are to be moved, and that were moved in advance.
    let mut due = 0.0;
    let (mut used, mut greatest, mut share, mut assistance) = (0, 0, 0.0, 0.0);
    let (begin, end) = (scale.live * scale.fillings / 2, scale.live * scale.fillings);
    for arena in 0..end {
        (0..PER_ARENA).for_each(|_| heap.write(writes.next()));
        greatest = greatest.max(heap.used());
        let worth = heap.gain(sparse_below);
        let pace = policy::share_of_core(worth, heap.used());
        let assisted = policy::assistance(scale.live, heap.used(), TARGET);
        due += (pace * COPIED_A_SECOND / mib_a_second + assisted) * PER_ARENA as f64;
        while due > 0.0 {
            let before = heap.copied;
            if heap.clean(Strategy::Ours, sparse_below) == 0 {
                // Nothing can be gained: what is not moved now is not owed later.
                due = 0.0;
            }
            due -= (heap.copied - before) as f64;
        }
        if arena >= begin {
            used += heap.used();
            share += pace;
            assistance += assisted;
        }
    }
    let arenas = (end - begin) as f64;
    Row {
        mib_a_second,
        used_over_live: used as f64 / arenas / scale.live as f64,
        greatest: greatest as f64 / scale.live as f64,
        share_of_core: share / arenas,
        assistance: assistance / arenas,
    }
}

/// A row a rate, under a line that says what was simulated.
pub fn table(scale: &Scale, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "allocated,\nMiB/s",
        "used / live",
        "greatest",
        "background,\nof a core",
        "assistance,\nbytes a byte",
    ]);
    for row in rows {
        table.add_row([
            format!("{:.0}", row.mib_a_second),
            format!("{:.3}", row.used_over_live),
            format!("{:.3}", row.greatest),
            format!("{:.2}", row.share_of_core),
            format!("{:.2}", row.assistance),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("where memory settles: {} arenas live, uniform death, a target of {TARGET}\n{table}\n", scale.live)
}
