//! What a user may say about a pod's injection: the labels and annotations of `weft.dev`, each checked. The pod's own annotation wins over its namespace's.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use weft_init::lists;

/// The label of namespaces and pods.
pub const INJECT: &str = "weft.dev/inject";
/// Written into injected pods: the version that did it.
pub const INJECTED: &str = "weft.dev/injected";
/// Written into pods that are left alone: why.
pub const NOT_INJECTED: &str = "weft.dev/not-injected";

const SKIP_INBOUND_PORTS: &str = "weft.dev/exclude-inbound-ports";
const SKIP_OUTBOUND_PORTS: &str = "weft.dev/exclude-outbound-ports";
const SKIP_OUTBOUND_NETWORKS: &str = "weft.dev/exclude-outbound-networks";
const CPU_REQUEST: &str = "weft.dev/proxy-cpu-request";
const CPU_LIMIT: &str = "weft.dev/proxy-cpu-limit";
const MEMORY_REQUEST: &str = "weft.dev/proxy-memory-request";
const MEMORY_LIMIT: &str = "weft.dev/proxy-memory-limit";
const IMAGE: &str = "weft.dev/proxy-image";
const LOG_LEVEL: &str = "weft.dev/proxy-log-level";
const ACCESS_LOG: &str = "weft.dev/access-log";
const WORKERS: &str = "weft.dev/proxy-workers";
const AWAY: &str = "weft.dev/when-controller-away";
const REWRITE_PROBES: &str = "weft.dev/rewrite-probes";
const NATIVE_SIDECAR: &str = "weft.dev/native-sidecar";

/// Every annotation that a user may set, for suggestions and for docs/injection.md.
pub const KNOWN: [&str; 14] = [
    SKIP_INBOUND_PORTS,
    SKIP_OUTBOUND_PORTS,
    SKIP_OUTBOUND_NETWORKS,
    CPU_REQUEST,
    CPU_LIMIT,
    MEMORY_REQUEST,
    MEMORY_LIMIT,
    IMAGE,
    LOG_LEVEL,
    ACCESS_LOG,
    WORKERS,
    AWAY,
    REWRITE_PROBES,
    NATIVE_SIDECAR,
];
/// What else has our prefix and is no mistake.
const OURS: [&str; 3] = [INJECT, INJECTED, NOT_INJECTED];

/// An annotation that cannot be obeyed: the pod is denied with it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("annotation {name}={value:?}: {text}")]
pub struct KnobError {
    pub name: &'static str,
    pub value: String,
    pub text: String,
}

/// What a pod asks for, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Knobs {
    /// As written; [`weft_init::lists`] reads them again in the pod.
    pub skip_inbound_ports: Option<String>,
    pub skip_outbound_ports: Option<String>,
    pub skip_outbound_networks: Option<String>,
    pub cpu_request: Option<String>,
    pub cpu_limit: Option<String>,
    pub memory_request: Option<String>,
    pub memory_limit: Option<String>,
    pub image: Option<String>,
    pub log_level: Option<String>,
    pub access_log: Option<String>,
    pub workers: Option<u16>,
    pub away: Option<String>,
    pub rewrite_probes: Option<bool>,
    pub native_sidecar: Option<bool>,
}

/// Annotations by name; values that are not text are no annotations (the API server refuses them).
pub type Annotations = BTreeMap<String, String>;

/// The text entries of an object such as `metadata.annotations`.
pub fn texts(v: &Value) -> Annotations {
    let entries = v.as_object().into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

struct Reader<'a> {
    pod: &'a Annotations,
    namespace: &'a Annotations,
}

impl Reader<'_> {
    fn get(&self, name: &'static str) -> Option<&str> {
        self.pod.get(name).or_else(|| self.namespace.get(name)).map(String::as_str)
    }
    fn bad(&self, name: &'static str, text: impl ToString) -> KnobError {
        // the API server allows 256 KiB; a denial need not repeat it
        let value = self.get(name).unwrap_or_default().chars().take(100).collect();
        KnobError { name, value, text: text.to_string() }
    }
    /// The value as written, when `check` likes it.
    fn checked<E: ToString>(
        &self,
        name: &'static str,
        check: impl Fn(&str) -> Result<(), E>,
    ) -> Result<Option<String>, KnobError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        check(value).map_err(|e| self.bad(name, e))?;
        Ok(Some(value.to_owned()))
    }
    fn one_of(&self, name: &'static str, words: &[&str]) -> Result<Option<String>, KnobError> {
        self.checked(name, |v| match words.contains(&v) {
            true => Ok(()),
            false => Err(format!("expected {}", words.join(" or "))),
        })
    }
    fn flag(&self, name: &'static str) -> Result<Option<bool>, KnobError> {
        Ok(self.one_of(name, &["true", "false"])?.map(|v| v == "true"))
    }
}

