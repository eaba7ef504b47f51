//! `weft demo`: the mesh on one machine. CA, controller, sample services behind real sidecars, a load loop and a live table; keys edit the route files.
//!
//! ```text
//! examples/shop ── copied, addresses and pods added (cluster) ──▶ folder ──▶ weft-controller ──▶ sidecars (stage)
//! load loop (load) ──▶ sidecar of web ══▶ sidecars of the others ──▶ `weft sample`
//! sidecar's /metrics, /dump ──▶ rows ──▶ screen or JSON summary
//! ```

mod bridge;
mod cluster;
mod edit;
mod load;
mod process;
mod rows;
mod screen;
mod stage;

use crate::{admin::http_get, metrics};
use anyhow::Context as _;
use clap::Parser;
use load::Target;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use rows::{ClientView, Row, Rows};
use screen::{Peer, Screen};
use serde_json::Value;
use stage::Stage;
use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Folder of Kubernetes objects; a copy of it is run
    #[arg(long, default_value = "examples/shop")]
    folder: PathBuf,
    /// End after this time, e.g. 20s, and print a summary
    #[arg(long, value_parser = crate::sample::duration)]
    duration: Option<Duration>,
    /// Print one machine-readable summary at the end instead of the table
    #[arg(long, requires = "duration")]
    json: bool,
    /// Each workload in a network namespace with the real iptables rules (needs root)
    #[arg(long)]
    capture: bool,
    /// Requests per second to each Service
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
}

/// Edits that the timed run makes to measure the way from a saved file to the traffic: with fewer than a hundred the 99th percentile is just the slowest one.
const EDITS: u32 = 200;
/// The promise for them, 99th percentile (docs/design.md).
const EDIT_LIMIT: Duration = Duration::from_millis(100);

/// What `--json` prints.
#[derive(serde::Serialize)]
struct Summary {
    seconds: f64,
    backends: Vec<Row>,
    clients: Vec<ClientView>,
    endpoints: Vec<Peer>,
    edits: Edits,
    promises: Vec<Promise>,
}

#[derive(Default, serde::Serialize)]
struct Edits {
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// How long a thread of this process waited for a processor when a sleep was over, meanwhile: on a machine that is busy with other things every step of an edit
    /// waits as long, and there are a dozen.
    wakeup_p99_ms: f64,
}

#[derive(serde::Serialize)]
struct Promise {
    promise: &'static str,
    kept: bool,
    seen: String,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.duration.is_none() && !std::io::stdout().is_terminal() {
        anyhow::bail!("the table needs a terminal; use --duration 20s --json for a summary");
    }
    let state = std::env::temp_dir().join(format!("weft-demo-{}", std::process::id()));
    listen_for_signals()?;
    fs::create_dir_all(&state).with_context(|| format!("{}", state.display()))?;
    let mut result = run_in(&args, &state);
    if interrupted() {
        // whatever else went wrong: the processes may have heard the same Ctrl-C
        result = match args.duration {
            Some(_) => Err(anyhow::anyhow!("interrupted before the end: there is no summary")),
            None => Ok(()),
        };
    }
    if result.is_ok() || interrupted() {
        let _ = fs::remove_dir_all(&state);
    } else {
        eprintln!("logs: {}", state.join("logs").display());
    }
    result
}

fn run_in(args: &Args, state: &std::path::Path) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut stage = Stage::build(&args.folder, state, args.capture)?;
    if !args.json {
        eprintln!(
            "{} sidecars are ready after {:.1} s",
            stage.cluster.workloads.iter().filter(|w| w.meshed).count(),
            started.elapsed().as_secs_f64()
        );
    }
    // the load loop stands where the front end stands: under capture that is another network namespace, which a thread of its own enters
    let result = std::thread::scope(|s| s.spawn(|| play(args, &mut stage)).join());
    // from here, not from that namespace, everything can be taken away
    stage.stop();
    let broken = result.map_err(|_| anyhow::anyhow!("the demo panicked"))??;
    anyhow::ensure!(broken.is_empty(), "promises broken: {}", broken.join("; "));
    Ok(())
}

