//! The tables: a row for each workload and allocator, a column for each figure that any of them has.

use comfy_table::{CellAlignment, Table, presets};

use super::figures::{Defrag, Figures, Look, Run};
use crate::report::units::{count, count_or_dash, duration, duration_or_dash, mib, mib_or_dash, ratio};

/// What a column is called, and what it says of a run.
type Column = (&'static str, fn(&Run) -> String);

const COLUMNS: [Column; 17] = [
    ("workload", |run| run.workload.to_string()),
    ("allocator", |run| run.allocator.to_string()),
    ("load", |run| duration(run.figures.load_ns)),
    ("live\nMiB", |run| mib(run.figures.end.live)),
    ("F", |run| ratio(Some(run.figures.end.floor as f64 / run.figures.end.live.max(1) as f64))),
    ("at the end\nMiB  ×live   ×F", |run| look(&run.figures.end)),
    ("peak\n×F", |run| ratio(run.figures.peak.over_floor)),
    ("last third\n×live   ×F", |run| {
        let means = run.figures.last_third;
        run.workload.pace().map_or_else(dash, |_| format!("{}  {}", ratio(means.ratio), ratio(means.over_floor)))
    }),
    ("0.5 s after shuffle()\nMiB  ×live   ×F", |run| run.figures.after_shuffle.as_ref().map_or_else(dash, look)),
    ("shuffle()\ntook", |run| duration_or_dash(run.figures.shuffle_ns)),
    ("2 s later\nMiB  ×live   ×F", |run| look(&run.figures.settled)),
    ("10 s later\nMiB  ×live   ×F", |run| run.figures.long.as_ref().map_or_else(dash, look)),
    ("moved\nMiB", |run| mib_or_dash(run.figures.moved_bytes)),
    ("moves", |run| count_or_dash(run.figures.moves)),
    ("compactor\nCPU", |run| duration_or_dash(run.figures.compactor_cpu_ns)),
    ("blocks\nverified", |run| count(run.figures.reads_verified + run.figures.blocks_verified)),
    ("goals, ×F", goals),
];

/// For the runs in which the compactor was paused during the load.
const DEFRAG_COLUMNS: [Column; 10] = [
    ("workload", |run| run.workload.to_string()),
    ("before\nMiB  ×live   ×F", |run| look(&run.figures.end)),
    ("still\nMiB  ×live   ×F", |run| of(run, |defrag| look(&defrag.still))),
    ("blocks", |run| count(run.figures.blocks)),
    ("had to\nmove", |run| {
        of(run, |defrag| format!("{}{}", if defrag.can_reach { "" } else { "all " }, count(defrag.had_to_move)))
    }),
    ("moves", |run| of(run, |defrag| count(defrag.moves))),
    ("moves over\nhad to", |run| of(run, |defrag| ratio(defrag.moves_over_needed))),
    ("moved\nMiB", |run| of(run, |defrag| mib(defrag.moved_bytes))),
    ("until\nstill", |run| of(run, |defrag| duration(defrag.moving_ns))),
    ("moved by another\nshuffle(), bytes", |run| of(run, |defrag| count(defrag.moved_again_bytes))),
];

/// All runs, and those again in which the compactor was paused during the load.
pub fn tables(runs: &[Run]) -> String {
    let paused: Vec<_> = runs.iter().filter(|run| run.figures.defrag.is_some()).cloned().collect();
    let mut text = table(&COLUMNS, runs);
    if !paused.is_empty() {
        text = format!("{text}\ncompactor paused during the load\n{}", table(&DEFRAG_COLUMNS, &paused));
    }
    text
}

fn table(columns: &[Column], runs: &[Run]) -> String {
    let columns = columns.iter().map(|(name, of)| (*name, runs.iter().map(of).collect::<Vec<_>>()));
    let columns: Vec<_> = columns.filter(|(_, cells)| cells.iter().any(|cell| *cell != dash())).collect();
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(columns.iter().map(|(name, _)| *name));
    for row in 0..runs.len() {
        table.add_row(columns.iter().map(|(_, cells)| cells[row].as_str()));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

fn look(look: &Look) -> String {
    format!("{} {:>6} {:>5}", mib_or_dash(look.resident), ratio(look.ratio), ratio(look.over_floor))
}

fn of(run: &Run, what: fn(&Defrag) -> String) -> String {
    let Figures { defrag, .. } = &run.figures;
    defrag.as_ref().map_or_else(dash, what)
}

fn goals(run: &Run) -> String {
    if run.goals.is_empty() {
        return dash();
    }
    run.goals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn dash() -> String {
    "-".into()
}
