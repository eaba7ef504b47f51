//! What an API server would refuse: the rules of the CRDs (patterns, bounds, CEL) that types alone do not hold. Objects from files meet
//! them here, so that a folder behaves as a cluster does: a refused object leaves the last good one in use.

use crate::object::Object;
use std::collections::BTreeSet;
use weft_api::{
    AuthorizationPolicy, GRPCRoute, HTTPRoute, ReferenceGrant, TLSRoute, TrafficPolicy, XBackendTrafficPolicy,
    grpc::GRPCRouteFilterType,
    http::{
        HTTPHeaderFilter, HTTPPathModifier, HTTPPathModifierType, HTTPRequestMirrorFilter, HTTPRouteFilter,
        HTTPRouteFilterType, MatchType, PathMatchType, RedirectScheme,
    },
    k8s_openapi::api::core::v1::{Pod, Service},
    meta::Duration,
    shared::{BackendObjectReference, ParentReference},
    weft::{AuthorizationSourceType, WorkloadTargetReference},
};

/// A value that the API refuses.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub field: String,
    pub message: String,
    pub fix: String,
}

/// Everything that an API server would refuse.
pub fn validate(object: &Object) -> Vec<Refusal> {
    let mut v = Validator::default();
    match object {
        Object::HTTPRoute(o) => v.http_route(o),
        Object::GRPCRoute(o) => v.grpc_route(o),
        Object::TLSRoute(o) => v.tls_route(o),
        Object::TCPRoute(o) => {
            v.parents(&o.spec.parent_refs);
            v.stream_rules(&o.spec.rules);
        }
        Object::UDPRoute(o) => {
            v.parents(&o.spec.parent_refs);
            v.stream_rules(&o.spec.rules);
        }
        Object::ReferenceGrant(o) => v.grant(o),
        Object::Service(o) => v.service(o),
        Object::Pod(o) => v.pod(o),
        Object::MeshTLSPolicy(o) => v.workloads(&o.spec.target_refs),
        Object::AuthorizationPolicy(o) => v.authorization(o),
        Object::TrafficPolicy(o) => v.traffic(o),
        Object::XBackendTrafficPolicy(o) => v.budget_policy(o),
        _ => {}
    }
    let name = object.metadata().name.as_deref().unwrap_or_default();
    v.check(is_name(name), "metadata.name", || {
        (format!("{name:?} is no name"), "write lower-case letters, digits, - and .")
    });
    v.0
}

#[derive(Default)]
struct Validator(Vec<Refusal>);

