//! The text of a trace.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::Trace;
use super::builder::{Builder, DEFAULT_ALIGN, Refusal};

/// No line of a trace comes near this; a foreign file may be one endless line.
const MAX_LINE: usize = 4096;
/// How the recorder's files begin. The next comment says how many operations follow, so that a cut file is noticed.
const RECORDER: &[u8] = b"# allocation trace v1";

/// What is wrong with a text, and on which line.
#[derive(Debug)]
pub struct ParseError {
    /// Counted from 1.
    pub line: u64,
    /// Why.
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum Reason {
    /// The file could not be read on.
    Read(io::Error),
    /// Longer than any operation.
    LineTooLong,
    /// Bytes that are not text.
    NotText,
    /// Neither `a`, `r` nor `f`.
    UnknownOperation(String),
    /// Fewer fields than the operation needs.
    Missing(&'static str),
    /// More fields than the operation has.
    Surplus(String),
    /// Not a number of 64 bits.
    BadNumber(&'static str, String),
    /// An operation that no program can have made.
    Refused(Refusal),
    /// Fewer or more operations than the header announces.
    Count { announced: u64, found: u64 },
    /// Nothing to replay.
    Empty,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "cannot read on: {error}"),
            Self::LineTooLong => write!(f, "not a trace: a line longer than {MAX_LINE} bytes"),
            Self::NotText => f.write_str("not a trace: binary data"),
            Self::UnknownOperation(word) => write!(f, "unknown operation `{word}`: expected a, r or f"),
            Self::Missing(field) => write!(f, "{field} is missing"),
            Self::Surplus(word) => write!(f, "unexpected `{word}` at the end of the operation"),
            Self::BadNumber(field, word) => write!(f, "{field} `{word}` is not a number below 2^64"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Count { announced, found } => {
                write!(f, "the file ends after {found} operations and its header announces {announced}")
            }
            Self::Empty => f.write_str("no operation in the file"),
        }
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads a whole trace.
pub fn parse(mut text: impl BufRead, name: String) -> Result<Trace, ParseError> {
    let mut parser = Parser::default();
    let mut line = Vec::with_capacity(MAX_LINE);
    let mut number = 0;
    loop {
        number += 1;
        let at = |reason| ParseError { line: number, reason };
        line.clear();
        // One byte above the limit, to tell a line at the limit from one that goes on.
        text.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).map_err(Reason::Read).map_err(at)?;
        if line.is_empty() {
            parser.check_end().map_err(at)?;
            return Ok(parser.builder.finish(name));
        }
        if line.len() > MAX_LINE {
            return Err(at(Reason::LineTooLong));
        }
        parser.line(&line).map_err(at)?;
    }
}

#[derive(Default)]
struct Parser {
    builder: Builder,
    recorded: bool,
    announced: Option<u64>,
}

impl Parser {
    fn line(&mut self, line: &[u8]) -> Result<(), Reason> {
        let binary = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
        if line.iter().any(binary) {
            return Err(Reason::NotText);
        }
        if line.starts_with(b"#") {
            self.header(line);
        }
        let end = line.iter().position(|&byte| byte == b'#').unwrap_or(line.len());
        self.operation(&line[..end])
    }

    /// Takes the number of operations out of a recorder's header; in other files comments mean nothing.
    fn header(&mut self, comment: &[u8]) {
        self.recorded |= comment.starts_with(RECORDER);
        let mut words = comment.split(u8::is_ascii_whitespace);
        if self.recorded && words.next() == Some(b"#") && words.next() == Some(b"ops") && self.announced.is_none() {
            self.announced = words.next().and_then(decimal);
        }
    }

    fn operation(&mut self, text: &[u8]) -> Result<(), Reason> {
        let mut fields = Fields(text);
        let Some(operation) = fields.next() else { return Ok(()) };
        match operation {
            b"a" => {
                let (id, size) = (fields.number("the id")?, fields.number("the size")?);
                let align = fields.optional_number("the alignment")?.unwrap_or(DEFAULT_ALIGN);
                fields.end()?;
                self.builder.allocate(id, size, align)?;
            }
            b"r" => {
                let (id, size) = (fields.number("the id")?, fields.number("the size")?);
                fields.end()?;
                self.builder.resize(id, size)?;
            }
            b"f" => {
                let id = fields.number("the id")?;
                fields.end()?;
                self.builder.free(id)?;
            }
            other => return Err(Reason::UnknownOperation(shown(other))),
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), Reason> {
        let found = self.builder.operations() as u64;
        match self.announced {
            Some(announced) if announced != found => Err(Reason::Count { announced, found }),
            _ if found == 0 => Err(Reason::Empty),
            _ => Ok(()),
        }
    }
}

/// The words of a line.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0.trim_ascii_start();
        if text.is_empty() {
            return None;
        }
        let (word, rest) = text.split_at(text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len()));
        self.0 = rest;
        Some(word)
    }

