//! The cost curve: bytes copied for each byte allocated, against utilisation.
//!
//! Memory is capped, and arenas are emptied only when the last free ones are needed: what is copied is what it takes.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::heap::{Heap, Strategy};
use super::writes::{Spread, Writes};
use super::{in_parallel, theory};

const ARENA: usize = 1 << 20;
/// A free arena that the survivors of a victim may need before the victim is free.
const RESERVE: usize = 1;

/// How large a run is.
#[derive(Debug)]
pub struct Scale {
    /// Bytes of a block, without its header.
    block: usize,
    arenas: usize,
    /// Live bytes over all memory.
    utilizations: &'static [f64],
    /// Writes before the count begins, and counted ones, in fillings of all memory; fewer where much is copied.
    fillings: [f64; 2],
}

/// What is simulated by default.
pub const FULL: &[Scale] = &[
    Scale {
        block: 1000,
        arenas: 512,
        utilizations: &[0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98],
        fillings: [10.0, 3.0],
    },
    Scale { block: 100, arenas: 256, utilizations: &[0.7, 0.8, 0.9], fillings: [6.0, 1.5] },
];

/// What `--quick` simulates.
pub const QUICK: &[Scale] =
    &[Scale { block: 4000, arenas: 128, utilizations: &[0.7, 0.8, 0.9], fillings: [12.0, 6.0] }];

/// Bytes copied for each byte allocated, at one utilisation.
#[derive(Debug, Serialize)]
pub struct Row {
    block_bytes: usize,
    arenas: usize,
    utilization: f64,
    theory_uniform: f64,
    uniform: f64,
    hot_cold: f64,
    hot_cold_greedy: f64,
    zipf: f64,
    zipf_greedy: f64,
}

/// The runs that make up a row.
const RUNS: [(Spread, Strategy); 5] = [
    (Spread::Uniform, Strategy::Ours),
    (Spread::HotCold, Strategy::Ours),
    (Spread::HotCold, Strategy::Greedy),
    (Spread::Zipf, Strategy::Ours),
    (Spread::Zipf, Strategy::Greedy),
];

impl Scale {
    fn per_arena(&self) -> usize {
        const HEADER: usize = 8;
        ARENA / (HEADER + self.block).next_multiple_of(8)
    }
}

/// Runs all of a scale.
pub fn rows(scale: &Scale) -> Vec<Row> {
    let runs: Vec<_> = scale.utilizations.iter().flat_map(|&u| RUNS.map(|(spread, by)| (u, spread, by))).collect();
    let costs = in_parallel(&runs, |&(utilization, spread, strategy)| cost(scale, utilization, spread, strategy));
    let rows = scale.utilizations.iter().zip(costs.chunks_exact(RUNS.len()));
    rows.map(|(&utilization, costs)| Row {
        block_bytes: scale.block,
        arenas: scale.arenas,
        utilization,
        theory_uniform: theory::cost(utilization),
        uniform: costs[0],
        hot_cold: costs[1],
        hot_cold_greedy: costs[2],
        zipf: costs[3],
        zipf_greedy: costs[4],
    })
    .collect()
}

fn cost(scale: &Scale, utilization: f64, spread: Spread, strategy: Strategy) -> f64 {
    let filling = scale.arenas * scale.per_arena();
    let blocks = (utilization * filling as f64) as u32;
    let mut heap = Heap::new(blocks, scale.per_arena(), scale.arenas);
    let mut writes = Writes::new(spread, blocks);
    let write = |heap: &mut Heap, block| {
        while heap.is_at_end() && heap.free() <= RESERVE {
            assert_ne!(heap.clean(strategy, scale.per_arena()), 0, "the blocks fit with arenas to spare");
        }
        heap.write(block);
    };
    writes.each_once().for_each(|block| write(&mut heap, block));
    // The more is copied, the sooner the heap settles.
    let hurry = (1.0 + theory::cost(utilization)).sqrt();
    let [settling, counted] = scale.fillings.map(|fillings| (fillings * filling as f64 / hurry) as u64);
    (0..settling).for_each(|_| write(&mut heap, writes.next()));
    let before = heap.copied;
    (0..counted).for_each(|_| write(&mut heap, writes.next()));
    (heap.copied - before) as f64 / counted as f64
}

/// A row a utilisation, under a line that says what was simulated.
pub fn table(scale: &Scale, rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "utilisation",
        "theory,\nuniform",
        "uniform",
        "hot/cold",
        "hot/cold,\ngreedy",
        "Zipf",
        "Zipf,\ngreedy",
    ]);
    for row in rows {
        let costs = [row.theory_uniform, row.uniform, row.hot_cold, row.hot_cold_greedy, row.zipf, row.zipf_greedy];
        table.add_row([row.utilization].iter().chain(&costs).map(|figure| format!("{figure:.2}")));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let (block, arenas) = (scale.block, scale.arenas);
    format!("bytes copied for each byte allocated: blocks of {block} bytes, {arenas} arenas\n{table}\n")
}