impl Validator {
    fn refuse(&mut self, field: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Refusal { field: field.into(), message: message.into(), fix: fix.into() });
    }
    fn check(&mut self, good: bool, field: &str, say: impl FnOnce() -> (String, &'static str)) {
        if !good {
            let (message, fix) = say();
            self.refuse(field, message, fix);
        }
    }
    fn duration(&mut self, field: &str, d: Option<&Duration>) -> Option<std::time::Duration> {
        match d?.parse() {
            Ok(d) => Some(d),
            Err(e) => {
                self.refuse(
                    field,
                    format!("{:?} is no duration", e.0),
                    "write whole numbers with h, m, s or ms, such as 1m30s or 250ms",
                );
                None
            }
        }
    }

    fn parents(&mut self, parents: &[ParentReference]) {
        self.check(parents.len() <= 32, "spec.parentRefs", || ("has more than 32 entries".into(), "split the route"));
        let mut seen = BTreeSet::new();
        for (i, p) in parents.iter().enumerate() {
            let at = format!("spec.parentRefs[{i}]");
            self.check(!p.name.is_empty(), &format!("{at}.name"), || ("is empty".into(), "name the parent"));
            self.check(p.port != Some(0), &format!("{at}.port"), || ("is 0".into(), "write a port from 1 to 65535"));
            let same = (&p.group, &p.kind, &p.namespace, &p.name, &p.section_name, p.port);
            self.check(seen.insert(same), &at, || {
                ("names the same parent twice".into(), "remove one, or tell them apart by port or sectionName")
            });
        }
    }

    fn hostnames(&mut self, hostnames: &[String]) {
        for (i, h) in hostnames.iter().enumerate() {
            let plain = h.strip_prefix("*.").unwrap_or(h);
            let ip = h.parse::<std::net::IpAddr>().is_ok();
            self.check(is_name(plain) && !ip, &format!("spec.hostnames[{i}]"), || {
                (
                    format!("{h:?} is no host name"),
                    "write a lower-case DNS name, at most with *. in front; no address, no port",
                )
            });
        }
    }

    fn rule_names<'n>(&mut self, names: impl Iterator<Item = Option<&'n String>>) {
        let mut seen = BTreeSet::new();
        for (i, name) in names.enumerate() {
            let Some(name) = name else { continue };
            let field = format!("spec.rules[{i}].name");
            self.check(seen.insert(name), &field, || {
                (format!("{name:?} names another rule, too"), "give each rule a name of its own")
            });
            self.check(is_name(name), &field, || {
                (format!("{name:?} is no name"), "write lower-case letters, digits, - and .")
            });
        }
    }

    fn header_name(&mut self, field: &str, name: &str) {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        self.check(!name.is_empty() && name.len() <= 256 && name.bytes().all(token), field, || {
            (format!("{name:?} is no header name"), "write letters, digits and -, without colon or space")
        });
    }

    fn backend(&mut self, at: &str, b: &BackendObjectReference, weight: Option<u32>) {
        let service =
            b.group.as_deref().unwrap_or_default().is_empty() && b.kind.as_deref().unwrap_or("Service") == "Service";
        self.check(!b.name.is_empty(), &format!("{at}.name"), || ("is empty".into(), "name the Service"));
        self.check(!service || b.port.is_some(), &format!("{at}.port"), || {
            ("is missing".into(), "add the port of the Service")
        });
        self.check(b.port != Some(0), &format!("{at}.port"), || ("is 0".into(), "write a port from 1 to 65535"));
        self.check(weight.is_none_or(|w| w <= 1_000_000), &format!("{at}.weight"), || {
            ("is above 1000000".into(), "write at most 1000000")
        });
    }

    fn http_route(&mut self, r: &HTTPRoute) {
        self.parents(&r.spec.parent_refs);
        self.hostnames(&r.spec.hostnames);
        self.rule_names(r.spec.rules.iter().map(|r| r.name.as_ref()));
        self.check(r.spec.rules.len() <= 16, "spec.rules", || {
            ("has more than 16 rules".into(), "split the route: routes on one Service are merged")
        });
        for (i, rule) in r.spec.rules.iter().enumerate() {
            let at = format!("spec.rules[{i}]");
            self.check(rule.matches.len() <= 64, &format!("{at}.matches"), || {
                ("has more than 64 entries".into(), "split the rule")
            });
            for (j, m) in rule.matches.iter().enumerate() {
                let at = format!("{at}.matches[{j}]");
                if let Some(path) = &m.path {
                    let (value, kind) = (path.value.as_deref().unwrap_or("/"), path.r#type.as_ref());
                    let regex = kind == Some(&PathMatchType::RegularExpression);
                    let odd = ["//", "/./", "/../", "%2f", "%2F", "#"].iter().any(|p| value.contains(p))
                        || value.ends_with("/..")
                        || value.ends_with("/.");
                    let good = regex || (value.starts_with('/') && !odd);
                    self.check(good && value.len() <= 1024, &format!("{at}.path.value"), || {
                        (format!("{value:?} is no path"), "begin with / and leave out //, /./, /../, %2f and #")
                    });
                }
                for (k, h) in m.headers.iter().enumerate() {
                    self.header_name(&format!("{at}.headers[{k}].name"), &h.name);
                }
            }
            self.http_filters(
                &at,
                &rule.filters,
                rule.matches.iter().all(|m| {
                    m.path.as_ref().is_none_or(|p| p.r#type.as_ref().is_none_or(|t| *t == PathMatchType::PathPrefix))
                }),
            );
            let redirects = rule.filters.iter().any(|f| f.r#type == HTTPRouteFilterType::RequestRedirect);
            self.check(!redirects || rule.backend_refs.is_empty(), &format!("{at}.backendRefs"), || {
                ("stand beside a RequestRedirect, which answers itself".into(), "remove the backendRefs or the filter")
            });
            for (j, b) in rule.backend_refs.iter().enumerate() {
                let at = format!("{at}.backendRefs[{j}]");
                self.backend(&at, &b.object(), b.weight);
                self.http_filters(&at, &b.filters, true);
            }
            if let Some(t) = &rule.timeouts {
                let request = self.duration(&format!("{at}.timeouts.request"), t.request.as_ref());
                let backend = self.duration(&format!("{at}.timeouts.backendRequest"), t.backend_request.as_ref());
                if let (Some(r), Some(b)) = (request, backend) {
                    self.check(r.is_zero() || b <= r, &format!("{at}.timeouts.backendRequest"), || {
                        ("is longer than timeouts.request".into(), "make one try shorter than the whole")
                    });
                }
            }
            if let Some(retry) = &rule.retry {
                self.codes(&format!("{at}.retry.codes"), &retry.codes, 400..=599);
                self.duration(&format!("{at}.retry.backoff"), retry.backoff.as_ref());
            }
        }
    }

    fn codes(&mut self, at: &str, codes: &[u16], range: std::ops::RangeInclusive<u16>) {
        for (i, code) in codes.iter().enumerate() {
            let (low, high) = (range.start(), range.end());
            if !range.contains(code) {
                self.refuse(format!("{at}[{i}]"), format!("{code} is outside {low} to {high}"), "remove it");
            }
            if codes[..i].contains(code) {
                self.refuse(format!("{at}[{i}]"), format!("{code} stands twice"), "remove one");
            }
        }
    }

    fn http_filters(&mut self, at: &str, filters: &[HTTPRouteFilter], prefixes: bool) {
        use HTTPRouteFilterType as T;
        let mut seen = BTreeSet::new();
        for (i, f) in filters.iter().enumerate() {
            let at = format!("{at}.filters[{i}]");
            let (field, present) = match &f.r#type {
                T::RequestHeaderModifier => ("requestHeaderModifier", f.request_header_modifier.is_some()),
                T::ResponseHeaderModifier => ("responseHeaderModifier", f.response_header_modifier.is_some()),
                T::RequestMirror => ("requestMirror", f.request_mirror.is_some()),
                T::RequestRedirect => ("requestRedirect", f.request_redirect.is_some()),
                T::URLRewrite => ("urlRewrite", f.url_rewrite.is_some()),
                T::CORS => ("cors", f.cors.is_some()),
                T::ExternalAuth => ("externalAuth", f.external_auth.is_some()),
                T::ExtensionRef => ("extensionRef", f.extension_ref.is_some()),
                T::Unknown(_) => ("", true),
            };
            if !present {
                self.refuse(
                    format!("{at}.{field}"),
                    format!("is missing for a filter of type {}", f.r#type),
                    format!("add {field}"),
                );
            }
            let several = matches!(f.r#type, T::RequestMirror | T::ExtensionRef);
            self.check(seen.insert(&f.r#type) || several, &at, || {
                (format!("repeats the type {}", f.r#type), "join the two filters")
            });
            for (name, h) in [
                ("requestHeaderModifier", &f.request_header_modifier),
                ("responseHeaderModifier", &f.response_header_modifier),
            ] {
                self.header_filter(&format!("{at}.{name}"), h.as_ref());
            }
            self.mirror(&format!("{at}.requestMirror"), f.request_mirror.as_ref());
            if let Some(r) = &f.request_redirect {
                let code = r.status_code.unwrap_or(302);
                self.check(
                    [301, 302, 303, 307, 308].contains(&code),
                    &format!("{at}.requestRedirect.statusCode"),
                    || (format!("{code} is no redirect"), "write 301, 302, 303, 307 or 308"),
                );
                if let Some(RedirectScheme::Unknown(scheme)) = &r.scheme {
                    self.refuse(
                        format!("{at}.requestRedirect.scheme"),
                        format!("{scheme:?} is no scheme"),
                        "write http or https",
                    );
                }
                self.path_modifier(&format!("{at}.requestRedirect.path"), r.path.as_ref(), prefixes);
            }
            if let Some(r) = &f.url_rewrite {
                self.path_modifier(&format!("{at}.urlRewrite.path"), r.path.as_ref(), prefixes);
            }
        }
        self.check(
            !(seen.contains(&T::RequestRedirect) && seen.contains(&T::URLRewrite)),
            &format!("{at}.filters"),
            || {
                (
                    "hold a RequestRedirect and a URLRewrite".into(),
                    "a redirect has a path of its own: remove the rewrite",
                )
            },
        );
    }

    fn path_modifier(&mut self, at: &str, p: Option<&HTTPPathModifier>, prefixes: bool) {
        let Some(p) = p else { return };
        let (field, value) = match p.r#type {
            HTTPPathModifierType::ReplaceFullPath => ("replaceFullPath", &p.replace_full_path),
            HTTPPathModifierType::ReplacePrefixMatch => ("replacePrefixMatch", &p.replace_prefix_match),
            HTTPPathModifierType::Unknown(_) => return,
        };
        if value.is_none() {
            self.refuse(format!("{at}.{field}"), format!("is missing for type {}", p.r#type), format!("add {field}"));
        }
        self.check(p.r#type != HTTPPathModifierType::ReplacePrefixMatch || prefixes, at, || {
            (
                "ReplacePrefixMatch needs a prefix, but a match of the rule has none".into(),
                "match by PathPrefix, or use ReplaceFullPath",
            )
        });
    }

    fn header_filter(&mut self, at: &str, h: Option<&HTTPHeaderFilter>) {
        let Some(h) = h else { return };
        for (list, headers) in [("set", &h.set), ("add", &h.add)] {
            let mut seen = BTreeSet::new();
            for (i, header) in headers.iter().enumerate() {
                let field = format!("{at}.{list}[{i}].name");
                self.header_name(&field, &header.name);
                self.check(seen.insert(header.name.to_ascii_lowercase()), &field, || {
                    (format!("{} stands twice", header.name), "remove one")
                });
                let fine = header.value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f));
                self.check(fine, &format!("{at}.{list}[{i}].value"), || {
                    ("holds control characters".into(), "write one line of text")
                });
            }
        }
        for (i, name) in h.remove.iter().enumerate() {
            self.header_name(&format!("{at}.remove[{i}]"), name);
        }
    }

    fn mirror(&mut self, at: &str, m: Option<&HTTPRequestMirrorFilter>) {
        let Some(m) = m else { return };
        self.backend(&format!("{at}.backendRef"), &m.backend_ref, None);
        self.check(m.percent.is_none_or(|p| p <= 100), &format!("{at}.percent"), || {
            ("is above 100".into(), "write 0 to 100")
        });
        self.check(m.percent.is_none() || m.fraction.is_none(), at, || {
            ("has percent and fraction".into(), "remove one")
        });
        if let Some(f) = &m.fraction {
            let denominator = f.denominator.unwrap_or(100);
            self.check(denominator > 0 && f.numerator <= denominator, &format!("{at}.fraction"), || {
                (format!("{} of {denominator} is more than all", f.numerator), "make the numerator the smaller one")
            });
        }
    }

    fn grpc_route(&mut self, r: &GRPCRoute) {
        self.parents(&r.spec.parent_refs);
        self.hostnames(&r.spec.hostnames);
        self.rule_names(r.spec.rules.iter().map(|r| r.name.as_ref()));
        self.check(r.spec.rules.len() <= 16, "spec.rules", || {
            ("has more than 16 rules".into(), "split the route: routes on one Service are merged")
        });
        for (i, rule) in r.spec.rules.iter().enumerate() {
            let at = format!("spec.rules[{i}]");
            for (j, m) in rule.matches.iter().enumerate() {
                let at = format!("{at}.matches[{j}]");
                if let Some(method) = &m.method {
                    let exact = method.r#type.as_ref().is_none_or(|t| *t == MatchType::Exact);
                    let good = |s: Option<&String>, dot| {
                        s.is_none_or(|s| {
                            !s.is_empty()
                                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || (dot && b == b'.'))
                        })
                    };
                    self.check(method.service.is_some() || method.method.is_some(), &format!("{at}.method"), || {
                        ("has neither service nor method".into(), "add one, or remove the match")
                    });
                    self.check(!exact || good(method.service.as_ref(), true), &format!("{at}.method.service"), || {
                        ("is no gRPC service name".into(), "write package.Service, or type: RegularExpression")
                    });
                    self.check(!exact || good(method.method.as_ref(), false), &format!("{at}.method.method"), || {
                        ("is no gRPC method name".into(), "write the method's bare name, or type: RegularExpression")
                    });
                }
                for (k, h) in m.headers.iter().enumerate() {
                    self.header_name(&format!("{at}.headers[{k}].name"), &h.name);
                }
            }
            let lists = std::iter::once((at.clone(), &rule.filters)).chain(
                rule.backend_refs.iter().enumerate().map(|(j, b)| (format!("{at}.backendRefs[{j}]"), &b.filters)),
            );
            for (at, filters) in lists {
                for (j, f) in filters.iter().enumerate() {
                    use GRPCRouteFilterType as T;
                    let at = format!("{at}.filters[{j}]");
                    let (field, present) = match &f.r#type {
                        T::RequestHeaderModifier => ("requestHeaderModifier", f.request_header_modifier.is_some()),
                        T::ResponseHeaderModifier => ("responseHeaderModifier", f.response_header_modifier.is_some()),
                        T::RequestMirror => ("requestMirror", f.request_mirror.is_some()),
                        T::ExtensionRef => ("extensionRef", f.extension_ref.is_some()),
                        T::Unknown(_) => ("", true),
                    };
                    if !present {
                        self.refuse(
                            format!("{at}.{field}"),
                            format!("is missing for a filter of type {}", f.r#type),
                            format!("add {field}"),
                        );
                    }
                    for (name, h) in [
                        ("requestHeaderModifier", &f.request_header_modifier),
                        ("responseHeaderModifier", &f.response_header_modifier),
                    ] {
                        self.header_filter(&format!("{at}.{name}"), h.as_ref());
                    }
                    self.mirror(&format!("{at}.requestMirror"), f.request_mirror.as_ref());
                }
            }
            for (j, b) in rule.backend_refs.iter().enumerate() {
                self.backend(&format!("{at}.backendRefs[{j}]"), &b.object(), b.weight);
            }
        }
    }

    fn tls_route(&mut self, r: &TLSRoute) {
        self.parents(&r.spec.parent_refs);
        self.hostnames(&r.spec.hostnames);
        self.check(!r.spec.hostnames.is_empty(), "spec.hostnames", || {
            ("is empty".into(), "name the server names that the route is for")
        });
        self.stream_rules(&r.spec.rules);
    }
    fn stream_rules(&mut self, rules: &[weft_api::stream::StreamRouteRule]) {
        self.rule_names(rules.iter().map(|r| r.name.as_ref()));
        self.check(rules.len() == 1, "spec.rules", || (format!("has {} rules", rules.len()), "write exactly one rule"));
        for (i, rule) in rules.iter().enumerate() {
            self.check(!rule.backend_refs.is_empty(), &format!("spec.rules[{i}].backendRefs"), || {
                ("is empty".into(), "name a backend")
            });
            for (j, b) in rule.backend_refs.iter().enumerate() {
                self.backend(&format!("spec.rules[{i}].backendRefs[{j}]"), &b.object(), b.weight);
            }
        }
    }

    fn grant(&mut self, g: &ReferenceGrant) {
        self.check(!g.spec.from.is_empty(), "spec.from", || ("is empty".into(), "say who may refer"));
        self.check(!g.spec.to.is_empty(), "spec.to", || ("is empty".into(), "say what may be referred to"));
    }

    fn service(&mut self, s: &Service) {
        let spec = s.spec.clone().unwrap_or_default();
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let external = spec.type_.as_deref() == Some("ExternalName");
        for ip in spec
            .cluster_ip
            .iter()
            .chain(spec.cluster_ips.iter().flatten())
            .filter(|ip| !["", "None"].contains(&ip.as_str()))
        {
            self.check(ip.parse::<std::net::IpAddr>().is_ok(), "spec.clusterIP", || {
                (format!("{ip:?} is no IP address"), "write an address, None, or nothing")
            });
        }
        let ports = spec.ports.unwrap_or_default();
        self.check(!ports.is_empty() || headless || external, "spec.ports", || {
            ("is empty".into(), "add the ports that the Service has")
        });
        let mut seen = BTreeSet::new();
        for (i, p) in ports.iter().enumerate() {
            let at = format!("spec.ports[{i}]");
            self.check((1..=65_535).contains(&p.port), &format!("{at}.port"), || {
                (format!("{} is no port", p.port), "write 1 to 65535")
            });
            self.check(ports.len() == 1 || p.name.is_some(), &format!("{at}.name"), || {
                ("is missing".into(), "name the ports when there are several")
            });
            let key = (p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.port);
            self.check(seen.insert(key), &format!("{at}.port"), || (format!("{} stands twice", p.port), "remove one"));
        }
    }

    fn pod(&mut self, p: &Pod) {
        let status = p.status.as_ref();
        for ip in status.iter().flat_map(|s| s.pod_ip.iter().chain(s.pod_ips.iter().flatten().map(|i| &i.ip))) {
            self.check(ip.is_empty() || ip.parse::<std::net::IpAddr>().is_ok(), "status.podIP", || {
                (format!("{ip:?} is no IP address"), "write the address")
            });
        }
    }

    fn workloads(&mut self, targets: &[WorkloadTargetReference]) {
        self.targets(targets.len());
        for (i, t) in targets.iter().enumerate() {
            let at = format!("spec.targetRefs[{i}]");
            self.check(t.name.is_some() != t.selector.is_some(), &at, || {
                ("needs a name or a selector, not both".into(), "write one of them")
            });
            self.check(t.selector.is_none() || t.kind == "Pod", &format!("{at}.selector"), || {
                ("is only for kind Pod".into(), "name the target")
            });
        }
        let namespaces = targets.iter().filter(|t| t.kind == "Namespace").count();
        self.check(namespaces <= 1, "spec.targetRefs", || {
            (format!("has {namespaces} Namespaces"), "a policy can have the namespace that it is in, and no other")
        });
    }
    fn authorization(&mut self, p: &AuthorizationPolicy) {
        use AuthorizationSourceType as T;
        self.workloads(&p.spec.target_refs);
        for (i, rule) in p.spec.rules.iter().enumerate() {
            for (j, s) in rule.sources.iter().flatten().enumerate() {
                let at = format!("spec.rules[{i}].sources[{j}]");
                for (t, field, set) in [
                    (T::ServiceAccount, "serviceAccount", s.service_account.is_some()),
                    (T::SPIFFE, "spiffe", s.spiffe.is_some()),
                    (T::Namespace, "namespace", s.namespace.is_some()),
                ] {
                    self.check((s.r#type == t) == set, &format!("{at}.{field}"), || {
                        (
                            format!("is for type {t}, which needs it"),
                            "write the field that the type names, and no other",
                        )
                    });
                }
            }
            for (j, port) in rule.network_attributes.iter().flat_map(|n| &n.ports).enumerate() {
                self.check(*port != 0, &format!("spec.rules[{i}].networkAttributes.ports[{j}]"), || {
                    ("is 0".into(), "write a port from 1 to 65535")
                });
            }
            for (j, h) in rule.http.iter().flatten().enumerate() {
                let at = format!("spec.rules[{i}].http[{j}]");
                for (k, m) in h.methods.iter().enumerate() {
                    self.check(
                        !m.is_empty() && !m.bytes().any(|b| b.is_ascii_lowercase()),
                        &format!("{at}.methods[{k}]"),
                        || (format!("{m:?} is no method"), "write it in capitals"),
                    );
                }
                for (k, path) in h.paths.iter().enumerate() {
                    let good =
                        path.value.starts_with('/') && !path.value.contains(['?', '#']) && path.value.len() <= 1024;
                    self.check(good, &format!("{at}.paths[{k}].value"), || {
                        (format!("{:?} is no path", path.value), "begin with / and leave out the query")
                    });
                }
            }
        }
    }
    fn targets(&mut self, n: usize) {
        self.check((1..=16).contains(&n), "spec.targetRefs", || (format!("has {n} entries"), "write 1 to 16"));
    }

    fn traffic(&mut self, p: &TrafficPolicy) {
        self.targets(p.spec.target_refs.len());
        if let Some(t) = &p.spec.timeouts {
            self.duration("spec.timeouts.request", t.request.as_ref());
            self.duration("spec.timeouts.backendRequest", t.backend_request.as_ref());
        }
        if let Some(r) = &p.spec.retry {
            self.codes("spec.retry.codes", &r.codes, 400..=599);
            self.codes("spec.retry.grpcCodes", &r.grpc_codes, 1..=16);
            self.duration("spec.retry.backoff", r.backoff.as_ref());
        }
        self.constraint(p.spec.retry_constraint.as_ref());
        let s = &p.spec;
        let ejection = s.outlier_detection.as_ref().and_then(|o| o.base_ejection_time.as_ref());
        self.longer_than_nothing("spec.outlierDetection.baseEjectionTime", ejection);
        self.longer_than_nothing("spec.localRateLimit.interval", s.local_rate_limit.as_ref().map(|l| &l.interval));
    }
    fn longer_than_nothing(&mut self, field: &str, d: Option<&Duration>) {
        let nothing = self.duration(field, d).is_some_and(|d| d.is_zero());
        self.check(!nothing, field, || ("must be longer than 0s".into(), "write a longer one or leave it out"));
    }
    fn budget_policy(&mut self, p: &XBackendTrafficPolicy) {
        self.targets(p.spec.target_refs.len());
        self.constraint(p.spec.retry_constraint.as_ref());
    }
    fn constraint(&mut self, c: Option<&weft_api::experimental::RetryConstraint>) {
        let Some(c) = c else { return };
        if let Some(b) = &c.budget {
            self.check(b.percent.is_none_or(|p| p <= 100), "spec.retryConstraint.budget.percent", || {
                ("is above 100".into(), "write 0 to 100")
            });
            self.duration("spec.retryConstraint.budget.interval", b.interval.as_ref());
        }
        if let Some(r) = &c.min_retry_rate {
            self.duration("spec.retryConstraint.minRetryRate.interval", r.interval.as_ref());
        }
    }
}

/// A DNS-1123 subdomain.
fn is_name(s: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    s.len() <= 253
        && s.split('.').all(|label| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            label.bytes().all(inner) && edge(label.bytes().next()) && edge(label.bytes().last())
        })
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
