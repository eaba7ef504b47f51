//! Services: addresses, ports, what is declared to be spoken.

use super::{Check, workloads::selected};
use crate::{
    facts::{ServiceFacts, ServiceKind, TargetPort, selects},
    finding::Severity::{Error, Info, Warning},
    object::{Kind, Name, Object, ObjectKey, Stored},
};
use std::{collections::BTreeMap, net::IpAddr};
use weft_core::service::Protocol;

/// Well-known protocols in which the server speaks first.
const SERVER_FIRST: [(u16, &str); 8] = [
    (21, "FTP"),
    (22, "SSH"),
    (25, "SMTP"),
    (110, "POP3"),
    (143, "IMAP"),
    (587, "SMTP"),
    (3306, "MySQL"),
    (33060, "MySQL"),
];

impl Check<'_> {
    pub(super) fn services(&mut self) {
        let mut by_ip: BTreeMap<IpAddr, Vec<Name>> = BTreeMap::new();
        let services: Vec<_> = self.objects().into_iter().filter(|(k, _)| k.kind == Kind::Service).collect();
        for (key, stored) in services {
            let Some(facts) = self.index.service(&key.name).cloned() else { continue };
            for ip in &facts.ips {
                by_ip.entry(*ip).or_default().push(key.name.clone());
            }
            self.ports(stored, &facts);
            self.targets(stored, &facts);
            self.bypass(stored, &facts);
        }
        for (ip, names) in by_ip.into_iter().filter(|(_, n)| n.len() > 1) {
            for name in &names[1..] {
                if let Some(stored) = self.index.get(&ObjectKey { kind: Kind::Service, name: name.clone() }) {
                    let shared = self.shares_port(&names[0], name);
                    if shared {
                        self.say(
                            Error,
                            "cluster-ip-twice",
                            stored,
                            "spec.clusterIP",
                            format!("{ip} belongs to Service {}, too", names[0]),
                            "give each Service an address of its own",
                        );
                    }
                }
            }
        }
    }

    fn shares_port(&self, a: &Name, b: &Name) -> bool {
        match (self.index.service(a), self.index.service(b)) {
            (Some(a), Some(b)) => a.ports.iter().any(|p| b.port(p.port).is_some()),
            _ => false,
        }
    }

    fn ports(&mut self, stored: &Stored, facts: &ServiceFacts) {
        let Object::Service(service) = &stored.object else { return };
        let specs = service.spec.as_ref().and_then(|s| s.ports.clone()).unwrap_or_default();
        for port in &facts.ports {
            let Some(i) = specs
                .iter()
                .position(|p| p.port == i32::from(port.port) && p.protocol.as_deref().unwrap_or("TCP") == "TCP")
            else {
                continue;
            };
            let at = format!("spec.ports[{i}]");
            let declared = port.declared();
            if declared.unknown {
                let said = port.app_protocol.as_deref().unwrap_or_default();
                let message = format!("{said:?} is not known, so the first bytes decide what is spoken");
                self.say(
                    Warning,
                    "app-protocol-unknown",
                    stored,
                    &format!("{at}.appProtocol"),
                    message,
                    "http, kubernetes.io/h2c, grpc, https or tcp",
                );
            }
            let routed = self.is_routed(&facts.name, port.port);
            let first = SERVER_FIRST.iter().find(|(n, _)| port.target == TargetPort::Number(*n) || port.port == *n);
            let http = matches!(declared.protocol, Protocol::Http | Protocol::Http2);
            match first {
                Some((n, name)) if http => {
                    let message = format!(
                        "port {n} is {name}'s, whose server speaks first, but the port is declared as HTTP: connections will hang or fail"
                    );
                    self.say(Warning, "server-first", stored, &at, message, "appProtocol: tcp");
                }
                Some((n, name)) if declared.protocol == Protocol::Detect => {
                    let message = format!(
                        "port {n} is {name}'s, whose server speaks first, and nothing is declared: each connection waits 50 ms for the client's first bytes"
                    );
                    self.say(Info, "protocol-undeclared", stored, &at, message, "appProtocol: tcp");
                }
                _ if declared.protocol == Protocol::Detect
                    && !declared.unknown
                    && !routed
                    && facts.kind == ServiceKind::Virtual =>
                {
                    let message = "nothing says what is spoken, so the first bytes decide";
                    self.say(
                        Info,
                        "protocol-undeclared",
                        stored,
                        &at,
                        message,
                        "appProtocol, or a name that begins with http, grpc, tls or tcp",
                    );
                }
                _ => {}
            }
        }
    }

    /// Names of target ports that no pod has.
    fn targets(&mut self, stored: &Stored, facts: &ServiceFacts) {
        let templates = self.pod_templates();
        let picked: Vec<_> = templates
            .iter()
            .filter(|t| t.namespace == facts.name.namespace && selects(&facts.selector, &t.labels))
            .collect();
        for (i, port) in facts.ports.iter().enumerate() {
            let TargetPort::Name(name) = &port.target else { continue };
            if !picked.is_empty() && !picked.iter().any(|t| t.has_port(name)) {
                let message = format!("no container of the pods that the Service selects has a port named {name}");
                self.say(
                    Error,
                    "target-port",
                    stored,
                    &format!("spec.ports[{i}].targetPort"),
                    message,
                    "name the containerPort, or write its number",
                );
            }
        }
        let has_slices = self.index.slices(&facts.name).next().is_some();
        if !facts.selector.is_empty() && !has_slices && !selected(&templates, facts) && !templates.is_empty() {
            let near = templates.iter().filter(|t| t.namespace == facts.name.namespace);
            let near = near
                .map(|t| (facts.selector.iter().filter(|(k, v)| t.labels.get(*k) == Some(v)).count(), t))
                .filter(|(n, _)| *n > 0);
            let fix = match near.max_by_key(|(n, _)| *n) {
                Some((_, t)) => {
                    let differs = facts.selector.iter().find(|(k, v)| t.labels.get(*k) != Some(v));
                    differs.map_or_else(String::new, |(k, v)| {
                        format!(
                            "{} has {k}: {}, not {v}",
                            t.stored.object.key(),
                            t.labels.get(k).map_or("nothing", String::as_str)
                        )
                    })
                }
                None => "correct the selector or the pods' labels".into(),
            };
            self.say(Warning, "selector-empty", stored, "spec.selector", "selects no pod of this namespace", fix);
        }
    }

    /// Another name for the same pods that no route applies to.
    fn bypass(&mut self, stored: &Stored, facts: &ServiceFacts) {
        if facts.kind != ServiceKind::Headless || facts.selector.is_empty() {
            return;
        }
        let others: Vec<_> = self
            .index
            .services_of(&facts.name.namespace)
            .filter(|s| s.kind == ServiceKind::Virtual && s.name != facts.name)
            .cloned()
            .collect();
        for other in others {
            let same = other.selector == facts.selector || selects(&other.selector, &facts.selector);
            if same && other.ports.iter().any(|p| self.is_routed(&other.name, p.port)) {
                let message = format!(
                    "leads to the pods of Service {} by their own addresses: the routes of that Service do not apply to whoever uses this name",
                    other.name
                );
                self.say(
                    Info,
                    "headless-bypass",
                    stored,
                    "spec.clusterIP",
                    message,
                    format!("let clients use {}", other.name.name),
                );
            }
        }
    }
}
