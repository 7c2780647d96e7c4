//! The JSON file: whole, or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use serde::Serialize;

/// A place to write to that was found writable.
#[derive(Debug)]
pub struct JsonFile {
    target: PathBuf,
    /// Written first, then renamed, so that the target is never half written. Devices and pipes are written directly.
    temporary: Option<PathBuf>,
}

impl JsonFile {
    /// Finds out whether `path` can be written, before the time for the runs is spent; leaves nothing behind.
    pub fn prepare(path: &Path) -> Result<Self, String> {
        let explain = |error: io::Error| format!("{}: {error}", path.display());
        // A link stays a link to the new contents.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let special = fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file());
        if special {
            File::options().write(true).open(&target).map_err(explain)?;
            return Ok(Self { target, temporary: None });
        }
        let name = target.file_name().ok_or_else(|| explain(io::ErrorKind::IsADirectory.into()))?;
        let temporary = target.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), process::id()));
        File::create(&temporary).and_then(|_| fs::remove_file(&temporary)).map_err(explain)?;
        Ok(Self { target, temporary: Some(temporary) })
    }

    /// Writes the results.
    pub fn write(self, results: &impl Serialize) -> Result<(), String> {
        let Some(temporary) = &self.temporary else {
            return write_to(&self.target, results).map_err(|e| self.explain(&e));
        };
        write_to(temporary, results).and_then(|()| fs::rename(temporary, &self.target)).map_err(|error| {
            // What is left of it helps nobody.
            let _ = fs::remove_file(temporary);
            self.explain(&error)
        })
    }

    fn explain(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.target.display())
    }
}

fn write_to(path: &Path, results: &impl Serialize) -> io::Result<()> {
    let mut file = BufWriter::new(File::options().write(true).create(true).truncate(true).open(path)?);
    serde_json::to_writer_pretty(&mut file, results)?;
    file.write_all(b"\n")?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn preparing_leaves_nothing_and_writing_leaves_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        let file = JsonFile::prepare(&path).unwrap();
        assert_eq!(entries(folder.path()), 0);
        file.write(&[(); 0]).unwrap();
        assert_eq!(entries(folder.path()), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]\n");
        JsonFile::prepare(&path).unwrap().write(&[(); 0]).unwrap();
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(JsonFile::prepare(folder.path()).is_err());
        assert!(JsonFile::prepare(&folder.path().join("no/such/folder.json")).is_err());
        assert!(JsonFile::prepare(Path::new("..")).is_err());
        assert_eq!(entries(folder.path()), 0);
    }
}
