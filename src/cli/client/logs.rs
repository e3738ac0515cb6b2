//! `a6 debug logs`: the last lines of a log file, and those to come.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::Logs;
use super::failed::Failed;
use crate::config::{AccessLog, Config};
use crate::failure::chain;

/// How often a followed file is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// Which lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Access,
    Error,
    All,
}

impl Kind {
    fn parse(name: &str) -> Result<Self, Failed> {
        match name {
            "access" => Ok(Self::Access),
            "error" => Ok(Self::Error),
            "all" => Ok(Self::All),
            other => Err(Failed::new(format!(
                "unknown log type {other:?}; use error, access or all"
            ))),
        }
    }

    /// An access record is a JSON object with a `kind`; everything else is the process's log.
    fn shows(self, line: &str) -> bool {
        let is_record = || line.starts_with('{') && line.contains("\"kind\":");
        match self {
            Self::All => true,
            Self::Access => is_record(),
            Self::Error => !is_record(),
        }
    }
}

/// Prints the last lines; with `--follow` goes on until it is interrupted or nobody reads.
///
/// # Errors
/// No file named, or one that cannot be read.
pub(super) fn run(logs: &Logs) -> Result<String, Failed> {
    let kind = Kind::parse(&logs.kind)?;
    if logs.container.is_some() || logs.since.is_some() {
        return Err(
            "--container and --since act on Docker's logs, which this a6 does not read; use --file"
                .into(),
        );
    }
    let path = match &logs.file {
        Some(path) => path.clone(),
        None => configured(logs.config.as_deref(), kind)?,
    };
    let path = path.as_path();
    let failed =
        |error: io::Error| Failed::new(format!("failed to read {}: {error}", path.display()));
    let mut tail = Tail::open(path).map_err(failed)?;
    for line in tail.last(logs.tail, kind, logs.follow).map_err(failed)? {
        if write(&line).is_err() {
            return Ok(String::new());
        }
    }
    if !logs.follow {
        return Ok(String::new());
    }
    loop {
        for line in tail.next(path).map_err(failed)? {
            if kind.shows(&line) && write(&line).is_err() {
                return Ok(String::new());
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// The one log that the gateway writes to a file by itself: its access records.
fn configured(config: Option<&Path>, kind: Kind) -> Result<PathBuf, Failed> {
    let read = Config::load(config, &[], &|name| std::env::var(name).ok());
    let config = read.map_err(|error| {
        Failed::new(format!(
            "no log file named with --file, and the gateway's configuration cannot be read: {}",
            chain(&error).replace('\n', "; ")
        ))
    })?;
    match config.access_log {
        AccessLog::File(path) if kind != Kind::Error => Ok(path),
        AccessLog::File(_) | AccessLog::Stdout | AccessLog::Off => Err(
            "no log file named: use --file, or `journalctl -u portcullis` where systemd runs the \
             gateway, which logs to standard error"
                .into(),
        ),
    }
}

fn write(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// A file that is read as it grows.
struct Tail {
    file: File,
    inode: u64,
    position: u64,
    /// The beginning of a line that is not whole yet.
    rest: Vec<u8>,
}

impl Tail {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            inode: file.metadata()?.ino(),
            file,
            position: 0,
            rest: Vec::new(),
        })
    }

    /// The last `count` lines that are shown; the next ones come after them. Where there will be
    /// next ones, a line that is not whole yet waits for its end.
    fn last(&mut self, count: usize, kind: Kind, waits: bool) -> io::Result<VecDeque<String>> {
        let mut lines = VecDeque::new();
        let mut reader = BufReader::new(&self.file);
        loop {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line)?;
            self.position += u64::try_from(read).unwrap_or(0);
            if read == 0 {
                break;
            }
            if line.last() != Some(&b'\n') && waits {
                self.rest = line;
                break;
            }
            let line = text(&line);
            if kind.shows(&line) {
                lines.push_back(line);
            }
            if lines.len() > count {
                lines.pop_front();
            }
        }
        Ok(lines)
    }

    /// Lines written since; a file that was cut short or replaced is read from its start.
    fn next(&mut self, path: &Path) -> io::Result<Vec<String>> {
        // While it is being replaced there is none.
        if let Ok(metadata) = path.metadata() {
            if metadata.ino() != self.inode {
                *self = Self::open(path)?;
            } else if metadata.len() < self.position {
                self.position = 0;
                self.rest.clear();
            }
        }
        self.file.seek(SeekFrom::Start(self.position))?;
        let mut new = Vec::new();
        let read = self.file.read_to_end(&mut new)?;
        self.position += u64::try_from(read).unwrap_or(0);
        self.rest.append(&mut new);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(whole
            .split_inclusive(|byte| *byte == b'\n')
            .map(text)
            .collect())
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim_end_matches(['\n', '\r'])
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    #[test]
    fn last_lines_then_new_ones_then_those_of_another_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "a\n{\"kind\":\"request\"}\nb\nhal").unwrap();
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(tail.last(1, Kind::Error, true).unwrap(), ["b"]);
        let append = |text: &str| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        assert!(tail.next(&path).unwrap().is_empty());
        append("f\nnew\n");
        assert_eq!(tail.next(&path).unwrap(), ["half", "new"]);
        fs::write(&path, "cut\n").unwrap();
        assert_eq!(tail.next(&path).unwrap(), ["cut"]);
        fs::rename(&path, folder.path().join("log.1")).unwrap();
        assert!(tail.next(&path).unwrap().is_empty());
        fs::write(&path, "replaced by a longer one\n").unwrap();
        assert_eq!(tail.next(&path).unwrap(), ["replaced by a longer one"]);
    }

    #[test]
    fn line_without_its_end_is_the_last_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "a\nb").unwrap();
        let last = |count| Tail::open(&path).unwrap().last(count, Kind::All, false);
        assert_eq!(last(5).unwrap(), ["a", "b"]);
        assert_eq!(last(1).unwrap(), ["b"]);
        assert!(last(0).unwrap().is_empty());
    }

    #[test]
    fn access_records_are_told_from_the_log() {
        let record = "{\"time\":\"x\",\"kind\":\"request\"}";
        for (kind, of_record, of_log) in [
            (Kind::All, true, true),
            (Kind::Access, true, false),
            (Kind::Error, false, true),
        ] {
            assert_eq!(kind.shows(record), of_record);
            assert_eq!(kind.shows("INFO listening"), of_log);
        }
        assert!(Kind::parse("both").is_err());
    }
}
