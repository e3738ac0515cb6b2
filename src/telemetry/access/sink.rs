//! The thread that writes the access log, so that no worker waits for a disk or a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use super::AccessLog;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file, appended to, mode 0640 when it is made.
    File(PathBuf),
}

/// The access log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file cannot be opened for appending.
    #[error("the access log {} cannot be opened", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// Standard output cannot be had.
    #[error("standard output cannot be opened for the access log")]
    Stdout(#[source] io::Error),
    /// The system gives no thread.
    #[error("the access log's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// The process's access log. Workers write through the [`AccessLog`]s it gives out.
#[derive(Debug)]
pub struct AccessSink {
    handle: Handle,
    wants_reopen: Arc<AtomicBool>,
    ended: Receiver<()>,
}

/// The thread, as the sink and its workers have it.
#[derive(Clone, Debug)]
struct Handle {
    sender: SyncSender<Message>,
    dropped: IntCounter,
}

/// A worker's end of the channel. The buffers that its lines went in come back by another: to free one
/// costs more than to write it, as what a thread frees that is no worker's is wiped.
#[derive(Debug)]
pub(super) struct Outlet {
    handle: Handle,
    back: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
}

#[derive(Debug)]
struct Lines {
    text: Vec<u8>,
    /// Where the buffer goes.
    back: SyncSender<Vec<u8>>,
}

#[derive(Debug)]
enum Message {
    Lines(Lines),
    /// Look at `wants_reopen`.
    Wake,
    Close,
}

/// Buffers that may wait: about 8 MiB at most.
const WAITING_COUNT: usize = 256;
/// Empty buffers that wait for each worker, at most.
const EMPTIED: usize = 2;

impl AccessSink {
    /// Opens the target and starts the thread. `dropped` counts lines that were lost because the
    /// target did not keep up or refused them.
    ///
    /// # Errors
    /// [`SinkError`]: the target or the thread.
    pub fn start(target: Target, dropped: IntCounter) -> Result<Self, SinkError> {
        let (end, ended) = sync_channel(1);
        let wants_reopen = Arc::new(AtomicBool::new(false));
        let (file, path) = match target {
            // As a file: what the library's own handle keeps back cannot be counted.
            Target::Stdout => {
                let out = io::stdout().as_fd().try_clone_to_owned();
                (out.map_err(SinkError::Stdout)?.into(), None)
            }
            Target::File(path) => match open(&path) {
                Ok(file) => (file, Some(path)),
                Err(e) => return Err(SinkError::Open(path, e)),
            },
        };
        let (sender, receiver) = sync_channel(WAITING_COUNT);
        let writer = Writer {
            out: WholeLines::to(file),
            path,
            wants_reopen: Arc::clone(&wants_reopen),
            dropped: dropped.clone(),
            is_failing: false,
            failed_at: 0,
        };
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                writer.run(&receiver);
                // Nobody may be waiting for the end.
                let _ = end.send(());
            })
            .map_err(SinkError::Thread)?;
        Ok(Self {
            handle: Handle { sender, dropped },
            wants_reopen,
            ended,
        })
    }

    /// A worker's log into this sink.
    #[must_use]
    pub fn log(&self) -> AccessLog {
        AccessLog::to(Outlet::new(self.handle.clone()))
    }

    /// Has the file opened anew, after it was renamed (SIGUSR1). Does not wait.
    pub fn reopen(&self) {
        self.wants_reopen.store(true, Ordering::Release);
        // A full channel is fine: the thread is awake.
        let _ = self.handle.sender.try_send(Message::Wake);
    }

    /// Writes what was handed over and ends the thread; true when it ended within `timeout`.
    pub fn close(self, timeout: Duration) -> bool {
        // A full channel means a stuck target: the wait below is what is left to do.
        let _ = self.handle.sender.try_send(Message::Close);
        drop(self.handle);
        !matches!(
            self.ended.recv_timeout(timeout),
            Err(RecvTimeoutError::Timeout)
        )
    }
}

