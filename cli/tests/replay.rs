//! The command as a user runs it: what it prints, what it writes, how it ends.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

const MIB: i64 = 1 << 20;

/// Every allocator that this build has.
fn allocators() -> Vec<&'static str> {
    let mut all = vec!["shuffler", "shuffler+directory", "system"];
    all.extend(cfg!(feature = "mimalloc").then_some("mimalloc"));
    all.extend(cfg!(feature = "jemalloc").then_some("jemalloc"));
    all
}

/// `shuffler replay` that does not wait 2 s after each load.
fn replay(args: &[&str]) -> Output {
    let mut command = Command::new(cargo_bin!("shuffler"));
    command.args(["replay", "--settle-ms", "50"]).args(args).output().expect("the command starts")
}

/// The same with `--json`, which must succeed: the array of runs.
fn replay_to_json(args: &[&str]) -> Vec<Value> {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("runs.json");
    let output = replay(&[args, &["--json", json.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    serde_json::from_slice(&fs::read(json).unwrap()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn number(run: &Value, field: &str) -> i64 {
    run[field].as_i64().unwrap_or_else(|| panic!("{field} in {run:#}"))
}

/// A trace that grows, resizes, frees most of what it made and leaves some alive.
fn small_trace() -> String {
    let mut text = String::from("# a small trace\n");
    for id in 0..4000 {
        writeln!(text, "a {id} {} {}", 16 + id * 37 % 900, 1 << (id % 7)).unwrap();
        if id % 10 == 0 {
            writeln!(text, "r {id} {}", id * 53 % 3000).unwrap();
        }
    }
    for id in (0..4000).filter(|id| id % 16 != 0) {
        writeln!(text, "f {id}").unwrap();
    }
    text.push_str("a 1000000 3000000 4096\nr 1000000 5000000\na 1000001 0\n");
    text
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A recorded trace, where the recordings are.
fn recorded(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces").join(name);
    if !path.exists() {
        eprintln!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

/// What must hold for any run that ended well.
fn assert_clean(run: &Value) {
    assert!(number(run, "blocks_verified") > 0);
    assert!(number(run, "start_resident") > 0);
    assert!(number(run, "peak_live") >= number(run, "end_live"));
    assert!(number(run, "peak_resident") >= number(run, "end_resident"));
    if !run["allocator"].as_str().unwrap().starts_with("shuffler") {
        assert!(run["moves"].is_null() && run["source"].is_null());
        return;
    }
    assert_eq!(number(run, "final_live_blocks"), 0);
    if run["source"] == "bump" {
        // What it gives back, the global allocator may keep, so the source's own count tells. Pages of the handle table stay
        // mapped while their shuffler lives, and this source cannot empty them in place.
        let left = number(run, "final_source_bytes") - number(run, "start_source_bytes");
        assert!(left < 8 * MIB, "{run:#}");
    } else {
        assert!(number(run, "final_resident") < 8 * MIB, "{run:#}");
    }
}

#[test]
fn every_allocator_replays_a_small_trace() {
    let folder = TempDir::new().unwrap();
    let trace = file(&folder, "small.trace", small_trace());
    let all = allocators();
    for (threads, flags) in [(1, &[][..]), (3, &["--cross"][..]), (1, &["--cross", "--source", "bump"][..])] {
        let list = all.join(",");
        let threads = threads.to_string();
        let args = [&[trace.as_str(), "--threads", &threads, "--allocators", &list], flags].concat();
        let runs = replay_to_json(&args);
        let names: Vec<_> = runs.iter().map(|run| run["allocator"].as_str().unwrap()).collect();
        assert_eq!(names, all, "one object an allocator, in the order asked for");
        runs.iter().for_each(assert_clean);
        let verified: Vec<_> = runs.iter().map(|run| number(run, "blocks_verified")).collect();
        assert!(verified.windows(2).all(|pair| pair[0] == pair[1]), "{verified:?}");
    }
}

#[test]
fn what_is_alive_at_the_end_is_counted_and_verified() {
    let folder = TempDir::new().unwrap();
    let trace = file(&folder, "t", "a 1 1000000\na 2 3000000\nf 1\nr 2 2000000\n");
    let runs = replay_to_json(&[&trace, "--threads", "2", "--allocators", "system"]);
    assert_eq!(number(&runs[0], "end_live"), 4_000_000);
    assert_eq!(number(&runs[0], "settled_live"), 4_000_000);
    // A free, a resize, a survivor's pass and its free, on each thread.
    assert_eq!(number(&runs[0], "blocks_verified"), 8);
    assert_eq!(number(&runs[0], "operations"), 8);
    assert!(runs[0]["end_ratio"].as_f64().unwrap() >= 1.0);
}

#[test]
fn the_table_is_one_row_an_allocator_for_each_trace() {
    let folder = TempDir::new().unwrap();
    let plain = file(&folder, "plain.trace", small_trace());
    let packed = file(&folder, "packed.trace.gz", gzip(&small_trace()));
    let output = replay(&[&plain, &packed, "--allocators", "system,shuffler", "--threads", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "no progress where there is no terminal");
    let text = stdout(&output);
    let position = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("{needle} in\n{text}"));
    assert!(position("plain.trace: ") < position("packed.trace.gz: "));
    assert_eq!(text.matches("│ system ").count(), 2);
    assert_eq!(text.matches("│ shuffler ").count(), 2);
    for column in ["time", "at the peak", "at the end", "2 s later", "moves", "arenas", "longest", "verified"] {
        assert!(text.contains(column), "{column} in\n{text}");
    }
}

#[test]
fn without_a_trace_it_runs_the_synthetic_one() {
    let runs = replay_to_json(&["--allocators", "system", "--threads", "1"]);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0]["trace"], "synthetic");
    assert!(number(&runs[0], "end_live") > MIB, "it leaves survivors");
}

#[test]
fn a_recorded_trace_replays_over_everything() {
    let Some(trace) = recorded("ssh.trace.gz") else { return };
    let trace = trace.to_str().unwrap();
    for flags in [&[][..], &["--cross"], &["--source", "bump"], &["--source", "bump", "--cross"]] {
        let list = if flags.contains(&"bump") { "shuffler,shuffler+directory".into() } else { allocators().join(",") };
        let runs = replay_to_json(&[&[trace, "--threads", "2", "--allocators", &list], flags].concat());
        for run in &runs {
            assert_clean(run);
            assert_eq!(number(run, "operations"), 2 * 23_008);
            assert_eq!(number(run, "end_live"), 0, "the trace frees all it makes");
        }
    }
}

/// Ends with status 2 and one line that names the file, and leaves no output.
fn assert_refused(bytes: &[u8], reason: &str) {
    let folder = TempDir::new().unwrap();
    let good = file(&folder, "good.trace", small_trace());
    let bad = file(&folder, "bad.trace", bytes);
    let json = folder.path().join("runs.json");
    // The good one first: nothing may run before everything is read.
    let output = replay(&[&good, &bad, "--allocators", "system", "--json", json.to_str().unwrap()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&bad) && text.contains(reason), "{reason} in {text}");
    assert_eq!(stdout(&output), "");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing was written");
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    assert_refused(b"a 1 8\nz 1\n", "line 2: unknown operation `z`");
    assert_refused(b"a 1 8\na x 8\n", "line 2: the id `x` is not a number");
    assert_refused(b"a 1 99999999999999\n", "line 1: size 99999999999999 is above");
    assert_refused(b"a 1 8 12\n", "line 1: alignment 12 is not a power of two");
    assert_refused(b"a 1 8 4194304\n", "line 1: alignment 4194304 is above");
    assert_refused(b"a 1 8\na 1 8\n", "line 2: id 1 is allocated already");
    assert_refused(b"r 1 8\n", "line 1: id 1 is not allocated");
    assert_refused(b"a 1 8\nf 1\nf 1\n", "line 3: id 1 is not allocated");
    assert_refused(b"", "line 1: no operation");
    assert_refused(b"\x7fELF\x02\x01\x01\0\0\0", "line 1: not a trace");
    assert_refused(b"{\"json\": true}\n", "line 1: unknown operation");
    let packed = gzip(&small_trace());
    assert_refused(&packed[..packed.len() / 2], "line ");
    assert_refused(&packed[..packed.len() - 3], "line ");
    let mut damaged = packed.clone();
    damaged[packed.len() / 2] ^= 0x55;
    assert_refused(&damaged, "line ");
}

#[test]
fn bad_usage_is_refused_before_anything_runs() {
    let folder = TempDir::new().unwrap();
    let trace = file(&folder, "t", small_trace());
    let nowhere = folder.path().join("no/such/folder.json");
    for args in [
        &["no/such/trace"][..],
        &[&trace, "--threads", "0"],
        &[&trace, "--allocators", "tcmalloc"],
        &[&trace, "--source", "sbrk"],
        &[&trace, "--json", nowhere.to_str().unwrap()],
        &[&trace, "--json", folder.path().to_str().unwrap()],
        &[folder.path().to_str().unwrap()],
        &[&trace, "--unknown"],
    ] {
        let output = replay(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(!stderr(&output).contains("panicked"), "{args:?}: {}", stderr(&output));
    }
}

#[test]
#[cfg(unix)]
fn an_allocator_that_cannot_serve_is_a_failure() {
    let folder = TempDir::new().unwrap();
    // More than a limit on the address space leaves, which a shell can set.
    let trace = file(&folder, "t", "a 77 64\na 78 60000000000\n");
    let json = folder.path().join("runs.json");
    let script = "ulimit -v 8000000 && exec \"$0\" replay \"$1\" --threads 1 --allocators system --json \"$2\"";
    let command = Command::new("sh").arg("-c").arg(script).arg(cargo_bin!("shuffler")).arg(&trace).arg(&json).output();
    let output = command.expect("a shell");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("system") && text.contains("id 78") && text.contains("no memory for 60000000000"), "{text}");
    assert!(!json.exists());
}

#[cfg(feature = "test-hooks")]
mod faults {
    //! What the replay says when a move stops or spoils its copy.

    use super::*;

    #[test]
    fn a_compactor_parked_in_mid_move_holds_nobody_up() {
        for source in ["os", "bump"] {
            let runs = replay_to_json(&["--park-mid-move", "--allocators", "shuffler", "--source", source]);
            assert!(number(&runs[0], "helped") > 0, "{:#}", runs[0]);
            assert_eq!(number(&runs[0], "final_live_blocks"), 0);
        }
    }

    #[test]
    fn a_corrupted_copy_fails_the_replay() {
        let output = replay(&["--corrupt-copy", "--allocators", "shuffler"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("shuffler") && text.contains("offset"), "{text}");
        assert_eq!(stdout(&output), "");
    }
}
