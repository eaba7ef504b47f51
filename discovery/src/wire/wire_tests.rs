//! Everything that core can say survives the wire.

use super::*;
use crate::resource::Version;
use proptest::{collection::vec, option, prelude::*, sample::select};
use std::time::Duration;
use weft_core::{
    authorization::Authorization,
    backend::{BackendPolicy, Balancing, ConnectionLimits, Outlier, RateLimit, RequestPolicy},
    cause::Invalid,
    endpoint::{Endpoint, Endpoints, MeshPeer},
    filter::{Cors, Filters, HeaderModifier, Mirror, PathModifier, Redirect, UrlRewrite},
    matches::{GrpcMatch, HttpMatch, NamedMatch, PathMatch, Pattern, ValueMatch},
    policy::{InboundPolicy, MeshTlsMode, Probe},
    retry::{RetryBudget, RetryPolicy, Timeouts},
    route::{BackendRef, HttpTable, RouteKind, RouteRef, Routes, Rule, RuleMatches, StreamRule, WeightedBackend},
    service::{Protocol, ServicePort, Target},
};

fn text() -> impl Strategy<Value = Box<str>> {
    "[ -~äß]{0,12}".prop_map(Into::into)
}
fn texts() -> impl Strategy<Value = Vec<Box<str>>> {
    vec(text(), 0..3)
}
fn service() -> impl Strategy<Value = ServiceRef> {
    ("[a-z]{1,8}", "[a-z]{1,8}", any::<u16>()).prop_map(|(ns, n, port)| ServiceRef {
        namespace: ns.into(),
        name: n.into(),
        port,
    })
}
fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(Into::into)
}
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let mesh = ("[a-f0-9-]{1,36}", "[a-z]{1,5}", "[a-z]{1,5}").prop_map(|(uid, ns, sa)| MeshPeer {
        uid: uid.into(),
        identity: weft_core::identity::WorkloadIdentity::new("mesh.test", &ns, &sa).unwrap(),
    });
    (address(), option::of(mesh), option::of(text()), any::<bool>(), text()).prop_map(
        |(address, mesh, zone, terminating, workload)| Endpoint {
            address,
            mesh,
            zone: zone.map(Into::into),
            terminating,
            workload: workload.into(),
        },
    )
}
fn endpoints() -> impl Strategy<Value = Endpoints> {
    (service(), vec(endpoint(), 0..4), any::<u32>(), any::<bool>(), any::<bool>(), policy()).prop_map(
        |(service, endpoints, not_ready, http2, prefer_zone, policy)| Endpoints {
            service,
            endpoints: endpoints.into_iter().map(Arc::new).collect(),
            not_ready,
            http2,
            prefer_zone,
            policy,
        },
    )
}
fn policy() -> impl Strategy<Value = BackendPolicy> {
    use Balancing::*;
    let budget =
        (any::<u32>(), duration(), any::<u32>(), duration()).prop_map(|(percent, interval, floor, floor_interval)| {
            RetryBudget { percent, interval, floor, floor_interval }
        });
    let outlier = (option::of(any::<u32>()), option::of(duration()), option::of(any::<u32>())).prop_map(
        |(consecutive_failures, base_ejection, max_percent)| Outlier {
            consecutive_failures,
            base_ejection,
            max_percent,
        },
    );
    let limits = (option::of(any::<u32>()), option::of(any::<u32>()), option::of(any::<u32>()))
        .prop_map(|(connections, requests, pending)| ConnectionLimits { connections, requests, pending });
    let rate = (1u32.., 1u64.., any::<u32>()).prop_map(|(requests, ns, burst)| RateLimit {
        requests,
        interval: Duration::from_nanos(ns),
        burst,
    });
    let affinity = option::of(any::<u32>().prop_map(|ms| Duration::from_millis(ms.into())));
    let balancing = select(&[LeastLatency, RoundRobin, Random][..]);
    (budget, outlier, balancing, limits, option::of(rate), affinity).prop_map(
        |(budget, outlier, balancing, limits, rate, affinity)| BackendPolicy {
            budget,
            outlier,
            balancing,
            limits,
            rate,
            affinity,
        },
    )
}
fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        service().prop_map(Target::Service),
        endpoint().prop_map(|e| Target::Workload(Arc::new(e))),
        Just(Target::Outside),
    ]
}
fn backend() -> impl Strategy<Value = BackendRef> {
    prop_oneof![
        service().prop_map(BackendRef::Service),
        (text(), 0..5u8).prop_map(|(d, k)| BackendRef::Invalid(match k {
            0 => Invalid::BackendNotFound(d),
            1 => Invalid::InvalidKind(d),
            2 => Invalid::RefNotPermitted(d),
            3 => Invalid::PortNotFound(d),
            _ => Invalid::Unsupported(d),
        })),
    ]
}
fn headers() -> impl Strategy<Value = HeaderModifier> {
    (vec((text(), text()), 0..3), vec((text(), text()), 0..3), texts()).prop_map(|(set, add, remove)| HeaderModifier {
        set,
        add,
        remove,
    })
}
fn path_modifier() -> impl Strategy<Value = PathModifier> {
    prop_oneof![text().prop_map(PathModifier::ReplaceFullPath), text().prop_map(PathModifier::ReplacePrefixMatch)]
}
fn filters() -> impl Strategy<Value = Filters> {
    let redirect =
        (option::of(text()), option::of(text()), option::of(path_modifier()), option::of(any::<u16>()), any::<u16>())
            .prop_map(|(scheme, hostname, path, port, status)| Redirect { scheme, hostname, path, port, status });
    let rewrite =
        (option::of(text()), option::of(path_modifier())).prop_map(|(hostname, path)| UrlRewrite { hostname, path });
    let mirror = (backend(), any::<u32>(), 1..=u32::MAX).prop_map(|(backend, numerator, denominator)| Mirror {
        backend,
        numerator,
        denominator,
    });
    let cors = (texts(), any::<bool>(), texts(), texts(), texts(), any::<u32>()).prop_map(
        |(allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age)| Cors {
            allow_origins,
            allow_credentials,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
        },
    );
    (
        option::of(headers()),
        option::of(headers()),
        option::of(redirect),
        option::of(rewrite),
        vec(mirror, 0..3),
        option::of(cors),
        option::of(text()),
    )
        .prop_map(|(request_headers, response_headers, redirect, rewrite, mirrors, cors, unsupported)| Filters {
            request_headers,
            response_headers,
            redirect,
            rewrite,
            mirrors,
            cors,
            unsupported,
        })
}
fn weighted() -> impl Strategy<Value = WeightedBackend> {
    (backend(), any::<u32>(), filters()).prop_map(|(backend, weight, filters)| WeightedBackend {
        backend,
        weight,
        filters,
    })
}
fn pattern() -> impl Strategy<Value = Pattern> {
    select(&["a+", "^(?:x)$", "(?i)b|c", ".*", "", "[0-9]{2,3}"][..])
        .prop_map(|s| Pattern::try_from(s.to_string()).unwrap())
}
fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![text().prop_map(ValueMatch::Exact), pattern().prop_map(ValueMatch::Regex)]
}
fn named() -> impl Strategy<Value = NamedMatch> {
    (text(), value()).prop_map(|(name, value)| NamedMatch { name, value })
}
fn matches() -> impl Strategy<Value = RuleMatches> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Regex)
    ];
    let http = (path, vec(named(), 0..3), vec(named(), 0..3), option::of(text()))
        .prop_map(|(path, headers, query, method)| HttpMatch { path, headers, query, method });
    let grpc = (option::of(value()), option::of(value()), vec(named(), 0..3))
        .prop_map(|(service, method, headers)| GrpcMatch { service, method, headers });
    prop_oneof![vec(http, 0..3).prop_map(RuleMatches::Http), vec(grpc, 0..3).prop_map(RuleMatches::Grpc)]
}
fn route() -> impl Strategy<Value = Arc<RouteRef>> {
    let kind = select(&[RouteKind::Http, RouteKind::Grpc, RouteKind::Tls, RouteKind::Tcp][..]);
    (kind, text(), text(), any::<i64>())
        .prop_map(|(kind, ns, n, created)| Arc::new(RouteRef { kind, namespace: ns.into(), name: n.into(), created }))
}
fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}
fn timeouts() -> impl Strategy<Value = Timeouts> {
    (option::of(duration()), option::of(duration()))
        .prop_map(|(request, backend_request)| Timeouts { request, backend_request })
}
fn retry() -> impl Strategy<Value = RetryPolicy> {
    (vec(any::<u16>(), 0..4), vec(any::<u16>(), 0..4), any::<u32>(), duration())
        .prop_map(|(codes, grpc_codes, attempts, backoff)| RetryPolicy { codes, grpc_codes, attempts, backoff })
}
fn rule() -> impl Strategy<Value = Rule> {
    (
        route(),
        any::<u32>(),
        option::of(text()),
        matches(),
        filters(),
        vec(weighted(), 0..3),
        timeouts(),
        option::of(retry()),
    )
        .prop_map(|(route, index, name, matches, filters, backends, timeouts, retry)| Rule {
            route,
            index,
            name: name.map(Into::into),
            matches,
            filters,
            backends,
            timeouts,
            retry,
        })
}
fn routes() -> impl Strategy<Value = Routes> {
    let stream = (route(), texts(), vec(weighted(), 0..3)).prop_map(|(route, hostnames, backends)| StreamRule {
        route,
        hostnames,
        backends,
    });
    prop_oneof![
        Just(Routes::None),
        vec(rule().prop_map(Arc::new), 0..4).prop_map(|r| Routes::Http(Arc::new(HttpTable::from(r)))),
        vec(stream, 0..4).prop_map(|r| Routes::Stream(Arc::new(r))),
    ]
}
fn service_port() -> impl Strategy<Value = ServicePort> {
    use Protocol::*;
    let protocol = select(&[Detect, Http, Http2, Tls, Opaque][..]);
    let affinity = option::of(any::<u32>().prop_map(|ms| Duration::from_millis(ms.into())));
    let requests = (timeouts(), option::of(retry())).prop_map(|(timeouts, retry)| RequestPolicy { timeouts, retry });
    (service(), protocol, routes(), affinity, vec(address(), 0..3), requests).prop_map(
        |(service, protocol, routes, affinity, addresses, requests)| ServicePort {
            service,
            protocol,
            routes,
            affinity,
            addresses,
            requests,
        },
    )
}
fn inbound() -> impl Strategy<Value = InboundPolicy> {
    let probe = (any::<u16>(), option::of(text())).prop_map(|(port, path)| Probe { port, path });
    (select(&[MeshTlsMode::Permissive, MeshTlsMode::Strict][..]), vec(probe, 0..3), authorization())
        .prop_map(|(tls, probes, authorization)| InboundPolicy { tls, probes, authorization })
}
fn authorization() -> impl Strategy<Value = Authorization> {
    use weft_core::authorization::*;
    let arc = || text().prop_map(Into::into);
    let source = prop_oneof![
        select(&["a/b", "shop/web"][..]).prop_map(|s| {
            let (ns, sa) = s.split_once('/').unwrap();
            Source::Identity(weft_core::identity::WorkloadIdentity::new("cluster.local", ns, sa).unwrap())
        }),
        (arc(), arc(), arc()).prop_map(|(trust_domain, namespace, name)| Source::ServiceAccount {
            trust_domain,
            namespace,
            name
        }),
        (arc(), arc()).prop_map(|(trust_domain, namespace)| Source::Namespace { trust_domain, namespace }),
        Just(Source::Unknown),
    ];
    let path = prop_oneof![text().prop_map(PathTerm::Exact), text().prop_map(PathTerm::Prefix)];
    let http = (texts(), vec(path, 0..3)).prop_map(|(methods, paths)| HttpRequests { methods, paths });
    let rule = (option::of(vec(source, 0..3)), vec(any::<u16>(), 0..3), option::of(vec(http, 0..3)))
        .prop_map(|(sources, ports, http)| Rule { sources, ports, http });
    let action = select(&[Action::Allow, Action::Deny][..]);
    let policy = (arc(), action, any::<bool>(), vec(rule, 0..3))
        .prop_map(|(name, action, dry_run, rules)| Arc::new(Policy { name, action, dry_run, rules }));
    vec(policy, 0..3).prop_map(Authorization)
}
fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        target().prop_map(Resource::Target),
        service_port().prop_map(|v| Resource::ServicePort(Arc::new(v))),
        endpoints().prop_map(|v| Resource::Endpoints(Arc::new(v))),
        inbound().prop_map(|v| Resource::Inbound(Arc::new(v))),
    ]
}
fn resource_name() -> impl Strategy<Value = ResourceName> {
    prop_oneof![
        address().prop_map(ResourceName::Address),
        service().prop_map(ResourceName::ServicePort),
        service().prop_map(ResourceName::Endpoints),
        Just(ResourceName::Inbound),
        Just(ResourceName::Bundle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn every_value_survives_the_wire(value in resource()) {
        let bytes = encode(&value);
        prop_assert_eq!(decode(&bytes).unwrap(), value.clone());
        // the same content has the same version wherever it is encoded
        prop_assert_eq!(Version::of(&encode(&value)), Version::of(&bytes));
    }
    #[test]
    fn every_name_survives_the_wire(value in resource_name()) {
        prop_assert_eq!(name(Some((&value).into())).unwrap(), value);
    }
    #[test]
    fn row_81_no_bytes_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }
    #[test]
    fn row_81_no_damage_panics(value in resource(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode(&value).to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..at]);
        }
    }
}