    fn number(&mut self, field: &'static str) -> Result<u64, Reason> {
        self.optional_number(field)?.ok_or(Reason::Missing(field))
    }

    fn optional_number(&mut self, field: &'static str) -> Result<Option<u64>, Reason> {
        let parse = |word| decimal(word).ok_or_else(|| Reason::BadNumber(field, shown(word)));
        self.next().map(parse).transpose()
    }

    fn end(&mut self) -> Result<(), Reason> {
        self.next().map_or(Ok(()), |word| Err(Reason::Surplus(shown(word))))
    }
}

/// Digits only: `u64::from_str` would take `+1` too.
fn decimal(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A word for an error message: escaped, and cut where it gets long.
fn shown(word: &[u8]) -> String {
    const LONGEST: usize = 24;
    let ellipsis = if word.len() > LONGEST { "…" } else { "" };
    format!("{}{ellipsis}", word[..word.len().min(LONGEST)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Op;

    fn read(text: &str) -> Result<Trace, String> {
        parse(text.as_bytes(), "t".into()).map_err(|error| format!("{}: {}", error.line, error.reason))
    }

    #[test]
    fn every_form_of_line_is_read() {
        let trace = read("# a comment\n\na 5 16\na 6 32 64 # with a comment\r\n  r 5 0\nf\t6\nf 5").unwrap();
        let expected = [
            Op::Allocate { slot: 0, size: 16, align_log2: 3 },
            Op::Allocate { slot: 1, size: 32, align_log2: 6 },
            Op::Resize { slot: 0, size: 0 },
            Op::Free { slot: 1 },
            Op::Free { slot: 0 },
        ];
        assert_eq!(trace.ops, expected);
        assert_eq!(trace.name, "t");
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, error) in [
            ("x 1", "1: unknown operation `x`: expected a, r or f"),
            ("a 1 8\nfree 1", "2: unknown operation `free`: expected a, r or f"),
            ("a", "1: the id is missing"),
            ("a 1", "1: the size is missing"),
            ("\nf", "2: the id is missing"),
            ("a one 8", "1: the id `one` is not a number below 2^64"),
            ("a 1 +8", "1: the size `+8` is not a number below 2^64"),
            ("a 1 -8", "1: the size `-8` is not a number below 2^64"),
            ("a 1 18446744073709551616", "1: the size `18446744073709551616` is not a number below 2^64"),
            ("a 1 18446744073709551615", "1: size 18446744073709551615 is above 68719476736"),
            ("a 1 8 3", "1: alignment 3 is not a power of two"),
            ("a 1 8 4194304", "1: alignment 4194304 is above 2097152"),
            ("a 1 8 8 8", "1: unexpected `8` at the end of the operation"),
            ("a 1 8\na 1 8", "2: id 1 is allocated already"),
            ("r 1 8", "1: id 1 is not allocated"),
            ("a 1 8\nf 1\nf 1", "3: id 1 is not allocated"),
            ("# nothing\n", "2: no operation in the file"),
            ("", "1: no operation in the file"),
            ("a 1 8\n\u{1}", "2: not a trace: binary data"),
        ] {
            assert_eq!(read(text).map(|_| ()), Err(error.into()), "{text:?}");
        }
    }

    #[test]
    fn foreign_bytes_are_shown_escaped_and_short() {
        let error = read(&"é".repeat(40)).unwrap_err();
        assert!(error.contains("\\xc3\\xa9") && error.contains('…') && !error.contains('é'), "{error}");
        assert!(read(&"a".repeat(MAX_LINE + 1)).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_recorders_header_is_held_to() {
        let header = "# allocation trace v1: x\n# ops 2 ids 1\n";
        assert!(read(&format!("{header}a 1 8\nf 1\n")).is_ok());
        let cut = read(&format!("{header}a 1 8\n")).unwrap_err();
        assert_eq!(cut, "4: the file ends after 1 operations and its header announces 2");
        assert!(read("# ops 9\na 1 8\n").is_ok(), "without the recorder's line it is a comment");
    }
}
