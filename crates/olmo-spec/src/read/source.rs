//! The texts that values come from: files and command-line arguments. They are kept until the end of
//! validation, so that every error can show its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use olmo_base::nearest;

use crate::read::diagnostic::{Diagnostic, Diagnostics, Location};

/// The command-line option, and the name of a source that is its argument.
pub(crate) const SET: &str = "--set";
/// Maximum size in bytes of an experiment, pipeline or stage file. A larger file is data.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
/// Maximum number of errors to show; the others are counted.
const MAX_SHOWN: usize = 100;
/// Maximum number of errors to keep.
const MAX_KEPT: usize = 10_000;
/// Number of errors after which the search stops.
const FULL: usize = 1_000;
/// Maximum length of a kept line in characters. Only the part of a longer one around the error is
/// kept.
const MAX_LINE: usize = 240;

/// A range of bytes in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub source: u32,
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// The span of values that are in no source: a stage's own defaults.
    pub(crate) const DEFAULT: Span = Span { source: u32::MAX, start: 0, end: 0 };

    pub(crate) fn is_default(self) -> bool {
        self.source == u32::MAX
    }
}

/// A text.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its name in messages: the path as given, or `--set`.
    pub shown: String,
    pub text: String,
    /// The folder to which paths in the text are relative, absolute.
    pub base: PathBuf,
    line_starts: Vec<usize>,
}

/// An error on its way to becoming a [`Diagnostic`].
#[derive(Debug)]
pub(crate) struct Problem {
    code: &'static str,
    span: Option<Span>,
    message: String,
    label: Option<String>,
    notes: Vec<(String, Option<Span>)>,
    help: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: &'static str, span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        let span = span.into().filter(|span| !span.is_default());
        Self { code, span, message: message.into(), label: None, notes: Vec::new(), help: None }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into().or(self.help);
        self
    }

    /// A note with the place `span`, if there is one.
    pub(crate) fn note_at_some(self, text: impl Into<String>, span: Option<Span>) -> Self {
        if span.is_some_and(|span| !span.is_default()) { self.note_at(text, span) } else { self }
    }

    /// A note that ends with the place `span`.
    pub(crate) fn note_at(mut self, text: impl Into<String>, span: Option<Span>) -> Self {
        self.notes.push((text.into(), span.filter(|span| !span.is_default())));
        self
    }
}

/// The texts that a load has read, and the errors that it found.
#[derive(Debug, Default)]
pub(crate) struct Session {
    sources: Vec<Source>,
    problems: Vec<Problem>,
    /// Number of errors that are not kept.
    dropped: usize,
    /// The environment variables used in paths, with their values.
    pub variables: BTreeMap<String, String>,
    /// The values of path params that contain one.
    pub from_environment: BTreeSet<String>,
}

impl Session {
    /// Adds a text and returns its number.
    pub(crate) fn add(&mut self, shown: String, text: String, base: PathBuf) -> u32 {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.sources.push(Source { shown, text, base, line_starts });
        (self.sources.len() - 1) as u32
    }

    /// The source `number`; none for [`Span::DEFAULT`].
    pub(crate) fn source(&self, number: u32) -> Option<&Source> {
        self.sources.get(number as usize)
    }

    /// The text under `span`.
    pub(crate) fn text(&self, span: Span) -> &str {
        self.source(span.source).and_then(|s| s.text.get(span.start as usize..span.end as usize)).unwrap_or("")
    }

    /// Adds an error.
    pub(crate) fn report(&mut self, problem: Problem) {
        if self.problems.len() < MAX_KEPT {
            self.problems.push(problem);
        } else {
            self.dropped += 1;
        }
    }

