//! The access log: one JSON object for each line, written by a thread of its own. Lossy: when the disk or the reader of the pipe is slow, records are dropped and
//! counted; a request never waits for its log line.

use crate::{metrics, stats::Rim};
use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};
use weft_relay::Record;

/// Lines that may wait for the writer: a tenth of a second at 40,000 requests/s.
const WAITING: usize = 4096;
/// What is gathered into one write.
const GATHER: usize = 64 * 1024;

/// Where lines go; cheap to clone. Without a log every call does nothing.
#[derive(Clone)]
pub struct AccessLog {
    lines: Option<SyncSender<Box<str>>>,
    stats: Arc<Rim>,
}

impl AccessLog {
    /// `-`: the standard output. `None`: no log.
    pub fn open(path: Option<&Path>, stats: Arc<Rim>) -> io::Result<AccessLog> {
        let Some(path) = path else { return Ok(AccessLog { lines: None, stats }) };
        // not through `Stdout`, which would gather once more and keep what could not be written
        let out = if path.as_os_str() == "-" {
            File::from(io::stdout().as_fd().try_clone_to_owned()?)
        } else {
            OpenOptions::new().create(true).append(true).open(path)?
        };
        let (lines, waiting) = sync_channel(WAITING);
        thread::Builder::new().name("weft-log".into()).spawn({
            let stats = stats.clone();
            move || write(out, &waiting, &stats)
        })?;
        Ok(AccessLog { lines: Some(lines), stats })
    }

    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line (without its end).
    pub fn line(&self, line: Box<str>) {
        if let Some(lines) = &self.lines
            && lines.try_send(line).is_err()
        {
            self.stats.log_dropped.one();
        }
    }
}

/// The line of an exchange.
pub fn http(r: &Record) -> Box<str> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let began = SystemTime::now().checked_sub(r.started.elapsed()).unwrap_or(UNIX_EPOCH);
    serde_json::json!({
        "time": began.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()),
        "kind": "http",
        "direction": if r.inbound { "inbound" } else { "outbound" },
        "client": r.client,
        "peer": r.peer.as_ref().map(|p| p.uri()),
        "method": text(&r.method),
        "authority": text(&r.authority),
        "path": text(&r.path),
        "request_id": r.request_id.as_deref().map(text),
        "traceparent": r.traceparent.as_deref().map(text),
        "status": r.status,
        "cause": r.cause,
        "detail": r.detail,
        "policy": r.policy,
        "policy_mode": r.policy.as_ref().map(|_| if r.dry_run { "dry_run" } else { "enforce" }),
        "parent": r.parent.to_string(),
        "route": r.route.as_ref().map(|o| format!("{}/{}/{}", metrics::kind(o.kind), o.namespace, o.name)),
        "rule": r.rule,
        "backend": r.backend.as_ref().map(ToString::to_string),
        "upstream": r.upstream,
        "attempts": r.attempts,
        "received": r.received,
        "sent": r.sent,
        "duration_ms": r.duration.as_secs_f64() * 1e3,
    })
    .to_string()
    .into()
}

/// Writes what is waiting, as much as there is at once. An error (a full disk, a pipe without a reader) loses lines and counts them, never requests; a line that was
/// cut off is ended before the next one, so that readers lose that line only.
fn write(mut out: impl Write, waiting: &Receiver<Box<str>>, stats: &Rim) {
    let (mut buf, mut cut) = (Vec::new(), false);
    while let Ok(first) = waiting.recv() {
        buf.clear();
        if cut {
            buf.push(b'\n');
        }
        let mut ends = Vec::new();
        let mut add = |buf: &mut Vec<u8>, line: &str| {
            buf.extend_from_slice(line.as_bytes());
            buf.push(b'\n');
            ends.push(buf.len());
        };
        add(&mut buf, &first);
        while buf.len() < GATHER
            && let Ok(line) = waiting.try_recv()
        {
            add(&mut buf, &line);
        }
        let mut at = 0;
        while at < buf.len() {
            match out.write(&buf[at..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(n) => at += n,
            }
        }
        stats.log_dropped.add(ends.iter().filter(|end| **end > at).count() as u64);
        cut = if at == 0 { cut } else { buf[at - 1] != b'\n' };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_and_without_a_log_nothing_happens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = AccessLog::open(Some(&path), Arc::default()).unwrap();
        for n in 0..10 {
            log.line(format!("{{\"n\":{n}}}").into());
        }
        drop(log);
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::fs::read_to_string(&path).unwrap().lines().count() < 10 {
            assert!(std::time::Instant::now() < until);
            thread::yield_now();
        }
        let off = AccessLog::open(None, Arc::default()).unwrap();
        assert!(!off.is_on());
        off.line("x".into());
    }

    /// Takes so many bytes, then nothing until there is room again.
    struct Disk {
        content: Vec<u8>,
        room: Vec<usize>,
    }
    impl Write for &mut Disk {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            match self.room.pop() {
                None => self.content.extend_from_slice(b),
                Some(0) => return Err(io::Error::from(ErrorKind::StorageFull)),
                Some(room) => {
                    self.content.extend_from_slice(&b[..room.min(b.len())]);
                    return Ok(room.min(b.len()));
                }
            }
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them_and_none_is_mixed_with_another() {
        let stats = Rim::default();
        let (lines, waiting) = sync_channel(20);
        let pad = "x".repeat(40_000);
        for n in 0..20 {
            // two of them make a write
            lines.try_send(format!("{{\"n\":{n},\"pad\":\"{pad}\"}}").into()).unwrap();
        }
        drop(lines);
        // what the disk takes, the last one first: cut in line 0; nothing; the end of the cut line; line 6 and half of 7; then everything
        let mut disk = Disk { content: Vec::new(), room: vec![0, 60_000, 0, 1, 0, 0, 25] };
        write(&mut disk, &waiting, &stats);
        let content = String::from_utf8(disk.content).unwrap();
        let number = |l: &str| serde_json::from_str::<serde_json::Value>(l).ok()?["n"].as_u64();
        let whole: Vec<u64> = content.lines().filter_map(number).collect();
        assert_eq!(whole, [6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!((content.lines().count(), stats.log_dropped.get()), (15, 7), "two were cut, five left nothing");
    }

    #[test]
    fn a_device_that_is_always_full_drops_everything_and_stops_nothing() {
        let stats = Arc::<Rim>::default();
        let log = AccessLog::open(Some(Path::new("/dev/full")), stats.clone()).unwrap();
        for n in 0..100 {
            log.line(format!("{n}").into());
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while stats.log_dropped.get() < 100 {
            assert!(std::time::Instant::now() < until, "{}", stats.log_dropped.get());
            thread::yield_now();
        }
    }
}
