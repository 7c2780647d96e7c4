//! `shuffler simulate`: the figures it prints are those of theory, and of a policy worth its name.

use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use tempfile::TempDir;

mod common;

fn simulate(args: &[&str]) -> Output {
    Command::new(cargo_bin!("shuffler")).arg("simulate").args(args).output().expect("the command starts")
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row:#}"))
}

#[test]
fn the_quick_figures_are_near_theory_and_far_from_greedy() {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("figures.json");
    let output = simulate(&["--quick", "--json", json.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();

    // Utilisation, theory, and how far above it uniform death may be: of 128 arenas the few that are being filled count.
    let curve = results["curve"].as_array().unwrap();
    assert_eq!(curve.len(), 3);
    for (row, (utilization, theory, above)) in
        curve.iter().zip([(0.7, 0.88, 1.15), (0.8, 1.69, 1.18), (0.9, 4.18, 1.3)])
    {
        assert_eq!(number(row, "utilization"), utilization);
        assert!((number(row, "theory_uniform") - theory).abs() < 0.005, "{row:#}");
        let uniform = number(row, "uniform") / theory;
        assert!(uniform > 0.97 && uniform < above, "{uniform} times theory in {row:#}");
        assert!(number(row, "hot_cold") < 0.6 * number(row, "hot_cold_greedy"), "{row:#}");
        assert!(number(row, "zipf") < number(row, "zipf_greedy"), "{row:#}");
        assert!(number(row, "hot_cold_greedy") > theory, "greedy choice does not see what is hot: {row:#}");
    }

    let pace = results["pace"].as_array().unwrap();
    let [paced, flat_out] = pace.as_slice() else { panic!("two rates in {pace:#?}") };
    assert!(number(paced, "used_over_live") < 1.12 && number(paced, "assistance") == 0.0, "{paced:#}");
    assert!(number(flat_out, "used_over_live") < 1.28 && number(flat_out, "assistance") > 0.5, "{flat_out:#}");
    assert!(number(flat_out, "used_over_live") > number(paced, "used_over_live"));

    let table = String::from_utf8(output.stdout).unwrap();
    for expected in ["theory", "hot/cold", "greedy", "Zipf", "0.88", "1.69", "4.18", "used / live"] {
        assert!(table.contains(expected), "{expected} in\n{table}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused() {
    common::assert_refuses_what_cannot_be_written(|json| simulate(&["--quick", "--json", json.to_str().unwrap()]));
}

#[test]
fn bad_usage_is_refused() {
    for bad in [&["--unknown"][..], &["a-file-that-it-does-not-read"], &["--json"]] {
        let output = simulate(bad);
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