impl Outlet {
    fn new(handle: Handle) -> Self {
        let (back, emptied) = sync_channel(EMPTIED);
        Self {
            handle,
            back,
            emptied,
        }
    }

    /// Hands `count` lines over, and leaves an empty buffer in their place; drops and counts them when
    /// the sink is behind.
    pub(super) fn send(&self, lines: &mut Vec<u8>, count: u64) {
        let fresh = self.emptied.try_recv();
        let fresh = fresh.unwrap_or_else(|_none| Vec::with_capacity(lines.len()));
        let lines = Lines {
            text: std::mem::replace(lines, fresh),
            back: self.back.clone(),
        };
        match self.handle.sender.try_send(Message::Lines(lines)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.handle.dropped.inc_by(count);
            }
        }
    }
}

struct Writer {
    out: WholeLines<File>,
    /// The file's; standard output has none.
    path: Option<PathBuf>,
    wants_reopen: Arc<AtomicBool>,
    dropped: IntCounter,
    is_failing: bool,
    /// How long the file was when a write failed, in bytes.
    failed_at: u64,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            if self.wants_reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Lines(Lines { mut text, back }) => {
                    self.write(&text);
                    text.clear();
                    // Its worker may have enough of them, or be over.
                    let _ = back.try_send(text);
                }
                Message::Wake => {}
                Message::Close => break,
            }
        }
        self.leave();
    }

    fn write(&mut self, lines: &[u8]) {
        self.forget_what_was_cut_off();
        match self.out.write(lines) {
            Ok(()) => self.is_failing = false,
            Err(Lost { count, cause }) => {
                self.dropped.inc_by(count);
                self.failed_at = self.length();
                // One line at the first failure; the counter tells the rest.
                if !self.is_failing {
                    tracing::error!(error = ?cause.to_string(), "the access log cannot be written");
                }
                self.is_failing = true;
            }
        }
    }

    /// The old file stays in use where the new one cannot be opened.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            // Where the file is still in its place, a line that is not whole is finished in it.
            Ok(fresh) if is_same(&fresh, &self.out.out) => {}
            Ok(fresh) => {
                self.leave();
                self.out = WholeLines::to(fresh);
            }
            Err(e) => tracing::error!(
                path = %path.display(),
                error = ?e.to_string(),
                "the access log cannot be opened anew; the old file stays in use"
            ),
        }
    }

    /// Nothing more is written where lines were written so far.
    fn leave(&mut self) {
        self.forget_what_was_cut_off();
        if self.out.finish().is_err() {
            self.dropped.inc();
        }
    }

    /// A file that was made shorter, as `copytruncate` of logrotate(8) does, has no line any more that
    /// the rest would belong to. This is seen as long as nobody else writes to it.
    fn forget_what_was_cut_off(&mut self) {
        if !self.out.rest.is_empty() && self.length() < self.failed_at {
            self.out.rest.clear();
            self.dropped.inc();
        }
    }

    /// How long the file is, in bytes; 0, if that is unknown or it is none.
    fn length(&self) -> u64 {
        self.out.out.metadata().map_or(0, |file| file.len())
    }
}

/// Whether both are one file.
fn is_same(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let place = |file: &File| file.metadata().map(|file| (file.dev(), file.ino()));
    matches!((place(one), place(other)), (Ok(one), Ok(other)) if one == other)
}

/// Writes lines so that each is whole: of one that a full disk took a part of, the rest comes before
/// whatever is written next.
#[derive(Debug)]
struct WholeLines<W> {
    out: W,
    /// What is missing of the last line.
    rest: Vec<u8>,
}

/// So many lines were not written.
#[derive(Debug)]
struct Lost {
    count: u64,
    cause: io::Error,
}

impl<W: Write> WholeLines<W> {
    const fn to(out: W) -> Self {
        Self {
            out,
            rest: Vec::new(),
        }
    }

