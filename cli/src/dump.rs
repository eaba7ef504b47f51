//! `weft dump`: what a proxy believes, readable. The same document as its admin listener's `/dump`.

use crate::{admin::http_get, cluster};
use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::Value;
use std::{
    fmt::Write as _,
    net::{SocketAddr, ToSocketAddrs as _},
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// A pod of the cluster (or the beginning of its name), or a proxy's admin listener, HOST:PORT; only whoever is in the pod is answered
    #[arg(default_value = "127.0.0.1:15020")]
    proxy: String,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    cluster: cluster::Args,
    /// The document as it is
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    // names of pods have no colon
    let (address, (status, text)) = if args.proxy.contains(':') {
        let address: SocketAddr = args
            .proxy
            .to_socket_addrs()
            .with_context(|| format!("{} is not HOST:PORT", args.proxy))?
            .next()
            .with_context(|| format!("{} has no address", args.proxy))?;
        let answer =
            http_get(address, "/dump").with_context(|| format!("no proxy's admin listener answers at {address}"))?;
        (address.to_string(), answer)
    } else {
        cluster::block_on(of_pod(&args))?
    };
    if status == 403 {
        bail!("{address} answers only to whoever is in the pod: run this inside it, or name the pod");
    }
    let dump: Value =
        serde_json::from_str(&text).with_context(|| format!("{address} answered {status}, not a dump"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&dump)?);
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs() as i64).unwrap_or_default();
        print!("{}", readable(&dump, now));
    }
    Ok(())
}

/// Through a port-forward, which arrives on the pod's loopback.
async fn of_pod(args: &Args) -> anyhow::Result<(String, (u16, String))> {
    let cluster = cluster::Cluster::connect(&args.cluster).await?;
    let pod = cluster::pod(&cluster, &args.namespace, &args.proxy).await?;
    let answer = cluster.get_within(&args.namespace, &pod, cluster::PROXY_ADMIN, "/dump").await?;
    Ok((format!("{}/{pod}", args.namespace), answer))
}

