//! Trace files: plain or gzip, told apart by their first bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::Trace;
use super::parse::{ParseError, parse};

const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];
const BUFFER: usize = 1 << 16;

/// Why a trace file cannot be replayed, in one line.
#[derive(Debug)]
pub struct TraceError {
    file: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    Open(io::Error),
    Parse(ParseError),
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.what {
            What::Open(error) => write!(f, "{file}: {error}"),
            What::Parse(ParseError { line, reason }) => write!(f, "{file}: line {line}: {reason}"),
        }
    }
}

impl std::error::Error for TraceError {}

/// Reads and checks a whole trace file.
pub fn load(path: &Path) -> Result<Trace, TraceError> {
    let error = |what| TraceError { file: path.to_owned(), what };
    let text = open(path).map_err(What::Open).map_err(error)?;
    parse(text, path.display().to_string()).map_err(What::Parse).map_err(error)
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = File::open(path)?;
    let mut start = Vec::with_capacity(GZIP_MAGIC.len());
    file.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    let gzip = start == GZIP_MAGIC;
    // Chained rather than sought back to: the file may be a pipe.
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(file));
    Ok(if gzip { Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole))) } else { Box::new(whole) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// What `load` says about a file of these bytes.
    fn loaded(bytes: &[u8]) -> Result<Trace, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        load(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
    }

    fn text() -> String {
        (0..5000).map(|id| format!("a {id} {}\n", id * 7 % 911)).collect()
    }

    #[test]
    fn plain_and_gzip_read_the_same() {
        let plain = loaded(text().as_bytes()).unwrap();
        let packed = loaded(&gzip(&text())).unwrap();
        assert_eq!(plain.ops, packed.ops);
        let twice = [gzip("a 1 8\n"), gzip("f 1\n")].concat();
        assert_eq!(loaded(&twice).unwrap().ops.len(), 2, "files put together with cat are one stream");
    }

    #[test]
    fn a_cut_gzip_is_refused_wherever_it_is_cut() {
        let whole = gzip(&text());
        for length in [1, 2, 5, 10, 11, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
            let error = loaded(&whole[..length]).map(|_| length).unwrap_err();
            assert!(error.starts_with("FILE: line "), "{length}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn a_flipped_byte_in_a_gzip_is_refused() {
        let mut bytes = gzip(&text());
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        assert!(loaded(&bytes).unwrap_err().starts_with("FILE: line "));
    }

    #[test]
    fn what_is_not_a_trace_is_refused() {
        assert_eq!(loaded(b"\x7fELF\x02\x01\x01\0\0").unwrap_err(), "FILE: line 1: not a trace: binary data");
        assert_eq!(loaded(b"").unwrap_err(), "FILE: line 1: no operation in the file");
        let missing = load(Path::new("no/such/file")).unwrap_err().to_string();
        assert!(missing.starts_with("no/such/file: "), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        assert!(load(folder.path()).is_err());
    }
}
