//! The access log: one JSON object for each line, written by a thread of its own. Lossy: when the disk or the reader of the pipe is slow, records are dropped and
//! counted; a request never waits for its log line.

use crate::{metrics, stats::Rim};
use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
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
        let out: Box<dyn Write + Send> = if path.as_os_str() == "-" {
            Box::new(io::stdout())
        } else {
            Box::new(OpenOptions::new().create(true).append(true).open(path)?)
        };
        let (lines, waiting) = sync_channel(WAITING);
        thread::Builder::new()
            .name("weft-log".into())
            .spawn(move || write(BufWriter::with_capacity(64 * 1024, out), &waiting))?;
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

fn write(mut out: BufWriter<Box<dyn Write + Send>>, waiting: &Receiver<Box<str>>) {
    while let Ok(first) = waiting.recv() {
        // what has gathered leaves in one write; an error (full disk) loses lines, not requests
        let _ = writeln!(out, "{first}");
        while let Ok(line) = waiting.try_recv() {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
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
}