impl Knobs {
    /// Reads and checks the annotations of a pod and of its namespace.
    pub fn read(pod: &Annotations, namespace: &Annotations) -> Result<Knobs, KnobError> {
        let r = Reader { pod, namespace };
        let ports = |name| r.checked(name, |v| lists::ports(v).map(drop));
        let quantity = |name| r.checked(name, quantity);
        let workers = r.checked(WORKERS, |v| match v.parse::<u16>() {
            Ok(1..=256) => Ok(()),
            _ => Err("expected a number of threads from 1 to 256"),
        })?;
        let knobs = Knobs {
            skip_inbound_ports: ports(SKIP_INBOUND_PORTS)?,
            skip_outbound_ports: ports(SKIP_OUTBOUND_PORTS)?,
            skip_outbound_networks: r.checked(SKIP_OUTBOUND_NETWORKS, |v| lists::networks(v).map(drop))?,
            cpu_request: quantity(CPU_REQUEST)?,
            cpu_limit: quantity(CPU_LIMIT)?,
            memory_request: quantity(MEMORY_REQUEST)?,
            memory_limit: quantity(MEMORY_LIMIT)?,
            image: r.checked(IMAGE, image)?,
            log_level: r.checked(LOG_LEVEL, filter)?,
            access_log: r.one_of(ACCESS_LOG, &["off", "stdout"])?,
            workers: workers.and_then(|w| w.parse().ok()),
            away: r.one_of(AWAY, &["forward", "refuse"])?,
            rewrite_probes: r.flag(REWRITE_PROBES)?,
            native_sidecar: r.flag(NATIVE_SIDECAR)?,
        };
        for (request, limit, what) in [
            (&knobs.cpu_request, &knobs.cpu_limit, (CPU_REQUEST, CPU_LIMIT)),
            (&knobs.memory_request, &knobs.memory_limit, (MEMORY_REQUEST, MEMORY_LIMIT)),
        ] {
            if let (Some(a), Some(b)) = (request, limit)
                && amount(a) > amount(b)
            {
                return Err(r.bad(what.0, format!("is more than {}={b:?}", what.1)));
            }
        }
        Ok(knobs)
    }
}

/// Annotations of ours that mean nothing, each with what may have been meant.
pub fn unknown(pod: &Annotations) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in pod.keys().filter(|n| n.starts_with("weft.dev/")) {
        if KNOWN.contains(&name.as_str()) || OURS.contains(&name.as_str()) {
            continue;
        }
        let near = KNOWN.iter().min_by_key(|k| distance(k, name)).filter(|k| distance(k, name) <= 4);
        let hint = near.map(|k| format!("; did you mean {k}?")).unwrap_or_default();
        let short: String = name.chars().take(100).collect();
        warnings.push(format!("weft: annotation {short} means nothing{hint}"));
    }
    // the API server passes on a bounded number, too
    warnings.truncate(10);
    warnings
}

/// Levenshtein's; both are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const SUFFIXES: [(&str, f64); 14] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1.099_511_627_776e12),
    ("Pi", 1.125_899_906_842_624e15),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("", 1.0),
];

/// A Kubernetes quantity as a number, if it is one (without exponents, which nobody writes here).
pub(crate) fn amount(text: &str) -> Option<f64> {
    let (suffix, factor) = SUFFIXES.iter().find(|(s, _)| text.ends_with(s))?;
    let number = &text[..text.len() - suffix.len()];
    let plain = !number.is_empty() && number.len() <= 18 && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    number.parse::<f64>().ok().filter(|_| plain).map(|n| n * factor)
}

pub(crate) fn quantity(text: &str) -> Result<(), &'static str> {
    match amount(text) {
        Some(n) if n > 0.0 => Ok(()),
        _ => Err("expected a quantity above zero, such as 100m, 0.5, 64Mi or 1Gi"),
    }
}

fn image(text: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"./:-_@".contains(&b);
    match !text.is_empty() && text.len() <= 512 && text.bytes().all(allowed) {
        true => Ok(()),
        false => Err("expected an image name such as weft.dev/weft-proxy:0.1.0"),
    }
}

/// Levels, alone or by module. The proxy parses it again; nonsense shall not make it crash in a loop.
pub(crate) fn filter(text: &str) -> Result<(), &'static str> {
    let levels = BTreeSet::from(["off", "error", "warn", "info", "debug", "trace"]);
    let part = |p: &str| match p.split_once('=') {
        Some((module, level)) => {
            !module.is_empty()
                && module.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
                && levels.contains(level)
        }
        None => levels.contains(p),
    };
    match text.len() <= 256 && text.split(',').all(|p| part(p.trim())) {
        true => Ok(()),
        false => Err("expected off, error, warn, info, debug or trace, also by module: info,weft_proxy=debug"),
    }
}

#[cfg(test)]
#[path = "knobs_tests.rs"]
mod tests;
