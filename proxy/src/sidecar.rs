//! The start of a sidecar in a pod: everything comes from environment variables that the injector writes. Other words for the same [`Config`].

use crate::config::{Away, Capture, Config, Controller, Credentials, KernelCapture, Limits, Pod, Timeouts};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};
use weft_core::identity::WorkloadIdentity;
use weft_identity::{Bundle, BundleError};

/// A variable that a sidecar cannot start with.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    #[error("{0} is not set: the injector writes it into the container; was this pod injected?")]
    Missing(&'static str),
    #[error("{name}={value:?}: {text}")]
    Invalid { name: &'static str, value: String, text: String },
    #[error("WEFT_TRUST_BUNDLE: {0}")]
    Bundle(#[from] BundleError),
    #[error("{path}: {error}; the sidecar needs a writable memory volume there")]
    State { path: PathBuf, error: std::io::Error },
}

const TOKEN: &str = "/var/run/secrets/weft.dev/token/token";
const STATE: &str = "/var/run/weft/state";
/// The kubelet waits for 30 s unless the pod says otherwise.
const GRACE_SECONDS: u64 = 30;

/// Reads variables; a function, so that tests need no process of their own.
struct Vars<F>(F);

impl<F: Fn(&'static str) -> Option<String>> Vars<F> {
    /// Empty counts as absent: templates leave empty strings behind.
    fn get(&self, name: &'static str) -> Option<String> {
        self.0(name).filter(|v| !v.trim().is_empty())
    }
    fn need(&self, name: &'static str) -> Result<String, EnvError> {
        self.get(name).ok_or(EnvError::Missing(name))
    }
    fn parse<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>, EnvError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = format!("expected {expected}");
        value.trim().parse().map(Some).map_err(|_| EnvError::Invalid { name, value, text })
    }
}

/// The configuration of this process's environment. Writes the bundle where the credentials read it.
pub fn config() -> Result<Config, EnvError> {
    from(|name| std::env::var(name).ok())
}

fn from(var: impl Fn(&'static str) -> Option<String>) -> Result<Config, EnvError> {
    let v = Vars(var);
    let invalid = |name, value: &str, text: &str| EnvError::Invalid { name, value: value.into(), text: text.into() };
    let namespace = v.need("WEFT_POD_NAMESPACE")?;
    let account = v.need("WEFT_SERVICE_ACCOUNT")?;
    let domain = v.need("WEFT_TRUST_DOMAIN")?;
    let identity = WorkloadIdentity::new(&domain, &namespace, &account)
        .map_err(|e| invalid("WEFT_TRUST_DOMAIN", &domain, &e.to_string()))?;
    let listed = v.need("WEFT_POD_IPS")?;
    let ips = listed
        .split(',')
        .map(|ip| ip.trim().parse::<IpAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| invalid("WEFT_POD_IPS", &listed, "expected IP addresses, comma-separated"))?;
    let peer = |name| -> Result<String, EnvError> {
        let value = v.need(name)?;
        let port = value.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, p)| p.parse::<u16>().ok());
        match port {
            Some(1..) => Ok(value),
            _ => Err(invalid(name, &value, "expected host:port")),
        }
    };
    let (ca, controller) = (peer("WEFT_CA")?, peer("WEFT_CONTROLLER")?);
    let away = match v.get("WEFT_AWAY").as_deref() {
        None | Some("forward") => Away::Forward,
        Some("refuse") => Away::Refuse,
        Some(other) => return Err(invalid("WEFT_AWAY", other, "expected forward or refuse")),
    };
    let port = |name, default| Ok::<u16, EnvError>(v.parse(name, "a port")?.unwrap_or(default));
    let both = |port| {
        vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)]
    };
    let capture = KernelCapture {
        outbound: both(port("WEFT_OUTBOUND_PORT", 15001)?),
        inbound: both(port("WEFT_INBOUND_PORT", 15006)?),
    };
    // the kubelet and Prometheus reach it on the pod's primary address; what changes the proxy is for loopback only
    let any: IpAddr = if ips[0].is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let grace = v.parse::<u64>("WEFT_GRACE", "a number of seconds")?.unwrap_or(GRACE_SECONDS);
    let state = PathBuf::from(v.get("WEFT_STATE").unwrap_or_else(|| STATE.into()));
    let bundle = first_bundle(&v.need("WEFT_TRUST_BUNDLE")?, &domain, &state)?;
    Ok(Config {
        pod: Pod {
            uid: v.need("WEFT_POD_UID")?.into(),
            ips,
            namespace: namespace.into(),
            name: v.need("WEFT_POD_NAME")?.into(),
            zone: None,
            identity: Some(identity),
        },
        capture: Capture::Kernel(capture),
        admin: SocketAddr::new(any, port("WEFT_ADMIN_PORT", weft_core::probe::ADMIN_PORT)?),
        workers: v.parse("WEFT_WORKERS", "a number of threads, 1 to 256")?.unwrap_or(1),
        credentials: Some(Credentials::Ca {
            address: ca,
            identity: None,
            token: v.get("WEFT_TOKEN").unwrap_or_else(|| TOKEN.into()).into(),
            bundle,
            state: Some(state),
        }),
        controller: Some(Controller { address: controller, identity: None, away }),
        fixed: None,
        limits: Limits::default(),
        timeouts: Timeouts { grace: grace.saturating_mul(1000), ..Timeouts::default() },
        access_log: match v.get("WEFT_ACCESS_LOG").as_deref() {
            None | Some("off") => None,
            Some("stdout") => Some("-".into()),
            Some(other) => return Err(invalid("WEFT_ACCESS_LOG", other, "expected off or stdout")),
        },
    })
}

/// Checks the bundle that the pod was created with and puts it beside what later runs keep.
fn first_bundle(pem: &str, domain: &str, state: &Path) -> Result<PathBuf, EnvError> {
    let bundle = Bundle::from_pem(pem, Some(domain))?;
    let path = state.join("first-bundle.pem");
    std::fs::create_dir_all(state).map_err(|error| EnvError::State { path: state.into(), error })?;
    bundle.write(&path)?;
    Ok(path)
}

#[cfg(test)]
#[path = "sidecar_tests.rs"]
mod tests;