/// Set by SIGINT and SIGTERM: the demo then ends as if it had been told to, and leaves nothing behind.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// Listens for signals on a thread of its own, from before the first process is started.
fn listen_for_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        });
        INTERRUPTED.store(true, Relaxed);
    });
    Ok(())
}

/// Runs the load and shows what happens; returns the promises that were broken.
fn play(args: &Args, stage: &mut Stage) -> anyhow::Result<Vec<String>> {
    let web =
        stage.cluster.workload("web").context("the folder has no Deployment `web`: the load starts there")?.clone();
    if let Some(path) = stage.namespace_of(&web) {
        nix::sched::setns(fs::File::open(&path)?, nix::sched::CloneFlags::CLONE_NEWNET)
            .context("entering the namespace of web")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    let targets: Vec<Target> = ["catalog", "orders", "reviews", "stock"]
        .iter()
        .filter_map(|n| stage.cluster.service_named(n))
        .map(|s| Target::new(s.clone(), stage.service_address(&web, s)))
        .collect();
    let admin = stage.own_admin(&web);
    local.block_on(&runtime, async {
        for t in &targets {
            tokio::task::spawn_local(t.clone().run(args.rate));
        }
        let mut show = Show {
            args,
            stage,
            targets: Rc::new(targets.clone()),
            admin,
            edits: 0,
            rows: Rows::default(),
            last: Instant::now(),
            screen: Screen::default(),
        };
        match args.duration {
            Some(d) => show.timed(d).await,
            None => show.live().await,
        }
    })
}

struct Show<'a> {
    args: &'a Args,
    stage: &'a mut Stage,
    targets: Rc<Vec<Target>>,
    admin: SocketAddr,
    edits: u32,
    rows: Rows,
    last: Instant,
    screen: Screen,
}

