//! `weft stat`: what the routes do now, as the callers' sidecars count it. Two looks at every sidecar, and the difference.

use super::{Args as ClusterArgs, Cluster, PROXY_ADMIN, block_on, is_meshed, is_running, items, name, namespace, text};
use crate::{
    metrics::{Sample, parse},
    rows::{Row, Rows},
};
use anyhow::bail;
use futures_util::StreamExt as _;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

/// Sidecars that are asked at a time: each goes through the API server.
const AT_A_TIME: usize = 16;

#[derive(clap::Parser, Clone, Debug)]
pub struct Args {
    /// Only sidecars of this pod or workload: its name, or the beginning of it
    workload: Option<String>,
    /// Only callers of this namespace; default: all that you may see
    #[arg(short, long)]
    namespace: Option<String>,
    /// Time between the two looks, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    over: u64,
    /// Since the sidecars' start instead
    #[arg(long)]
    total: bool,
    #[arg(short, long, default_value = "table")]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
enum Output {
    Table,
    Json,
}

/// A row, and how many endpoints of its backend are met with mutual TLS.
#[derive(serde::Serialize, Debug)]
pub struct Line {
    #[serde(flatten)]
    row: Row,
    mtls_endpoints: usize,
    endpoints: usize,
}
#[derive(serde::Serialize, Debug, Default)]
pub struct Stat {
    /// Seconds; none: since the start.
    over: Option<u64>,
    sidecars: usize,
    /// Sidecars that did not answer, and why.
    silent: BTreeMap<String, String>,
    lines: Vec<Line>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let stat = block_on(async { of(&Cluster::connect(&args.cluster).await?, &args).await })?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&stat)?),
        Output::Table => print!("{}", table(&stat)),
    }
    for (pod, why) in &stat.silent {
        eprintln!("weft: the sidecar of {pod} did not answer: {why}");
    }
    if stat.silent.len() == stat.sidecars {
        bail!("no sidecar answered. Next: you need get on pods/proxy; weft check says whether the sidecars are ready");
    }
    Ok(())
}

async fn of(cluster: &Cluster, args: &Args) -> anyhow::Result<Stat> {
    let path = match &args.namespace {
        Some(n) => format!("/api/v1/namespaces/{n}/pods"),
        None => "/api/v1/pods".into(),
    };
    let all = cluster.list(&path).await?;
    let wanted = |p: &Value| args.workload.as_ref().is_none_or(|w| name(p).starts_with(w.as_str()));
    let pods: Vec<(String, String)> = all
        .iter()
        .filter(|p| is_meshed(p) && is_running(p) && wanted(p))
        .map(|p| (namespace(p).to_owned(), name(p).to_owned()))
        .collect();
    if pods.is_empty() {
        let of = args.workload.as_ref().map(|w| format!(" of {w}")).unwrap_or_default();
        let place = args.namespace.as_ref().map(|n| format!(" in namespace {n}")).unwrap_or_default();
        bail!(
            "no running pod{of}{place} has a sidecar. Next: kubectl label namespace NAME weft.dev/inject=enabled, restart its workloads, then weft check"
        );
    }
    let mut stat = Stat { over: (!args.total).then_some(args.over), sidecars: pods.len(), ..Stat::default() };
    let mut rows = Rows::default();
    let mut elapsed = Duration::from_secs(1);
    let (mut first, mut silent) = look(cluster, &pods).await;
    if !args.total {
        let start = tokio::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(args.over)).await;
        let (second, later) = look(cluster, &pods).await;
        silent.extend(later);
        // one that was not there at both looks would show its whole life as a rate
        first.retain(|pod, _| second.contains_key(pod));
        rows.update(&first.into_values().flatten().collect::<Vec<_>>(), elapsed);
        elapsed = start.elapsed();
        first = second.into_iter().filter(|(pod, _)| !silent.contains_key(pod)).collect();
    }
    stat.silent = silent;
    let samples: Vec<Sample> = first.into_values().flatten().collect();
    let rows = if args.total { Rows::total(&samples, elapsed) } else { rows.update(&samples, elapsed) };
    let meshed = Meshed::read(cluster, &rows, args.namespace.is_none().then_some(&all)).await;
    let lines = rows.into_iter().map(|row| {
        let (mtls_endpoints, endpoints) = meshed.of(if row.backend.is_empty() { &row.parent } else { &row.backend });
        Line { row, mtls_endpoints, endpoints }
    });
    stat.lines = lines.collect();
    Ok(stat)
}

