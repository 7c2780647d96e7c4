//! `shuffler measure` as a user runs it, with every workload made small.

use std::fs;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

mod common;

const SMALL: [&str; 13] = [
    "redis-lru",
    "redis-lru-paced",
    "redis-burst",
    "redis-burst-shuffle",
    "defrag-lru",
    "defrag-owners",
    "defrag-half",
    "defrag-lists",
    "defrag-edge",
    "spike",
    "robson",
    "pinned",
    "pages",
];
/// They allocate many times what they keep.
const LARGE: [&str; 8] = [
    "ramcloud-w1",
    "ramcloud-w2",
    "ramcloud-w3",
    "ramcloud-w4",
    "ramcloud-w5",
    "ramcloud-w6",
    "ramcloud-w7",
    "ramcloud-w8",
];

/// `shuffler measure` that does not wait 2 s after each load.
fn measure(args: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin!("shuffler"));
    command.args(["measure", "--settle-ms", "50"]).args(args).output().expect("the command starts")
}

/// The same with `--json`, which must succeed: the array of runs, and what was printed.
fn measure_to_json(args: &[&str]) -> (Vec<Value>, String) {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("runs.json");
    let output = measure(&[args, &["--json", json.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let runs = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    (runs, String::from_utf8(output.stdout).unwrap())
}

fn number(run: &Value, path: &str) -> u64 {
    run.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {run:#}"))
}

/// Whether both are there and the same, but for the last digits, or neither is.
fn are_close(one: Option<f64>, other: Option<f64>) -> bool {
    one.zip(other).map_or(one == other, |(one, other)| (one - other).abs() < 1e-9)
}

/// Resident over live and over F, where there is enough to say so.
fn assert_look(run: &Value, path: &str) {
    let (live, floor, resident) =
        ["live", "floor", "resident"].map(|field| number(run, &format!("{path}/{field}"))).into();
    let look = run.pointer(path).unwrap();
    assert!(floor > live && live > 0, "{path} in {run:#}");
    let ratio = (live >= 1 << 20).then(|| resident as f64 / live as f64);
    assert!(are_close(look["ratio"].as_f64(), ratio), "{path}: {ratio:?} in {run:#}");
    let counted = resident.saturating_sub(4096 * number(run, "/pinned_blocks") * u64::from(path != "/peak"));
    let over_floor = (floor >= 1 << 20).then(|| counted as f64 / floor as f64);
    assert!(are_close(look["over_floor"].as_f64(), over_floor), "{path}: {over_floor:?} in {run:#}");
}

/// What must hold for any run.
fn assert_sound(run: &Value) {
    let (workload, is_shuffler) = (run["workload"].as_str().unwrap(), run["allocator"] == "shuffler");
    assert!(number(run, "/blocks") > 0 && number(run, "/reads_verified") > 0, "{run:#}");
    assert_eq!(number(run, "/blocks_verified"), number(run, "/blocks"), "{run:#}");
    assert!(number(run, "/slots") >= number(run, "/blocks"));
    assert!(number(run, "/load_ns") > 0 && number(run, "/base_resident") > 0);
    ["/end", "/peak", "/settled"].into_iter().for_each(|path| assert_look(run, path));
    assert_eq!(number(run, "/end/live"), number(run, "/settled/live"));
    assert!(number(run, "/peak_resident") >= number(run, "/peak/resident"));
    assert_eq!(run["moves"].is_u64() && run["moved_bytes"].is_u64() && run["compactor_cpu_ns"].is_u64(), is_shuffler);
    assert_eq!(run["after_shuffle"].is_object(), workload == "redis-burst-shuffle");
    assert_eq!(run["shuffle_ns"].is_u64(), workload == "redis-burst-shuffle" && is_shuffler);
    assert_eq!(number(run, "/pinned_blocks") > 0, workload == "pinned");
    assert_eq!(run["defrag"].is_object(), workload.starts_with("defrag-") && is_shuffler);
    let goals = run["goals"].as_array().unwrap();
    assert_eq!(!goals.is_empty(), is_shuffler && !workload.starts_with("redis-burst"), "{run:#}");
    assert!(goals.iter().all(|goal| goal["figure"].is_string() && goal["at_most"].as_f64() > Some(1.0)));
}

fn run_all(workloads: &[&str], percent: &str) -> Vec<Value> {
    let (runs, text) = measure_to_json(&[workloads, &["--percent", percent]].concat());
    assert_eq!(runs.len(), 2 * workloads.len());
    for (pair, workload) in runs.chunks(2).zip(workloads) {
        assert_eq!((&pair[0]["allocator"], &pair[1]["allocator"]), (&"shuffler".into(), &"system".into()));
        for run in pair {
            assert_eq!((&run["workload"], run["percent"].as_f64()), (&Value::from(*workload), percent.parse().ok()));
            assert_sound(run);
        }
        // The same seeds, so the same load.
        let load = |run: &Value| ["/end/live", "/end/floor", "/blocks", "/slots"].map(|path| number(run, path));
        assert_eq!(load(&pair[0]), load(&pair[1]));
        assert!(text.contains(&format!("│ {workload} ")), "{workload} in\n{text}");
    }
    runs
}

#[test]
fn every_workload_runs_and_is_verified() {
    let runs = run_all(&SMALL, "1");
    let of = |workload| runs.iter().find(|run| run["workload"] == workload).unwrap();

    // 1 % of 100 MiB, of 492 bytes at the most; the last block evicted made room for the last one inserted.
    let live = number(of("redis-lru"), "/end/live");
    assert!(live <= 1_048_576 && live > 1_048_576 - 492, "{live}");
    assert_eq!(number(of("redis-burst"), "/slots"), 7000, "all are inserted before any is evicted");
    assert_eq!(number(of("pages"), "/end/floor"), 1000 * (4096 + 8 + 16));
    assert_eq!(number(of("defrag-half"), "/end/floor"), 2500 * (152 + 8) + 5000 * 16);
    assert_eq!(number(of("defrag-edge"), "/blocks"), 10 + 3200);

    // 870,000 inserts at 116,000 a second.
    let seconds = number(of("redis-lru-paced"), "/load_ns") as f64 / 1e9;
    assert!((0.074..1.0).contains(&seconds), "{seconds}");
    assert!(number(of("redis-lru-paced"), "/last_third/samples") >= 1);

    // Nothing moved during the load, and what moved then was worth it.
    let defrag = of("defrag-edge")["defrag"].clone();
    assert!(number(&defrag, "/had_to_move") > 0 && defrag["can_reach"].is_boolean(), "{defrag:#}");
    assert_eq!(number(&defrag, "/moves") > 0, number(&defrag, "/moved_bytes") > 0);
    assert!(defrag["moves_over_needed"].is_f64() && number(&defrag, "/moving_ns") > 0, "{defrag:#}");
    assert_eq!(number(&defrag, "/moved_again_bytes"), 0, "a second shuffle has nothing to do");
}

#[test]
fn the_loads_that_allocate_much_run_and_are_verified() {
    let runs = run_all(&LARGE, "0.2");
    for run in &runs {
        // 0.2 % of 500 MB, of 15,000 bytes at the most.
        let live = number(run, "/end/live");
        assert!(live <= 1_000_000 && live > 985_000, "{run:#}");
    }
}

#[test]
fn any_allocator_may_be_chosen_and_a_later_look_asked_for() {
    let mut all = vec!["shuffler", "shuffler+directory", "system"];
    all.extend(cfg!(feature = "mimalloc").then_some("mimalloc"));
    all.extend(cfg!(feature = "jemalloc").then_some("jemalloc"));
    let list = all.join(",");
    let (runs, _) = measure_to_json(&["pinned", "defrag-edge", "--percent", "1", "--long", "--allocators", &list]);
    assert_eq!(runs.len(), 2 * all.len());
    for run in &runs {
        assert_eq!(number(run, "/blocks_verified"), number(run, "/blocks"));
        assert_look(run, "/long");
    }
}

#[test]
fn bad_usage_is_refused() {
    for bad in [&["--percent", "0"][..], &["--percent", "101"], &["no-such-workload"], &["--allocators", "tcmalloc"]] {
        let output = measure(bad);
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    common::assert_refuses_what_cannot_be_written(|json| {
        measure(&["pages", "--percent", "1", "--allocators", "system", "--json", json.to_str().unwrap()])
    });
}
