//! What holds for every command that writes its figures to a file.

use std::fs;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

/// Asserts that the command, which is told to write to a path, refuses those that cannot be written, before it runs anything.
///
/// # Panics
///
/// If it does not.
#[track_caller]
pub fn assert_refuses_what_cannot_be_written(write_to: impl Fn(&Path) -> Output) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let cases = [
        (folder.path().join("no/such/folder.json"), "No such file or directory"),
        (folder.path().to_owned(), "directory"),
        (file.join("figures.json"), "Not a directory"),
    ];
    for (json, reason) in cases {
        let output = write_to(&json);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(text.lines().count(), 1, "before anything is run: {text}");
        assert!(text.contains(json.to_str().unwrap()) && text.contains(reason), "{reason} in {text}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written");
    assert_eq!(fs::read(&file).unwrap(), b"not a folder");
}
