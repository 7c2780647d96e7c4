//! The table of one trace.

use comfy_table::{CellAlignment, Table, presets};

use super::units::{count, count_or_dash, duration, duration_or_dash, mib, mib_or_dash, ratio};
use crate::figures::Run;

const HEADER: [&str; 9] = [
    "allocator",
    "time",
    "at the peak, MiB\nlive / resident    ×",
    "at the end, MiB\nlive / resident    ×",
    "2 s later, MiB\nlive / resident    ×",
    "moves",
    "arenas\nreturned",
    "longest\nstep",
    "blocks\nverified",
];

/// The runs of one trace, a row an allocator, under a line that says what was run.
pub fn table(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(HEADER);
    for run in runs {
        table.add_row(row(run));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{}\n{table}\n", runs.first().map(caption).unwrap_or_default())
}

fn caption(run: &Run) -> String {
    let each = count(run.operations / u64::from(run.threads.max(1)));
    let threads = if run.threads == 1 { "1 thread".into() } else { format!("each of {} threads", run.threads) };
    let cross = if run.cross { ", each block freed by another thread" } else { "" };
    format!("{}: {each} operations on {threads}{cross}", run.trace)
}

fn row(run: &Run) -> [String; HEADER.len()] {
    let figures = &run.figures;
    let shuffler = &figures.shuffler;
    let source = run.source.filter(|source| *source != crate::args::Source::Os);
    [
        source.map_or_else(|| run.allocator.to_string(), |source| format!("{} ({source})", run.allocator)),
        duration(figures.time_ns),
        memory(figures.peak_live, figures.peak_resident, figures.peak_ratio),
        memory(figures.end_live, figures.end_resident, figures.end_ratio),
        memory(figures.settled_live, figures.settled_resident, figures.settled_ratio),
        count_or_dash(shuffler.moves),
        count_or_dash(shuffler.arenas_returned),
        duration_or_dash(shuffler.longest_step_ns),
        count(figures.blocks_verified),
    ]
}

fn memory(live: u64, resident: Option<u64>, of: Option<f64>) -> String {
    format!("{} / {} {:>5}", mib(live), mib_or_dash(resident), ratio(of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Allocator, Source};
    use crate::figures::{Figures, ShufflerFigures};

    fn run(allocator: Allocator, source: Option<Source>, moves: Option<u64>) -> Run {
        let shuffler = ShufflerFigures { moves, ..ShufflerFigures::default() };
        let figures = Figures {
            time_ns: 1_500_000,
            peak_live: 10 << 20,
            peak_resident: Some(12 << 20),
            peak_ratio: Some(1.2),
            blocks_verified: 1234,
            shuffler,
            ..Figures::default()
        };
        Run { trace: "t.gz".into(), allocator, source, threads: 2, cross: true, operations: 2000, figures }
    }

    #[test]
    fn a_row_an_allocator_under_a_caption() {
        let text =
            table(&[run(Allocator::Shuffler, Some(Source::Bump), Some(4321)), run(Allocator::System, None, None)]);
        assert!(text.starts_with("t.gz: 1,000 operations on each of 2 threads, each block freed by another thread\n"));
        for expected in ["shuffler (bump)", "system", "1.5 ms", "10.0 / 12.0  1.20", "4,321", "1,234", "0.0 / -     -"]
        {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