/// Metrics by pod, and who did not answer.
async fn look(
    cluster: &Cluster,
    pods: &[(String, String)],
) -> (BTreeMap<String, Vec<Sample>>, BTreeMap<String, String>) {
    let (mut samples, mut silent) = (BTreeMap::new(), BTreeMap::new());
    let asked = pods.iter().map(|(namespace, pod)| async move {
        (format!("{namespace}/{pod}"), cluster.of_pod(namespace, pod, PROXY_ADMIN, "/metrics").await)
    });
    let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_A_TIME);
    while let Some((pod, answer)) = answers.next().await {
        match answer {
            Ok((status, text)) if status.is_success() => _ = samples.insert(pod, parse(&text)),
            Ok((status, _)) => _ = silent.insert(pod, status.to_string()),
            Err(e) => _ = silent.insert(pod, e.to_string()),
        }
    }
    (samples, silent)
}

/// Which endpoints of the backends have a sidecar.
#[derive(Default)]
struct Meshed(BTreeMap<String, (usize, usize)>);
impl Meshed {
    /// `pods`: all of the cluster, if they are known already.
    async fn read(cluster: &Cluster, rows: &[Row], pods: Option<&Vec<Value>>) -> Self {
        let targets = rows.iter().map(|r| if r.backend.is_empty() { &r.parent } else { &r.backend });
        let services: BTreeSet<String> = targets.filter_map(|t| Some(t.rsplit_once(':')?.0.to_owned())).collect();
        let mut out = Self::default();
        let mut lists: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
        for service in services {
            let Some((ns, svc)) = service.split_once('/') else { continue };
            if !lists.contains_key(ns) {
                // what may not be read is shown as unknown
                let slices = cluster.list(&format!("/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices")).await;
                let pods = match pods {
                    Some(all) => all.iter().filter(|p| namespace(p) == ns).cloned().collect(),
                    None => cluster.list(&format!("/api/v1/namespaces/{ns}/pods")).await.unwrap_or_default(),
                };
                lists.insert(ns.to_owned(), (slices.unwrap_or_default(), pods));
            }
            let (slices, pods) = &lists[ns];
            let mine = slices.iter().filter(|s| text(s, "/metadata/labels/kubernetes.io~1service-name") == svc);
            let targets: BTreeSet<&str> = mine
                .flat_map(|s| items(&s["endpoints"]))
                .map(|e| text(e, "/targetRef/name"))
                .filter(|n| !n.is_empty())
                .collect();
            let meshed = pods.iter().filter(|p| targets.contains(name(p)) && is_meshed(p)).count();
            out.0.insert(service, (meshed, targets.len()));
        }
        out
    }
    fn of(&self, target: &str) -> (usize, usize) {
        target.rsplit_once(':').and_then(|(service, _)| self.0.get(service)).copied().unwrap_or_default()
    }
}

fn table(s: &Stat) -> String {
    let percent = |v: Option<f64>| v.map_or("-".into(), |v| format!("{:.2}%", v * 100.0));
    let ms =
        |v: Option<f64>| v.map_or("-".into(), |v| if v < 10.0 { format!("{v:.1}ms") } else { format!("{v:.0}ms") });
    let mut lines = vec![
        [
            "SERVICE",
            "ROUTE",
            "RULE",
            "BACKEND",
            "RPS",
            "SUCCESS",
            "ATTEMPTS",
            "RETRIES/S",
            "TIMEOUTS/S",
            "P50",
            "P95",
            "P99",
            "MTLS",
        ]
        .map(String::from),
    ];
    // a total is no rate
    let rate = |n: f64| if s.over.is_some() { format!("{n:.1}") } else { format!("{n:.0}") };
    for l in &s.lines {
        let r = &l.row;
        let or_dash = |t: &str| if t.is_empty() { "-".to_owned() } else { t.to_owned() };
        lines.push([
            r.parent.clone(),
            or_dash(&r.route),
            or_dash(&r.rule),
            or_dash(&r.backend),
            rate(r.requests_per_second),
            percent(r.success),
            percent(r.attempt_success),
            rate(r.retries_per_second),
            rate(r.timeouts_per_second),
            ms(r.p50_ms),
            ms(r.p95_ms),
            ms(r.p99_ms),
            if l.endpoints == 0 { "-".into() } else { format!("{}/{}", l.mtls_endpoints, l.endpoints) },
        ]);
    }
    if s.over.is_none() {
        for (at, head) in [(4, "REQUESTS"), (7, "RETRIES"), (8, "TIMEOUTS")] {
            lines[0][at] = head.into();
        }
    }
    let mut widths = [0; 13];
    for line in &lines {
        for (w, cell) in widths.iter_mut().zip(line) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    let answered = s.sidecars - s.silent.len();
    let span = s.over.map_or("since their start".into(), |o| format!("over {o} s"));
    let _ = writeln!(out, "{answered} of {} sidecars, {span}", s.sidecars);
    if s.lines.is_empty() {
        out.push_str("no requests went through them\n");
    }
    out
}

#[cfg(test)]
#[path = "stat_tests.rs"]
mod tests;
