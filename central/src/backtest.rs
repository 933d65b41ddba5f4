//! Scores recorded series as the service would have scored them, row by row and without looking ahead.
//!
//! Tables and Prometheus exports come in; every input row goes out with its score, and each series becomes a file
//! below a folder that mirrors the input, with a picture of it where one is asked for.
//!
//! Invariants: as many rows out as in, in their order; memory does not grow with the length of the input; the same
//! input, settings and seed give the same files; a file has its name only when it is complete. What cannot be read
//! is named by file and line, and the rest goes on. Never: talks to a service; a series starts cold, without the
//! pooled history of its family, and the forest over a resource's series is not asked.

mod export;
mod judge;
mod line;
mod output;
mod plot;
mod report;
mod screen;
mod series;
mod source;
mod stamp;
mod table;

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::isolationforest::detector::Settings;
pub use report::{Report, Tally, Worst};
pub use screen::Screen;
use series::{Place, Series};
use source::Source;

const DAY_NANOS: f64 = 86_400e9;

/// What an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Told from the first bytes.
    #[default]
    Auto,
    /// A table of comma-separated values.
    Csv,
    /// The answer of `/api/v1/query_range`, or the lines of `/api/v1/export`.
    Prometheus,
}

/// What the values of a series are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// A counter when the name ends as Prometheus names counters, else a gauge.
    #[default]
    Auto,
    /// Scored as it is.
    Gauge,
    /// Only grows, except for resets; its rate is scored.
    Counter,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// A file, a folder, or `-` for stdin.
    pub input: PathBuf,
    /// The folder that is written to; rows go to the shared stream without it.
    pub out: Option<PathBuf>,
    /// Also write a picture of each series.
    pub plot: bool,
    /// What the input is.
    pub format: Format,
    /// What the values are.
    pub kind: Kind,
    /// How the engine behaves.
    pub settings: Settings,
    /// The same seed gives the same scores.
    pub seed: u64,
    /// The column of times; found by itself when absent.
    pub time_column: Option<String>,
    /// The columns that are scored; all that hold numbers when empty.
    pub columns: Vec<String>,
    /// Series that the report names.
    pub top: usize,
}

/// Scores everything; rows go to `rows` where no folder is given.
///
/// # Errors
/// When the input cannot be read at all, or the output cannot be written. A closed pipe is an [`io::Error`] in the
/// chain of causes.
pub fn run(options: &Options, rows: &mut dyn Write, screen: &mut Screen<'_>) -> anyhow::Result<Report> {
    ensure!(!options.plot || options.out.is_some(), "--plot writes files: say where with --out");
    if let Some(out) = &options.out {
        let is_input = out.canonicalize().is_ok_and(|out| options.input.canonicalize().is_ok_and(|input| input == out));
        ensure!(!is_input, "{} is the input: choose another folder with --out", out.display());
    }
    let found = source::find(&options.input, options.format, options.out.as_deref())?;
    let is_folder = options.input != Path::new("-") && options.input.is_dir();
    screen.expect(found.iter().map(source::Found::bytes).sum());
    let rows = Rows { to: BufWriter::new(rows), named: is_folder, has_header: false, in_files: options.out.is_some() };
    let report = Report { threshold: options.settings.floor, ..Report::default() };
    let mut run = Run { options, screen, rows, report, taken: HashSet::new() };
    for found in found {
        run.screen.on(&found.label());
        let outcome = found.open(run.screen.bar()).and_then(|mut source| run.read(&mut source, is_folder));
        match outcome {
            Err(error) if !is_folder || is_output(&error) => {
                run.screen.end();
                return Err(error);
            }
            Err(error) => {
                run.report.unreadable_files += 1;
                run.screen.complain(&found.label(), &format!("{error:#}"));
            }
            Ok(()) => {}
        }
    }
    run.rows.to.flush().map_err(Unwritten::rows)?;
    run.screen.end();
    Ok(run.report)
}

/// What cannot be written ends a run; what cannot be read ends a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {place}")]
struct Unwritten {
    place: String,
    #[source]
    cause: io::Error,
}

impl Unwritten {
    fn new(place: &Path, cause: io::Error) -> Self {
        Self { place: place.display().to_string(), cause }
    }

