//! Runs the models of `models.rs`. The real `crossbeam-epoch` uses loom's atomics only when it is compiled for that, so they
//! need a build of their own, by a child of this test.

#![cfg(not(loom))]

use std::path::Path;
use std::process::Command;

#[test]
fn the_models_hold() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("loom-epoch");
    let child = Command::new(env!("CARGO"))
        .args(["test", "--test", "loom_epoch", "--", "--nocapture"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTFLAGS", "--cfg loom --cfg crossbeam_loom")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    println!("{stdout}");
    assert!(child.status.success(), "the models failed:\n{stderr}");
    let passed =
        stdout.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok());
    let models = stdout.matches("model ").count();
    assert!(passed.is_some_and(|passed: usize| passed > 0) && models > 0, "no model ran:\n{stderr}");
}