impl Show<'_> {
    /// Edits a route file and waits for the first answer that obeys.
    async fn edit(&mut self, service: &str, change: impl Fn(&str) -> String) -> anyhow::Result<Duration> {
        self.edits += 1;
        let path = self.stage.cluster.folder.join(format!("{service}.yaml"));
        let text = fs::read_to_string(&path)?;
        let text = edit::stamp(&change(&text), self.edits)?;
        let target = self
            .targets
            .iter()
            .find(|t| t.service.name == service)
            .with_context(|| format!("no Service {service}"))?
            .clone();
        edit::save(&path, &text)?;
        target.await_stamp(self.edits, Instant::now(), Duration::from_secs(5)).await
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let (_, text) = http_get(self.admin, "/metrics")?;
        let elapsed = self.last.elapsed();
        self.last = Instant::now();
        self.screen.rows = self.rows.update(&metrics::parse(&text), elapsed);
        self.screen.clients = self.targets.iter().map(ClientView::of).collect();
        self.screen.peers = peers(self.stage, self.admin)?;
        Ok(())
    }

    async fn live(&mut self) -> anyhow::Result<Vec<String>> {
        self.screen.retry_on = true;
        self.screen.folder = self.stage.cluster.folder.display().to_string();
        let mut terminal = ratatui::init();
        let result = self.keys(&mut terminal).await;
        ratatui::restore();
        result.map(|()| Vec::new())
    }

    async fn keys(&mut self, terminal: &mut ratatui::DefaultTerminal) -> anyhow::Result<()> {
        while !interrupted() {
            if self.last.elapsed() >= Duration::from_secs(1) || self.screen.clients.is_empty() {
                self.stage.check()?;
                self.look()?;
                terminal.draw(|f| self.screen.draw(f))?;
            }
            while event::poll(Duration::ZERO)? {
                let Event::Key(key) = event::read()? else { continue };
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Char('r') => {
                        let took = self.edit("orders", |t| edit::toggle_retry(t).0).await;
                        self.screen.retry_on = !self.screen.retry_on;
                        let what = if self.screen.retry_on { "retries on" } else { "retries off" };
                        self.screen.messages.push(said(what, "orders.yaml", took));
                    }
                    KeyCode::Char('s') => {
                        let took = self.edit("catalog", edit::swap_weights).await;
                        self.screen.messages.push(said("weights swapped", "catalog.yaml", took));
                    }
                    _ => continue,
                }
                terminal.draw(|f| self.screen.draw(f))?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn timed(&mut self, duration: Duration) -> anyhow::Result<Vec<String>> {
        let start = Instant::now();
        let mut took = Vec::new();
        // the first half undisturbed, then the edits spread over the second one
        if !pause_for(duration / 2).await {
            return Ok(Vec::new());
        }
        let machine = Machine::watch();
        for n in 1..=EDITS {
            took.push(self.edit("catalog", str::to_owned).await?);
            self.stage.check()?;
            let next = start + duration / 2 + duration / 2 / EDITS * n;
            if !pause_for(next.saturating_duration_since(Instant::now())).await {
                return Ok(Vec::new());
            }
        }
        let edits = Edits {
            count: took.len(),
            p50_ms: percentile(&mut took, 0.5),
            p99_ms: percentile(&mut took, 0.99),
            max_ms: percentile(&mut took, 1.0),
            wakeup_p99_ms: machine.end(),
        };
        let (_, text) = http_get(self.admin, "/metrics")?;
        let mut summary = Summary {
            seconds: start.elapsed().as_secs_f64(),
            backends: Rows::total(&metrics::parse(&text), start.elapsed()),
            clients: self.targets.iter().map(ClientView::of).collect(),
            endpoints: peers(self.stage, self.admin)?,
            edits,
            promises: Vec::new(),
        };
        summary.promises = promises(&summary);
        if self.args.json {
            println!("{}", serde_json::to_string_pretty(&summary)?);
        } else {
            for p in &summary.promises {
                println!("{} {} ({})", if p.kept { "kept  " } else { "BROKEN" }, p.promise, p.seen);
            }
        }
        std::io::stdout().flush()?;
        Ok(summary.promises.iter().filter(|p| !p.kept).map(|p| format!("{}: {}", p.promise, p.seen)).collect())
    }
}

/// The nearest rank, in milliseconds; 0 of nothing.
fn percentile(of: &mut [Duration], p: f64) -> f64 {
    of.sort_unstable();
    let rank = (of.len() as f64 * p).ceil() as usize;
    of.get(rank.max(1) - 1).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// Measures how late this machine wakes a thread up.
struct Machine {
    stop: std::sync::mpsc::Sender<()>,
    late: std::thread::JoinHandle<Vec<Duration>>,
}
impl Machine {
    fn watch() -> Machine {
        let (stop, stopped) = std::sync::mpsc::channel();
        let late = std::thread::spawn(move || {
            let (mut late, pause) = (Vec::new(), Duration::from_millis(5));
            loop {
                let start = Instant::now();
                match stopped.recv_timeout(pause) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => late.push(start.elapsed().saturating_sub(pause)),
                    _ => return late,
                }
            }
        });
        Machine { stop, late }
    }
    fn end(self) -> f64 {
        drop(self.stop);
        percentile(&mut self.late.join().unwrap_or_default(), 0.99)
    }
}

/// Waits; false when the demo was interrupted.
async fn pause_for(time: Duration) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end && !interrupted() {
        tokio::time::sleep(Duration::from_millis(20).min(end - Instant::now())).await;
    }
    !interrupted()
}

fn said(what: &str, file: &str, took: anyhow::Result<Duration>) -> String {
    match took {
        Ok(d) => format!("{what} in {file}: the first request obeyed {:.1} ms after the save", d.as_secs_f64() * 1e3),
        Err(e) => format!("{what} in {file}: {e:#}"),
    }
}

