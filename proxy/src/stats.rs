//! What the rim counts itself: connections, bytes of opaque connections, handshakes, refusals. Everything about requests is counted by the engine.
//!
//! Relaxed atomics, touched per connection or per read, never per frame; the admin thread reads them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A counter or a gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);
impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    pub fn one(&self) {
        self.add(1);
    }
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! rim {
    ($($(#[$doc:meta])* $name:ident: $kind:literal, $metric:literal, $labels:literal;)*) => {
        /// The counters that need no label of their own.
        #[derive(Debug, Default)]
        pub struct Rim { $($(#[$doc])* pub $name: Count,)* tcp: Mutex<BTreeMap<TcpLabel, Arc<Tcp>>> }
        impl Rim {
            fn render_plain(&self, out: &mut String) {
                let mut last = "";
                $(
                    if last != $metric {
                        last = $metric;
                        let _ = writeln!(out, "# TYPE {} {}", $metric, $kind);
                    }
                    let _ = writeln!(out, "{}{} {}", $metric, $labels, self.$name.get());
                )*
                let _ = last;
            }
        }
    };
}

rim! {
    /// Connections accepted on outbound listeners.
    accepted_outbound: "counter", "weft_connections_accepted_total", "{direction=\"outbound\"}";
    accepted_inbound: "counter", "weft_connections_accepted_total", "{direction=\"inbound\"}";
    /// Open accepted connections.
    open: "gauge", "weft_connections_open", "";
    /// Refused or ended before they were served, by reason.
    refused_own_listener: "counter", "weft_connections_refused_total", "{reason=\"own_listener\"}";
    refused_away: "counter", "weft_connections_refused_total", "{reason=\"controller_away\"}";
    refused_no_endpoint: "counter", "weft_connections_refused_total", "{reason=\"no_endpoint\"}";
    refused_no_route: "counter", "weft_connections_refused_total", "{reason=\"no_route\"}";
    refused_not_http: "counter", "weft_connections_refused_total", "{reason=\"not_http\"}";
    refused_plain_text: "counter", "weft_connections_refused_total", "{reason=\"strict_plain_text\"}";
    refused_denied: "counter", "weft_connections_refused_total", "{reason=\"denied\"}";
    refused_foreign_tls: "counter", "weft_connections_refused_total", "{reason=\"strict_foreign_tls\"}";
    refused_wrong_uid: "counter", "weft_connections_refused_total", "{reason=\"wrong_uid\"}";
    refused_preamble: "counter", "weft_connections_refused_total", "{reason=\"preamble\"}";
    refused_handshake_rate: "counter", "weft_connections_refused_total", "{reason=\"handshake_rate\"}";
    refused_idle: "counter", "weft_connections_refused_total", "{reason=\"said_nothing\"}";
    refused_invalid_backend: "counter", "weft_connections_refused_total", "{reason=\"invalid_backend\"}";
    /// Dials that failed.
    dial_failed: "counter", "weft_dials_failed_total", "";
    handshakes_server: "counter", "weft_tls_handshakes_total", "{side=\"server\",result=\"ok\"}";
    handshakes_server_failed: "counter", "weft_tls_handshakes_total", "{side=\"server\",result=\"failed\"}";
    handshakes_client: "counter", "weft_tls_handshakes_total", "{side=\"client\",result=\"ok\"}";
    handshakes_client_failed: "counter", "weft_tls_handshakes_total", "{side=\"client\",result=\"failed\"}";
    /// Times that accepting paused because descriptors or connections ran out.
    accept_paused: "counter", "weft_accept_paused_total", "";
    /// Panics caught; each closed one connection and is a bug.
    panics: "counter", "weft_panics_total", "";
    lookups: "counter", "weft_lookups_total", "{result=\"ok\"}";
    lookups_failed: "counter", "weft_lookups_total", "{result=\"failed\"}";
    detected_http: "counter", "weft_detected_total", "{protocol=\"http\"}";
    detected_tls: "counter", "weft_detected_total", "{protocol=\"tls\"}";
    detected_other: "counter", "weft_detected_total", "{protocol=\"other\"}";
    detected_silent: "counter", "weft_detected_total", "{protocol=\"silent\"}";
    /// Streams reset because the grace period ended.
    drain_reset: "counter", "weft_drain_reset_total", "";
    log_dropped: "counter", "weft_access_log_dropped_total", "";
}

/// The labels of opaque connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpLabel {
    pub direction: &'static str,
    /// What was dialled: a Service port, `workload`, `outside`, or for inbound the port.
    pub parent: Arc<str>,
    /// `namespace/name` of the TLSRoute or TCPRoute, empty without.
    pub route: Arc<str>,
    pub backend: Arc<str>,
    pub mtls: bool,
}

#[derive(Debug, Default)]
pub struct Tcp {
    pub opened: Count,
    pub closed: Count,
    /// From the client to the server.
    pub sent: Count,
    /// From the server to the client.
    pub received: Count,
}

/// Series of opaque connections; the rest is counted under `overflow`. With the engine's own bound the proxy stays under 5,000 (design 3.7).
const TCP_SERIES: usize = 200;

impl Rim {
    /// The counters of one kind of opaque connection. Per connection, not per byte.
    pub fn tcp(&self, label: TcpLabel) -> Arc<Tcp> {
        let mut map = self.tcp.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(t) = map.get(&label) {
            return t.clone();
        }
        let label = if map.len() < TCP_SERIES {
            label
        } else {
            let o: Arc<str> = "overflow".into();
            TcpLabel { parent: o.clone(), route: o.clone(), backend: o, ..label }
        };
        map.entry(label).or_default().clone()
    }

    /// Appends Prometheus text.
    pub fn render(&self, out: &mut String) {
        self.render_plain(out);
        let map: Vec<_> = {
            let map = self.tcp.lock().unwrap_or_else(|e| e.into_inner());
            map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        type Get = fn(&Tcp) -> u64;
        let columns: [(&str, Get); 4] = [
            ("weft_tcp_opened_total", |t| t.opened.get()),
            ("weft_tcp_closed_total", |t| t.closed.get()),
            ("weft_tcp_sent_bytes_total", |t| t.sent.get()),
            ("weft_tcp_received_bytes_total", |t| t.received.get()),
        ];
        for (name, get) in columns {
            let _ = writeln!(out, "# TYPE {name} counter");
            for (l, t) in &map {
                let _ = writeln!(
                    out,
                    "{name}{{direction=\"{}\",parent=\"{}\",route=\"{}\",backend=\"{}\",mtls=\"{}\"}} {}",
                    l.direction,
                    l.parent,
                    l.route,
                    l.backend,
                    if l.mtls { "yes" } else { "no" },
                    get(t)
                );
            }
        }
    }
}
