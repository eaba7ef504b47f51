//! Child processes of the demo: each with a log file of its own, each gone when the demo is.

use anyhow::{Context as _, bail};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a child may take to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Process {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; its output goes to `logs/<name>.log`. `prefix` is put before it (a network namespace, another user).
    pub fn start(
        name: &str,
        prefix: &[String],
        program: &Path,
        args: &[String],
        logs: &Path,
    ) -> anyhow::Result<Process> {
        let log = logs.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mut line: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let program = program.to_str().context("the path of a program is not text")?;
        // a demo that is killed must not leave its children behind; setpriv asks the kernel for that
        if Path::new("/usr/bin/setpriv").exists() {
            line.splice(0..0, ["/usr/bin/setpriv", "--pdeathsig", "KILL"]);
        }
        line.push(program);
        let (first, rest) = line.split_first().context("empty command")?;
        let child = Command::new(first)
            .args(rest)
            .args(args)
            // a Ctrl-C in the terminal is for the demo, which ends the others in order
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {program} (is it built? `make demo` builds it)"))?;
        Ok(Process { name: name.into(), child, log })
    }

    /// An error with the end of the log when the process has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(5).collect();
            bail!("{} ended ({status}):\n{}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    fn signal(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).output();
    }
}

/// The processes in the order of their start; they end in reverse order.
#[derive(Default)]
pub struct Processes(Vec<Process>);

impl Processes {
    pub fn push(&mut self, p: Process) {
        self.0.push(p);
    }
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.0.iter_mut().try_for_each(Process::check)
    }
    pub fn stop(&mut self) {
        for p in self.0.iter().rev() {
            p.signal("-TERM");
        }
        let end = Instant::now() + PATIENCE;
        for mut p in self.0.drain(..).rev() {
            while Instant::now() < end && matches!(p.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = p.child.kill();
            let _ = p.child.wait();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}