/// What the demo promises, judged by what was seen.
fn promises(s: &Summary) -> Vec<Promise> {
    let client = |name: &str| s.clients.iter().find(|c| c.service == name);
    let broken: u64 = s.clients.iter().map(|c| c.broken).sum();
    let mut all =
        vec![Promise { promise: "every request is answered", kept: broken == 0, seen: format!("{broken} were not") }];
    if let Some(c) = client("orders") {
        let success = c.success.unwrap_or_default();
        let attempts: Vec<f64> =
            s.backends.iter().filter(|r| r.route.ends_with("orders")).filter_map(|r| r.attempt_success).collect();
        let raw = attempts.first().copied().unwrap_or(1.0);
        all.push(Promise {
            promise: "retries hide an endpoint that fails 40 % of the time",
            kept: success >= 0.99 && raw < 0.985,
            seen: format!("client {:.2} %, attempts {:.2} %", success * 100.0, raw * 100.0),
        });
    }
    if let Some(c) = client("reviews") {
        let timeouts: f64 =
            s.backends.iter().filter(|r| r.route.ends_with("reviews")).map(|r| r.timeouts_per_second).sum();
        let p99 = c.p99_ms.unwrap_or(f64::INFINITY);
        all.push(Promise {
            promise: "a slow endpoint is timed out and tried again elsewhere",
            kept: p99 < 1_000.0 && timeouts > 0.0 && c.success.unwrap_or_default() >= 0.98,
            seen: format!(
                "p99 {p99:.0} ms, {timeouts:.1} timeouts/s, success {:.2} %",
                c.success.unwrap_or_default() * 100.0
            ),
        });
    }
    if let Some(c) = client("catalog") {
        let v1 = c.served_by.get("catalog-v1").copied().unwrap_or_default() as f64;
        let all_of = c.served_by.values().sum::<u64>() as f64;
        // four standard deviations of a binomial with p = 0.9
        let off = (v1 / all_of.max(1.0) - 0.9).abs();
        all.push(Promise {
            promise: "the split is 90 to 10",
            kept: off <= 4.0 * (0.09 / all_of.max(1.0)).sqrt(),
            seen: format!("{:.1} % of {all_of} went to v1", v1 / all_of.max(1.0) * 100.0),
        });
    }
    let plain = s.endpoints.iter().filter(|p| p.identity.is_none()).count();
    all.push(Promise {
        promise: "every endpoint is reached over mutual TLS",
        kept: plain == 0 && !s.endpoints.is_empty(),
        seen: format!("{plain} of {} in plain text", s.endpoints.len()),
    });
    let limit = EDIT_LIMIT.as_secs_f64() * 1e3;
    all.push(Promise {
        promise: "a saved edit reaches traffic within 100 ms (p99)",
        kept: s.edits.count == EDITS as usize && s.edits.p99_ms <= limit,
        seen: format!(
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms over {} edits; a thread waited up to {:.1} ms (p99) for a processor",
            s.edits.p50_ms, s.edits.p99_ms, s.edits.max_ms, s.edits.count, s.edits.wakeup_p99_ms
        ),
    });
    all
}

/// The endpoints that the front end's sidecar knows, who must prove to be there, and how long the certificate that they prove it with still holds.
fn peers(stage: &Stage, admin: SocketAddr) -> anyhow::Result<Vec<Peer>> {
    let (_, text) = http_get(admin, "/dump")?;
    let dump: Value = serde_json::from_str(&text).context("/dump")?;
    let mut all: BTreeMap<String, Peer> = BTreeMap::new();
    let endpoints = dump["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|w| w["view"]["endpoints"].as_array().into_iter().flatten());
    for e in endpoints.flat_map(|e| e["endpoints"].as_array().into_iter().flatten()) {
        let address = e["address"].as_str().unwrap_or_default().to_owned();
        let peer = all.entry(address.clone()).or_insert_with(|| Peer { address, ..Peer::default() });
        peer.workload = e["workload"].as_str().unwrap_or_default().into();
        peer.identity = e["mesh"]["identity"].as_str().map(str::to_owned);
    }
    for w in &stage.cluster.workloads {
        let mine = |p: &&mut Peer| p.address.starts_with(&format!("{}:", w.ip));
        if let Some(peer) = all.values_mut().find(mine) {
            let (_, text) = http_get(stage.admin(w), "/metrics")?;
            let samples = metrics::parse(&text);
            let expiry = samples.iter().find(|s| s.name == "weft_certificate_expires_seconds");
            peer.certificate_expires_in_s = expiry.map(|s| s.value as i64);
        }
    }
    Ok(all.into_values().collect())
}
