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

/// A run in one line, without its goals.
pub fn line(run: &Run) -> String {
    let figures = &run.figures;
    let [peak, settled] = [figures.peak, figures.settled].map(|look| ratio(look.over_floor));
    let load = duration(figures.load_ns);
    format!("{}, {}: load {load}, peak {peak} F, 2 s later {settled} F", run.workload, run.allocator)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Allocator;
    use crate::measure::goal::{Figure, Goal, Verdict};
    use crate::measure::workload::Workload;

    fn run(workload: Workload, goals: &[Goal]) -> Run {
        let look =
            Look { live: 10 << 20, floor: 11 << 20, resident: Some(22 << 20), ratio: Some(2.2), over_floor: Some(2.0) };
        let figures = Figures { end: look, settled: look, peak: look, blocks_verified: 1234, ..Figures::default() };
        let goals = goals.iter().map(|goal| Verdict::new(*goal, &figures)).collect();
        Run { workload, allocator: Allocator::Shuffler, percent: 100.0, goals, figures }
    }

    #[test]
    fn columns_that_say_nothing_are_left_out() {
        let goals = [Goal { figure: Figure::Peak, at_most: 2.0 }, Goal { figure: Figure::Settled, at_most: 1.08 }];
        let runs = [run(Workload::RamcloudW1, &goals), run(Workload::Pages, &[])];
        let text = tables(&runs);
        for expected in ["ramcloud-w1", "1,234", "22.0   2.20  2.00", "peak ≤ 2.00 met", "2 s ≤ 1.08 missed", "1.10"]
        {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        assert!(!text.contains("10 s later") && !text.contains("moves"), "{text}");
        assert_eq!(line(&runs[1]), "pages, shuffler: load 0 ns, peak 2.00 F, 2 s later 2.00 F");
    }

    #[test]
    fn what_was_paused_has_a_table_of_its_own() {
        let mut paused = run(Workload::DefragHalf, &[Goal { figure: Figure::Moves, at_most: 1.2 }]);
        let defrag = Defrag { had_to_move: 4000, can_reach: false, moves: 5000, ..Defrag::default() };
        paused.figures.defrag = Some(Defrag { moves_over_needed: Some(1.25), ..defrag });
        let text = tables(&[paused]);
        for expected in ["all 4,000", "5,000", "1.25", "moves ≤ 1.20 -"] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