fn text(v: &Value) -> String {
    match v {
        Value::Null => "-".into(),
        Value::String(s) => s.clone(),
        v => v.to_string(),
    }
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn reference(v: &Value) -> String {
    format!("{}/{}:{}", text(&v["namespace"]), text(&v["name"]), text(&v["port"]))
}

/// A span of seconds as people say it.
fn span(seconds: i64) -> String {
    match seconds {
        s if s < 0 => format!("{} ago", span(-s)),
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// The dump as text. `now` in seconds since the epoch.
fn readable(d: &Value, now: i64) -> String {
    let mut o = String::new();
    let pod = &d["pod"];
    let _ = writeln!(
        o,
        "proxy {} of pod {}/{} ({}), {}",
        text(&d["version"]),
        text(&pod["namespace"]),
        text(&pod["name"]),
        text(&pod["uid"]),
        text(&d["state"])
    );
    let _ = writeln!(
        o,
        "up {}, {} of {} connections",
        span(d["uptime_seconds"].as_i64().unwrap_or_default()),
        text(&d["connections"]["open"]),
        text(&d["connections"]["limit"])
    );
    let cert = &d["certificate"];
    if !cert.is_null() {
        let leaf = &cert["leaf"];
        let expires = leaf["not_after"].as_i64().map_or("-".into(), |t| span(t - now));
        let _ = writeln!(
            o,
            "identity {}, certificate expires in {expires}, bundle {} ({} roots)",
            text(&leaf["identity"]),
            text(&cert["bundle"]["version"]),
            text(&cert["bundle"]["roots"])
        );
    }
    match &d["controller"] {
        Value::Null => o.push_str("no controller: static configuration\n"),
        c => {
            let _ = writeln!(
                o,
                "controller {}",
                if c["connected"] == true {
                    "connected"
                } else {
                    "AWAY: known destinations go on, nothing new is learned"
                }
            );
        }
    }
    for l in list(&d["listeners"]) {
        let original =
            if l["original"].is_null() { String::new() } else { format!(" stands for {}", text(&l["original"])) };
        let _ = writeln!(o, "listener {} {}{original}", text(&l["side"]), text(&l["at"]));
    }
    for (n, w) in list(&d["workers"]).enumerate() {
        let view = &w["view"];
        let _ = writeln!(o, "\nworker {n}");
        for s in list(&view["services"]) {
            let addresses: Vec<String> = list(&s["addresses"]).map(text).collect();
            let _ = writeln!(
                o,
                "  service {} ({}) at {}",
                reference(&s["service"]),
                text(&s["protocol"]),
                addresses.join(", ")
            );
            routes(&mut o, &s["routes"]);
        }
        for e in list(&view["endpoints"]) {
            let _ = writeln!(o, "  endpoints of {} ({} not ready)", reference(&e["service"]), text(&e["not_ready"]));
            for p in list(&e["endpoints"]) {
                let who = if p["mesh"].is_null() {
                    "plain text".into()
                } else {
                    format!("mTLS {}", text(&p["mesh"]["identity"]))
                };
                let leaving = if p["terminating"] == true { ", terminating" } else { "" };
                let _ = writeln!(o, "    {} {} {who}{leaving}", text(&p["address"]), text(&p["workload"]));
            }
        }
        for t in list(&view["targets"]) {
            let target = match &t[1] {
                Value::String(s) => s.to_lowercase(),
                v if !v["Service"].is_null() => format!("service {}", reference(&v["Service"])),
                v => format!("workload {}", text(&v["Workload"]["workload"])),
            };
            let _ = writeln!(o, "  {} is {target}", text(&t[0]));
        }
        if !view["inbound"].is_null() {
            let _ = writeln!(o, "  inbound {}", text(&view["inbound"]["tls"]));
        }
    }
    o
}

fn routes(o: &mut String, routes: &Value) {
    let rules = if routes["Http"].is_null() { &routes["Stream"] } else { &routes["Http"] };
    if rules.is_null() {
        o.push_str("    no routes: plain Kubernetes\n");
    }
    for r in list(rules) {
        let name = r["name"].as_str().map(|n| format!(" ({n})")).unwrap_or_default();
        let backends: Vec<String> = list(&r["backends"])
            .map(|b| {
                let to = &b["backend"];
                let what = if to["Service"].is_null() {
                    format!("INVALID {}", text(&to["Invalid"]))
                } else {
                    reference(&to["Service"])
                };
                format!("{what} weight {}", text(&b["weight"]))
            })
            .collect();
        let index = r["index"].as_u64().map(|i| format!(" rule {i}")).unwrap_or_default();
        let retry =
            if r["retry"].is_null() { String::new() } else { format!(", {} retries", text(&r["retry"]["attempts"])) };
        let _ = writeln!(
            o,
            "    {}/{}{index}{name} -> {}{retry}",
            text(&r["route"]["namespace"]),
            text(&r["route"]["name"]),
            backends.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dump_names_identity_routes_and_endpoints() {
        let service = json!({"namespace": "shop", "name": "orders", "port": 80});
        let d = json!({
            "version": "1", "state": "Ready", "uptime_seconds": 61, "pod": {"namespace": "shop", "name": "web", "uid": "u"},
            "connections": {"open": 1, "limit": 10}, "controller": {"connected": false},
            "certificate": {"bundle": {"version": 3, "roots": 1}, "leaf": {"identity": "spiffe://x/ns/shop/sa/web", "not_after": 1000 + 7200}},
            "listeners": [{"side": "outbound", "at": "127.0.0.1:1", "original": "10.0.0.1:80"}],
            "workers": [{"view": {
                "services": [{"service": service, "protocol": "Http", "addresses": ["10.0.0.1:80"], "routes": {"Http": [
                    {"route": {"namespace": "shop", "name": "r"}, "index": 0, "name": "all", "backends": [{"backend": {"Service": service}, "weight": 1}], "retry": {"attempts": 2}}]}}],
                "endpoints": [{"service": service, "not_ready": 0, "endpoints": [{"address": "10.1.0.1:80", "workload": "orders-a", "mesh": {"identity": "spiffe://x/ns/shop/sa/orders"}, "terminating": false}]}],
                "targets": [["10.0.0.1:80", {"Service": service}], ["1.2.3.4:5", "Outside"]],
                "inbound": {"tls": "Permissive"},
            }}],
        });
        let t = readable(&d, 1000);
        for part in [
            "expires in 2 h 00 min",
            "AWAY",
            "stands for 10.0.0.1:80",
            "shop/r rule 0 (all) -> shop/orders:80 weight 1, 2 retries",
            "mTLS spiffe://x/ns/shop/sa/orders",
            "1.2.3.4:5 is outside",
        ] {
            assert!(t.contains(part), "{part:?} in {t}");
        }
    }
}
