//! What a sidecar gets of CPU and memory, and how much it says: the mesh's defaults under the pod's own annotations.

use crate::knobs::{self, Knobs};
use serde_json::{Map, Value, json};

/// The mesh's defaults; `None` sets nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    pub cpu_request: Option<String>,
    pub cpu_limit: Option<String>,
    pub memory_request: Option<String>,
    pub memory_limit: Option<String>,
    pub log_level: String,
}

/// An idle sidecar takes 10 MiB and no CPU worth naming. No limit of CPU: it only adds latency.
impl Default for Sidecar {
    fn default() -> Self {
        Sidecar {
            cpu_request: Some("10m".into()),
            cpu_limit: None,
            memory_request: Some("20Mi".into()),
            memory_limit: Some("256Mi".into()),
            log_level: "info".into(),
        }
    }
}

impl Sidecar {
    /// Defaults that no pod could be made with: every one would be refused, so the program does not start.
    pub fn check(&self) -> Result<(), String> {
        for (name, request, limit) in
            [("cpu", &self.cpu_request, &self.cpu_limit), ("memory", &self.memory_request, &self.memory_limit)]
        {
            if let (Some(r), Some(l)) = (request, limit)
                && knobs::amount(r) > knobs::amount(l)
            {
                return Err(format!("--proxy-{name}-request {r} is more than --proxy-{name}-limit {l}"));
            }
        }
        Ok(())
    }

    /// The container's `resources`.
    pub fn resources(&self, k: &Knobs) -> Value {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for (name, (request, limit)) in [
            ("cpu", settle([&k.cpu_request, &k.cpu_limit], [&self.cpu_request, &self.cpu_limit])),
            ("memory", settle([&k.memory_request, &k.memory_limit], [&self.memory_request, &self.memory_limit])),
        ] {
            for (of, value) in [(&mut requests, request), (&mut limits, limit)] {
                if let Some(v) = value {
                    of.insert(name.into(), v.into());
                }
            }
        }
        json!({"requests": requests, "limits": limits})
    }
}

/// Request and limit of one resource. The API server refuses a request above its limit, so of a pod's annotation and a default the default gives way.
fn settle<'a>(own: [&'a Option<String>; 2], default: [&'a Option<String>; 2]) -> (Option<&'a str>, Option<&'a str>) {
    let [(request, limit), (least, most)] = [own, default].map(|[r, l]| (r.as_deref(), l.as_deref()));
    let more = |a: &str, b: &str| knobs::amount(a) > knobs::amount(b);
    match (request, limit) {
        (Some(r), None) => (Some(r), most.map(|m| if more(r, m) { r } else { m })),
        (None, Some(l)) => (least.map(|m| if more(m, l) { l } else { m }), Some(l)),
        (None, None) => (least, most),
        both => both,
    }
}

/// A quantity of a flag; empty: none.
pub fn quantity(text: &str) -> Result<String, &'static str> {
    if !text.is_empty() {
        knobs::quantity(text)?;
    }
    Ok(text.to_owned())
}

/// A log filter of a flag.
pub fn filter(text: &str) -> Result<String, &'static str> {
    knobs::filter(text).map(|()| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn a_default_gives_way_where_the_two_would_contradict() {
        let of = |k: Knobs| Sidecar::default().resources(&k);
        assert_eq!(
            of(Knobs::default()),
            json!({"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"memory": "256Mi"}})
        );
        let more = Knobs { memory_request: some("1Gi"), cpu_request: some("2"), ..Knobs::default() };
        assert_eq!(of(more), json!({"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}));
        let less = Knobs { memory_limit: some("16Mi"), cpu_limit: some("5m"), ..Knobs::default() };
        assert_eq!(
            of(less),
            json!({"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"cpu": "5m", "memory": "16Mi"}})
        );
        let room = Knobs { memory_limit: some("1Gi"), ..Knobs::default() };
        assert_eq!(of(room), json!({"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"memory": "1Gi"}}));
        let none = Sidecar { cpu_request: None, memory_request: None, memory_limit: None, ..Sidecar::default() };
        assert_eq!(none.resources(&Knobs::default()), json!({"requests": {}, "limits": {}}));
    }

    #[test]
    fn defaults_that_no_pod_could_have() {
        Sidecar::default().check().unwrap();
        let bad = Sidecar { memory_request: some("1Gi"), ..Sidecar::default() };
        assert_eq!(bad.check().unwrap_err(), "--proxy-memory-request 1Gi is more than --proxy-memory-limit 256Mi");
        assert!(
            quantity("").is_ok() && quantity("64Mi").is_ok() && quantity("much").is_err() && filter("loud").is_err()
        );
    }
}