#[test]
fn a_bundle_survives_the_wire() {
    let mesh = weft_identity::testing::TestMesh::new("mesh.test");
    let value = Resource::Bundle(mesh.bundle());
    assert_eq!(decode(&encode(&value)).unwrap(), value);
}

/// What is refused, and what the proxy tells the controller about it.
#[test]
fn errors_name_the_field() {
    use proto::resource::Kind;
    let service = Some(proto::ServiceRef { namespace: "a".into(), name: "b".into(), port: 80 });
    let port = |routes| proto::ServicePort {
        service: service.clone(),
        protocol: 1,
        routes: Some(proto::service_port::Routes::Http(proto::HttpRoutes { rules: vec![routes] })),
        ..Default::default()
    };
    let route = Some(proto::RouteRef { kind: 1, ..Default::default() });
    let path = |kind| proto::PathMatch { kind: Some(kind) };
    let matching = |path| {
        let matches = vec![proto::HttpMatch { path: Some(path), ..Default::default() }];
        Some(proto::rule::Matches::Http(proto::HttpMatches { matches }))
    };
    let cases: Vec<(Kind, &str)> = vec![
        (Kind::Target(proto::Target::default()), "target is missing"),
        (Kind::ServicePort(proto::ServicePort::default()), "protocol of a Service port is missing"),
        (
            Kind::Endpoints(proto::Endpoints {
                service: Some(proto::ServiceRef { namespace: "a".into(), name: "b".into(), port: 70000 }),
                ..Default::default()
            }),
            "port of a Service: 70000 is out of range",
        ),
        (Kind::ServicePort(port(proto::Rule { route: None, ..Default::default() })), "matches of a rule is missing"),
        (
            Kind::ServicePort(port(proto::Rule {
                route: route.clone(),
                matches: matching(path(proto::path_match::Kind::Regex("(".into()))),
                ..Default::default()
            })),
            "regular expression: ",
        ),
        (Kind::Inbound(proto::InboundPolicy::default()), "TLS mode of the inbound policy is missing"),
        (
            Kind::Target(proto::Target {
                kind: Some(proto::target::Kind::Workload(proto::Endpoint {
                    address: Some(proto::SocketAddress { ip: vec![1, 2, 3], port: 1 }),
                    ..Default::default()
                })),
            }),
            "length of an IP address: 3 is out of range",
        ),
        (
            Kind::Bundle(proto::TrustBundle { trust_domain: "a".into(), ..Default::default() }),
            "bundle has no certificate",
        ),
    ];
    for (kind, expected) in cases {
        let bytes = proto::Resource { kind: Some(kind) }.encode_to_vec();
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    assert!(matches!(decode(&[]), Err(WireError::Missing("resource"))));
    assert!(matches!(decode(b"\xff\xff\xff"), Err(WireError::Protobuf(_))));
}

#[test]
fn a_table_of_five_thousand_rules_fits_into_a_message_and_keeps_its_expressions() {
    let rule = |n: u32| {
        let route =
            RouteRef { kind: RouteKind::Http, namespace: "shop".into(), name: format!("r{n}").into(), created: 0 };
        let path = match n % 5 {
            0 => PathMatch::Regex(Pattern::try_from(format!("/{n}/[a-z]+")).unwrap()),
            _ => PathMatch::Prefix(format!("/{n}").into()),
        };
        let backend = BackendRef::Service(ServiceRef { namespace: "shop".into(), name: "cart".into(), port: 80 });
        Arc::new(Rule {
            route: Arc::new(route),
            index: 0,
            name: None,
            matches: RuleMatches::Http(vec![HttpMatch { path, ..Default::default() }]),
            filters: Filters::default(),
            backends: vec![WeightedBackend { backend, weight: 1, filters: Filters::default() }],
            timeouts: Timeouts { request: Some(Duration::from_secs(1)), backend_request: None },
            retry: None,
        })
    };
    let port = ServicePort {
        service: ServiceRef { namespace: "shop".into(), name: "cart".into(), port: 80 },
        protocol: Protocol::Http,
        routes: Routes::Http(Arc::new(HttpTable::from((0..5000).map(rule).collect::<Vec<_>>()))),
        affinity: None,
        requests: Default::default(),
        addresses: vec![],
    };
    let value = Resource::ServicePort(Arc::new(port));
    let bytes = encode(&value);
    assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
    let first = decode(&bytes).unwrap();
    // the table before is still in use when the next one comes: its thousand expressions are not compiled again
    let second = decode(&bytes).unwrap();
    assert_eq!((&second, &first), (&first, &value));
    let patterns = |r: &Resource| -> Vec<Pattern> {
        let Resource::ServicePort(port) = r else { panic!() };
        let Routes::Http(table) = &port.routes else { panic!() };
        let all = table.rules.iter().filter_map(|r| match &r.matches {
            RuleMatches::Http(m) => match &m[0].path {
                PathMatch::Regex(p) => Some(p.clone()),
                _ => None,
            },
            RuleMatches::Grpc(_) => None,
        });
        all.collect()
    };
    let (first, second) = (patterns(&first), patterns(&second));
    assert_eq!(first.len(), 1000);
    assert!(first.iter().zip(&second).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0)));
}