    fn rows(cause: io::Error) -> Self {
        Self { place: "the rows".to_owned(), cause }
    }
}

fn is_output(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<Unwritten>)
}

/// Whether an error says that whoever read the rows has enough.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The stream of rows that are not kept in files.
struct Rows<'a> {
    to: BufWriter<&'a mut dyn Write>,
    /// Each row begins with the name of its series.
    named: bool,
    has_header: bool,
    in_files: bool,
}

impl Rows<'_> {
    const HEADER: &'static [u8] = b"timestamp,value,anomaly_score,is_anomaly,reason\n";

    /// Begins an input that may hold several series.
    fn begin(&mut self, several: bool) -> anyhow::Result<()> {
        if self.has_header || self.in_files {
            return Ok(());
        }
        self.named |= several;
        self.has_header = true;
        if self.named {
            self.write(b"series,")?;
        }
        self.write(Self::HEADER)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.to.write_all(bytes).map_err(Unwritten::rows)?)
    }
}

/// One run on its way.
struct Run<'a, 'b> {
    options: &'a Options,
    screen: &'a mut Screen<'b>,
    rows: Rows<'a>,
    report: Report,
    /// Output files that are spoken for.
    taken: HashSet<PathBuf>,
}

impl Run<'_, '_> {
    fn read(&mut self, source: &mut Source, in_folder: bool) -> anyhow::Result<()> {
        let guessed = match self.options.format {
            Format::Auto if export::looks_like_one(source.peek()?) => Format::Prometheus,
            Format::Auto => Format::Csv,
            given => given,
        };
        if guessed == Format::Csv {
            table::read(self, source)?;
        } else if let Err(error) = export::read(self, source) {
            // A folder of tables may hold other JSON beside them.
            if in_folder && self.options.format == Format::Auto && error.is::<export::NoExport>() {
                self.report.skipped_files += 1;
                return Ok(());
            }
            return Err(error);
        }
        self.report.files += 1;
        Ok(())
    }

    /// Opens a series of a source: `inner` is its name inside, where there may be several; `name` tells its kind.
    fn open(&mut self, source: &Source, inner: Option<&str>, name: &str) -> anyhow::Result<Series> {
        let relative = &source.relative;
        let label = match inner {
            Some(inner) => format!("{}:{inner}", relative.display()),
            None => relative.display().to_string(),
        };
        let stem = match inner {
            Some(inner) => relative.with_extension("").join(output::file_name(inner)),
            None => relative.with_extension(""),
        };
        let place = match &self.options.out {
            None => Place { rows: None, plot: None },
            Some(out) => {
                let rows = self.place(&out.join(&stem))?;
                let plot = self.options.plot.then(|| ending(&rows, "svg"));
                Place { rows: Some(ending(&rows, "csv")), plot }
            }
        };
        Series::open(self.options, label, name, place)
    }

    /// A place that no other series has, without its ending.
    fn place(&mut self, wanted: &Path) -> anyhow::Result<PathBuf> {
        let mut place = wanted.to_owned();
        let mut number = 1;
        while !self.taken.insert(place.clone()) {
            number += 1;
            let mut name = wanted.file_name().unwrap_or_default().to_owned();
            name.push(format!("-{number}"));
            place = wanted.with_file_name(name);
        }
        let target = ending(&place, "csv");
        let is_input = target.canonicalize().ok().is_some_and(|target| {
            self.options
                .input
                .canonicalize()
                .is_ok_and(|input| target == input || target.starts_with(&input) && input.is_file())
        });
        ensure!(!is_input, "{} is the input: choose another folder with --out", target.display());
        Ok(place)
    }

    /// A series is complete.
    fn finish(&mut self, series: Series) -> anyhow::Result<()> {
        let tally = series.finish()?;
        self.report.add(tally, self.options.top);
        Ok(())
    }

    /// A row could not be read.
    fn bad(&mut self, place: &str, reason: &str) {
        self.report.bad_rows += 1;
        self.screen.complain(place, reason);
    }
}

/// A path with an ending added, because the name may hold dots of its own.
fn ending(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    place.with_file_name(name)
}

#[cfg(test)]
mod tests;