    /// Calls `read` and drops the problems that it reports.
    pub(crate) fn quietly<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let (kept, dropped) = (self.problems.len(), self.dropped);
        let value = read(self);
        self.problems.truncate(kept);
        self.dropped = dropped;
        value
    }

    /// Whether there are enough errors to stop the search.
    pub(crate) fn is_full(&self) -> bool {
        self.errors() >= FULL
    }

    /// Whether an error at `span` has been reported.
    pub(crate) fn is_reported(&self, span: Span) -> bool {
        self.problems.iter().any(|problem| problem.span == Some(span))
    }

    /// Number of errors so far.
    pub(crate) fn errors(&self) -> usize {
        self.problems.len() + self.dropped
    }

    /// `file:line:column` of the start of `span`, or `--set`.
    pub(crate) fn place(&self, span: Span) -> String {
        match self.source(span.source) {
            None => "default".to_owned(),
            Some(source) if source.shown.starts_with("--") => source.shown.clone(),
            Some(source) => {
                let (line, column) = source.position(span.start as usize);
                format!("{}:{line}:{column}", source.shown)
            }
        }
    }

    /// Reads the file at `path` (shown as `shown`). Faults are reported at `at`, the place that
    /// names the file.
    pub(crate) fn read(&mut self, path: &Path, shown: String, at: Option<Span>) -> Option<u32> {
        let fault = |message: String| Problem::new("spec::unreadable", at, message);
        let bytes = match read_limited(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let help = nearest::files_near(path);
                self.report(Problem::new("spec::missing_file", at, format!("there is no file `{shown}`")).help(help));
                return None;
            }
            Err(e) => {
                self.report(fault(format!("cannot read `{shown}`: {e}")));
                return None;
            }
        };
        if bytes.len() as u64 > MAX_BYTES {
            self.report(
                fault(format!("`{shown}` is larger than {MAX_BYTES} bytes"))
                    .help("keep data in files of their own and name them here".to_owned()),
            );
            return None;
        }
        let base = path.parent().unwrap_or(Path::new("/")).to_owned();
        match String::from_utf8(bytes) {
            Ok(text) => Some(self.add(shown, text, base)),
            Err(e) => {
                let offset = e.utf8_error().valid_up_to();
                let bytes = e.into_bytes();
                let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
                let byte = bytes.get(offset).copied().unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let message = format!("`{shown}` is not UTF-8: byte 0x{byte:02x} at offset {offset}");
                let source = self.add(shown, text, base);
                let start = offset as u32;
                let help = if wide { "it looks like UTF-16; save it as UTF-8" } else { "save the file as UTF-8" };
                let span = Span { source, start, end: start + '\u{fffd}'.len_utf8() as u32 };
                self.report(Problem::new("yaml::encoding", span, message).help(help.to_owned()));
                None
            }
        }
    }

    /// All errors in the order of sources and positions, or `Ok` if there is none.
    pub(crate) fn finish(mut self) -> Result<(), Diagnostics> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by_key(|problem| (problem.span.is_none(), problem.span.map(|s| (s.source, s.start))));
        // Locating an error takes a walk along its line, which may be long: do so only for shown errors.
        let (mut shown, mut more): (Vec<Diagnostic>, usize) = (Vec::new(), self.dropped);
        for problem in problems {
            if shown.len() >= MAX_SHOWN {
                more += 1;
                continue;
            }
            let diagnostic = self.diagnostic(problem);
            if shown.last() != Some(&diagnostic) {
                shown.push(diagnostic);
            }
        }
        if more > 0 {
            shown.push(Diagnostic::plain("spec::too_many", format!("{more} more errors are not shown")));
        }
        Err(Diagnostics::new(shown))
    }

    fn diagnostic(&self, problem: Problem) -> Diagnostic {
        let with_place = |(text, span): (String, Option<Span>)| match span {
            Some(span) => format!("{text} at {}", self.place(span)),
            None => text,
        };
        Diagnostic {
            code: problem.code.to_owned(),
            message: problem.message,
            span: problem.span.and_then(|span| Some(self.source(span.source)?.locate(span))),
            label: problem.label,
            notes: problem.notes.into_iter().map(with_place).collect(),
            help: problem.help,
        }
    }
}

impl Source {
    /// Line and column (in characters), both from 1, of byte `offset`.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|&start| start <= offset).max(1);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or("");
        (line, before.trim_start_matches('\u{feff}').chars().count() + 1)
    }

    fn locate(&self, span: Span) -> Location {
        let (line, column) = self.position(span.start as usize);
        let (end_line, end_column) = self.position(span.end.max(span.start) as usize);
        let start = self.line_starts[line - 1];
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let whole = self.text.get(start..end).unwrap_or("").trim_start_matches('\u{feff}').trim_end_matches('\r');
        let skipped = if whole.chars().count() > MAX_LINE { column.saturating_sub(MAX_LINE / 3) } else { 0 };
        let text = whole.chars().skip(skipped).take(MAX_LINE).collect();
        Location {
            file: self.shown.clone(),
            line: line as u32,
            column: column as u32,
            end_line: end_line as u32,
            end_column: end_column as u32,
            text,
            text_column: skipped as u32 + 1,
        }
    }
}

/// Reads a regular file, but at most one byte more than [`MAX_BYTES`].
fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    // A pipe or device could block or never end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The path of `file` for messages, if the file shown as `named_in` names it.
pub(crate) fn beside(named_in: &str, file: &str) -> String {
    let folder = Path::new(named_in).parent().unwrap_or(Path::new(""));
    tidy(&folder.join(file)).to_string_lossy().into_owned()
}

/// Removes `.` and `a/..` from `path`, by its text alone. Leading `..` of a relative path stay.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tidy_paths_keep_their_meaning() {
        for (given, tidied) in
            [("a/./b", "a/b"), ("a/../b", "b"), ("../a", "../a"), ("a/../..", ".."), ("/..", "/"), ("a/..", ".")]
        {
            assert_eq!(tidy(Path::new(given)), Path::new(tidied), "{given}");
        }
    }

    #[test]
    fn positions_count_characters_and_lines_from_one() {
        let mut session = Session::default();
        let source = session.add("f".into(), "\u{feff}aé: 1\r\nb: ü2\n".into(), "/".into());
        assert_eq!(session.place(Span { source, start: 3, end: 4 }), "f:1:1");
        assert_eq!(session.place(Span { source, start: 8, end: 9 }), "f:1:5");
        assert_eq!(session.place(Span { source, start: 16, end: 17 }), "f:2:5");
    }

    #[test]
    fn a_byte_that_is_not_utf8_is_named_by_its_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.yaml");
        std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
        let mut session = Session::default();
        assert_eq!(session.read(&path, "x.yaml".into(), None), None);
        let text = session.finish().unwrap_err().render(false);
        assert!(text.contains("byte 0xff at offset 8") && text.contains("--> x.yaml:2:4"), "{text}");
    }

    #[test]
    fn a_folder_and_a_large_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large.yaml");
        std::fs::write(&large, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
        let mut session = Session::default();
        assert_eq!(session.read(folder.path(), "folder".into(), None), None);
        assert_eq!(session.read(&large, "large.yaml".into(), None), None);
        let text = session.finish().unwrap_err().render(false);
        assert!(text.contains("not a regular file") && text.contains("larger than"), "{text}");
    }
}