    /// Writes lines, or as many as there is room for.
    fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        let mut left = lines;
        let Err(cause) = self.finish().and_then(|()| write(&mut self.out, &mut left)) else {
            return Ok(());
        };
        let written = lines.len().saturating_sub(left.len());
        if lines.get(..written).is_some_and(ends_within_line) {
            let end = memchr::memchr(b'\n', left).map_or(left.len(), |at| at.saturating_add(1));
            let (rest, lost) = left.split_at_checked(end).unwrap_or((left, b""));
            (self.rest, left) = (rest.to_vec(), lost);
        }
        let count = memchr::memchr_iter(b'\n', left).count();
        Err(Lost {
            count: u64::try_from(count).unwrap_or(u64::MAX),
            cause,
        })
    }

    /// Writes what is missing of the last line.
    fn finish(&mut self) -> io::Result<()> {
        let mut left = self.rest.as_slice();
        let result = write(&mut self.out, &mut left);
        let written = self.rest.len().saturating_sub(left.len());
        self.rest.drain(..written);
        result
    }
}

fn ends_within_line(written: &[u8]) -> bool {
    written.last().is_some_and(|byte| *byte != b'\n')
}

/// Writes all of `left`, which is what was not written after an error.
fn write(out: &mut impl Write, left: &mut &[u8]) -> io::Result<()> {
    while !left.is_empty() {
        match out.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *left = left.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use crate::telemetry::access::{Kind, Record};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn dropped() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    fn record() -> Record<'static> {
        Record::new(Kind::Request, 0, "http", "192.0.2.1:1".parse().unwrap())
    }

    #[test]
    fn flushed_lines_are_in_the_file_after_close() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = AccessSink::start(Target::File(path.clone()), dropped()).unwrap();
        let (mut one, mut two) = (sink.log(), sink.log());
        one.write(&record());
        two.write(&record());
        one.flush();
        two.flush();
        assert!(sink.close(PATIENCE));
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 2);
    }

    #[test]
    fn reopened_file_gets_the_lines_that_follow() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (
            dir.path().join("access.log"),
            dir.path().join("access.log.1"),
        );
        let sink = AccessSink::start(Target::File(path.clone()), dropped()).unwrap();
        fs::rename(&path, &moved).unwrap();
        sink.reopen();
        let mut log = sink.log();
        log.write(&record());
        log.flush();
        assert!(sink.close(PATIENCE));
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 1);
        assert_eq!(fs::read_to_string(moved).unwrap(), "");
    }

    #[test]
    fn long_buffer_is_handed_over_without_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = AccessSink::start(Target::File(path.clone()), dropped()).unwrap();
        let mut log = sink.log();
        for _ in 0..1000 {
            log.write(&record());
        }
        assert!(sink.close(PATIENCE));
        assert!(fs::metadata(path).unwrap().len() > 32 * 1024);
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_sink_is_behind() {
        let dropped = dropped();
        let (sender, receiver) = sync_channel(1);
        let mut log = AccessLog::to(Outlet::new(Handle {
            sender,
            dropped: dropped.clone(),
        }));
        for _ in 0..2 {
            log.write(&record());
            log.write(&record());
            log.flush();
        }
        assert_eq!(dropped.get(), 2);
        drop(receiver);
        log.write(&record());
        log.flush();
        assert_eq!(dropped.get(), 3);
    }

    /// A disk with room for so many bytes, of which it takes a few at a time.
    #[derive(Default)]
    struct Disk {
        text: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room).min(3);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.extend_from_slice(&bytes[..count]);
            self.room -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_disk_leaves_lines_whole_and_each_one_lost_is_counted() {
        let buffers = ["one\ntwo\n", "three\n", "four\nfive\nsix\n"];
        let all: Vec<&str> = buffers.iter().flat_map(|lines| lines.lines()).collect();
        for room in 0..30 {
            // How much becomes free before each of the next ones.
            for freed in 0..15 {
                let mut out = WholeLines::to(Disk::default());
                out.out.room = room;
                let mut lost = 0;
                for lines in buffers {
                    lost += out.write(lines.as_bytes()).err().map_or(0, |l| l.count);
                    out.out.room += freed;
                }
                out.out.room = 100;
                out.finish().unwrap();
                assert!(out.rest.is_empty());
                let text = String::from_utf8(out.out.text).unwrap();
                let mut expected = all.iter();
                // In their order, and none in two pieces.
                for line in text.lines() {
                    assert!(expected.any(|known| *known == line), "{text:?}");
                }
                let whole = u64::try_from(text.lines().count()).unwrap();
                assert_eq!(whole + lost, 6, "{text:?}");
            }
        }
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted_by_lines() {
        let dropped = dropped();
        let full = Target::File("/dev/full".into());
        let sink = AccessSink::start(full, dropped.clone()).unwrap();
        let mut log = sink.log();
        for _ in 0..3 {
            log.write(&record());
        }
        log.flush();
        assert!(sink.close(PATIENCE));
        assert_eq!(dropped.get(), 3);
    }

    /// A writer to the file, of whose last line so much is missing.
    fn torn(path: &Path, rest: &str, dropped: &IntCounter) -> Writer {
        let mut out = WholeLines::to(open(path).unwrap());
        out.rest = rest.into();
        let mut writer = Writer {
            out,
            path: Some(path.to_owned()),
            wants_reopen: Arc::default(),
            dropped: dropped.clone(),
            is_failing: true,
            failed_at: 0,
        };
        writer.failed_at = writer.length();
        writer
    }

    #[test]
    fn line_that_is_never_finished_is_lost() {
        let dropped = dropped();
        let full = Path::new("/dev/full");
        torn(full, "", &dropped).leave();
        assert_eq!(dropped.get(), 0);
        torn(full, "of a line\n", &dropped).leave();
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn rest_of_a_line_goes_where_its_beginning_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let moved = dir.path().join("access.log.1");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let dropped = dropped();
        let torn = || {
            fs::write(&path, "whole\nbegun").unwrap();
            torn(&path, ", ended\n", &dropped)
        };
        // The same file, opened again.
        let mut writer = torn();
        writer.reopen();
        writer.write(b"next\n");
        assert_eq!(read(&path), "whole\nbegun, ended\nnext\n");
        // Another one in its place.
        let mut writer = torn();
        fs::rename(&path, &moved).unwrap();
        writer.reopen();
        writer.write(b"next\n");
        assert_eq!(read(&moved), "whole\nbegun, ended\n");
        assert_eq!((read(&path).as_str(), dropped.get()), ("next\n", 0));
        // The same file, emptied.
        let mut writer = torn();
        fs::write(&path, "").unwrap();
        writer.write(b"next\n");
        assert_eq!((read(&path).as_str(), dropped.get()), ("next\n", 1));
    }

    #[test]
    fn buffers_come_back_empty_and_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = AccessSink::start(Target::File(path.clone()), dropped()).unwrap();
        let outlet = Outlet::new(sink.handle.clone());
        let mut lines = Vec::with_capacity(1000);
        lines.extend_from_slice(b"one\n");
        let first = lines.as_ptr();
        outlet.send(&mut lines, 1);
        assert_ne!(lines.as_ptr(), first);
        let back = outlet.emptied.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            (back.as_ptr(), back.len(), back.capacity()),
            (first, 0, 1000)
        );
        outlet.back.try_send(back).unwrap();
        lines.extend_from_slice(b"two\n");
        outlet.send(&mut lines, 1);
        assert_eq!((lines.as_ptr(), lines.len()), (first, 0));
        assert!(sink.close(PATIENCE));
        assert_eq!(fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn file_that_cannot_be_opened_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("access.log");
        assert!(matches!(
            AccessSink::start(Target::File(path), dropped()),
            Err(SinkError::Open(..))
        ));
    }

    #[test]
    fn log_that_is_off_keeps_nothing() {
        let mut log = AccessLog::off();
        log.write(&record());
        log.flush();
    }
}
