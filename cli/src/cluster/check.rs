//! `weft check` on a cluster: before the install, whether it can work; after it, whether it does. Each line says what to do next.

use super::{
    Args as ClusterArgs, CONTROL_ADMIN, Cluster, PROXY_ADMIN, Problem, block_on, is_meshed, is_running, items, name,
    namespace, text,
};
use crate::metrics;
use anyhow::bail;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};
use weft_identity::{Bundle, BundleError, der};

/// The Gateway API that this version is built for.
const GATEWAY_API: (u32, u32) = (1, 7);
/// Oldest one whose route kinds are all in v1.
const GATEWAY_API_OLDEST: (u32, u32) = (1, 1);
/// Kubernetes with native sidecars on by default (KEP-753, beta).
const NATIVE_SIDECARS: u32 = 29;
const CONTROLLER: &str = "weft.dev/gateway-controller";
const DEPLOYMENTS: [&str; 3] = ["weft-ca", "weft-controller", "weft-injector"];
/// Leaves are backdated by a minute: clocks that are further apart break handshakes.
const SKEW: i64 = 60;
/// Names listed in one line.
const NAMED: usize = 5;
/// Days before an expiry is spoken of.
const DAYS: u64 = 30;

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Namespace of the control plane
    #[arg(long, default_value = "weft-system")]
    system_namespace: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}
#[derive(Clone, Debug, serde::Serialize)]
pub struct Line {
    level: Level,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}
#[derive(Default)]
pub struct Report(Vec<Line>);
impl Report {
    fn ok(&mut self, what: impl Into<String>) {
        self.0.push(Line { level: Level::Ok, what: what.into(), next: None });
    }
    fn warn(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.0.push(Line { level: Level::Warning, what: what.into(), next: Some(next.into()) });
    }
    fn error(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.0.push(Line { level: Level::Error, what: what.into(), next: Some(next.into()) });
    }
    /// What could not be looked at is no success.
    fn unseen(&mut self, what: &str, e: &Problem) {
        self.warn(format!("{what}: not checked: {e}"), "run this as somebody who may read it");
    }
    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|l| l.level == level).count()
    }
}

pub fn run(options: &Options, json: bool, strict: bool) -> anyhow::Result<()> {
    let report =
        block_on(async { Ok(of(&Cluster::connect(&options.cluster).await?, &options.system_namespace).await?) })?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report.0)?);
    } else {
        for l in &report.0 {
            let mark = match l.level {
                Level::Ok => "ok  ",
                Level::Warning => "WARN",
                Level::Error => "FAIL",
            };
            println!("{mark} {}", l.what);
            if let Some(next) = &l.next {
                println!("     next: {next}");
            }
        }
    }
    let (errors, warnings) = (report.count(Level::Error), report.count(Level::Warning));
    if errors > 0 || (strict && warnings > 0) {
        bail!("{errors} errors and {warnings} warnings");
    }
    Ok(())
}

/// `Err`: nothing can be checked.
pub async fn of(cluster: &Cluster, system: &str) -> Result<Report, Problem> {
    let mut r = Report::default();
    kubernetes(cluster, &mut r).await?;
    gateway_api(cluster, &mut r).await;
    socket_balancing(cluster, &mut r).await;
    let deployments = cluster.list(&format!("/apis/apps/v1/namespaces/{system}/deployments")).await;
    let installed = match deployments {
        Err(e) => {
            r.unseen(&format!("control plane in {system}"), &e);
            return Ok(r);
        }
        Ok(all) => all.into_iter().filter(|d| DEPLOYMENTS.contains(&name(d))).collect::<Vec<_>>(),
    };
    if installed.is_empty() {
        may_install(cluster, system, &mut r).await;
        r.warn(format!("weft is not installed in namespace {system}"), format!("helm install weft charts/weft --namespace {system} --create-namespace, then weft check again; --system-namespace if it is elsewhere"));
        return Ok(r);
    }
    control_plane(cluster, system, &installed, &mut r).await;
    trust(cluster, system, &mut r).await;
    webhook(cluster, system, &mut r).await;
    workloads(cluster, system, &mut r).await;
    routes(cluster, &mut r).await;
    Ok(r)
}

async fn kubernetes(cluster: &Cluster, r: &mut Report) -> Result<(), Problem> {
    let (version, ahead) = cluster.version().await?;
    let minor: u32 = text(&version, "/minor").trim_end_matches('+').parse().unwrap_or(0);
    let shown = text(&version, "/gitVersion");
    if minor >= NATIVE_SIDECARS {
        r.ok(format!("Kubernetes {shown}: native sidecars"));
    } else {
        r.warn(format!("Kubernetes {shown} has no native sidecars"), "the injector uses a classic container: Jobs do not end by themselves and init containers are outside the mesh. Upgrade to 1.29 or later");
    }
    match ahead {
        Some(s) if s.abs() > SKEW => {
            let which = if s > 0 { "ahead of" } else { "behind" };
            r.error(format!("the API server's clock is {} s {which} this machine's", s.abs()), "set the clocks (NTP): certificates look expired, or not valid yet, to whoever is off by more than a minute");
        }
        Some(s) => r.ok(format!("clock of the API server: {} s apart", s.abs())),
        None => {}
    }
    // kubelets renew a Lease every 10 s with their own clock: one from the future is of a clock that is ahead
    if let Ok(leases) = cluster.list("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases").await {
        let now = now() as i64 + ahead.unwrap_or(0);
        let apart = |l: &Value| rfc3339(text(l, "/spec/renewTime")).map(|t| t - now);
        let off: Vec<&str> = leases.iter().filter(|l| apart(l).is_some_and(|s| s > SKEW)).map(name).collect();
        if !off.is_empty() {
            r.error(format!("clocks of nodes are ahead: {}", some(&off)), "set the clocks of these nodes (NTP)");
        }
    }
    Ok(())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default()
}
fn rfc3339(text: &str) -> Option<i64> {
    text.parse::<k8s_openapi::jiff::Timestamp>().ok().map(|t| t.as_second())
}
fn some<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

async fn gateway_api(cluster: &Cluster, r: &mut Report) {
    let install = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.7.0/standard-install.yaml";
    let crds = match cluster.list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").await {
        Ok(crds) => crds,
        Err(e) => return r.unseen("Gateway API", &e),
    };
    let of_api: Vec<&Value> = crds.iter().filter(|c| text(c, "/spec/group") == "gateway.networking.k8s.io").collect();
    let missing: Vec<&str> = ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"]
        .into_iter()
        .filter(|kind| !of_api.iter().any(|c| text(c, "/spec/names/plural") == *kind))
        .collect();
    if !missing.is_empty() {
        return r.error(format!("Gateway API: no {}", missing.join(", ")), install);
    }
    let note =
        |c: &&Value, key: &str| text(c, &format!("/metadata/annotations/gateway.networking.k8s.io~1{key}")).to_owned();
    let versions: BTreeSet<String> = of_api.iter().map(|c| note(c, "bundle-version")).collect();
    let channels: BTreeSet<String> = of_api.iter().map(|c| note(c, "channel")).collect();
    let shown = versions.iter().cloned().collect::<Vec<_>>().join(", ");
    let channel = channels.iter().cloned().collect::<Vec<_>>().join(", ");
    let number = |v: &str| {
        let mut parts = v.trim_start_matches('v').split(['.', '-']);
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    };
    // what the schema says; the version and the channel where none is there to read
    let rule = "/schema/openAPIV3Schema/properties/spec/properties/rules/items/properties";
    let served = of_api.iter().filter(|c| text(c, "/spec/names/plural") == "httproutes");
    let fields: Vec<&Value> =
        served.flat_map(|c| items(&c["spec"]["versions"])).filter_map(|v| v.pointer(rule)).collect();
    let retries = |v| match fields.is_empty() {
        true => v >= GATEWAY_API || channel.contains("experimental"),
        false => fields.iter().any(|f| f.get("retry").is_some()),
    };
    match versions.iter().map(|v| number(v)).min().flatten() {
        _ if versions.len() > 1 => r.warn(
            format!("Gateway API: CRDs of several versions ({shown})"),
            "install all of one version: kinds of an older one lose fields silently",
        ),
        None => r.warn("Gateway API: CRDs without a version", install),
        Some(v) if v < GATEWAY_API_OLDEST => {
            r.error(format!("Gateway API {shown} is too old: GRPCRoute is not v1"), install)
        }
        Some(v) if !retries(v) => {
            r.warn(
                format!("Gateway API {shown}, {channel} channel: HTTPRoute has no retry"),
                format!("use TrafficPolicy for retries, or upgrade: {install}"),
            );
        }
        Some(_) => r.ok(format!("Gateway API {shown}, {channel} channel")),
    }
}

/// Balancing in the socket replaces a Service's address before the sidecar sees it: then no route applies.
async fn socket_balancing(cluster: &Cluster, r: &mut Report) {
    let Ok(Some(config)) = cluster.find("/api/v1/namespaces/kube-system/configmaps/cilium-config").await else {
        return;
    };
    let is = |key: &str, value: &str| config["data"][key] == value;
    let in_sockets =
        is("bpf-lb-sock", "true") || is("kube-proxy-replacement", "true") || is("kube-proxy-replacement", "strict");
    if !in_sockets {
        r.ok("Cilium does not balance in sockets");
    } else if is("bpf-lb-sock-hostns-only", "true") {
        r.ok("Cilium balances in sockets of the host only");
    } else {
        r.error("Cilium balances in the pods' sockets: sidecars see pod addresses instead of Services, and no route applies", "set socketLB.hostNamespaceOnly=true in Cilium's Helm values and restart its agents");
    }
}

async fn may_install(cluster: &Cluster, system: &str, r: &mut Report) {
    let mut denied = Vec::new();
    for (group, resource, namespace) in [
        ("", "namespaces", ""),
        ("", "secrets", system),
        ("", "serviceaccounts", system),
        ("", "services", system),
        ("apps", "deployments", system),
        ("rbac.authorization.k8s.io", "clusterroles", ""),
        ("rbac.authorization.k8s.io", "clusterrolebindings", ""),
        ("rbac.authorization.k8s.io", "roles", system),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", ""),
        ("apiextensions.k8s.io", "customresourcedefinitions", ""),
    ] {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
            "spec": {"resourceAttributes": {"verb": "create", "group": group, "resource": resource, "namespace": namespace}}});
        match cluster.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await {
            Ok(answer) if answer["status"]["allowed"] == true => {}
            Ok(_) => denied.push(resource),
            Err(e) => return r.unseen("permission to install", &e),
        }
    }
    match denied.is_empty() {
        true => r.ok("you may install"),
        false => r.error(format!("you may not create {}", denied.join(", ")), "install as a cluster administrator"),
    }
}

async fn control_plane(cluster: &Cluster, system: &str, deployments: &[Value], r: &mut Report) {
    for wanted in DEPLOYMENTS {
        let Some(d) = deployments.iter().find(|d| name(d) == wanted) else {
            r.error(format!("{wanted}: there is no Deployment"), "helm upgrade weft: the release is not whole");
            continue;
        };
        let count = |at: &str| d.pointer(at).and_then(Value::as_u64).unwrap_or(0);
        let (want, ready) = (count("/spec/replicas"), count("/status/readyReplicas"));
        if ready >= want && want > 0 {
            r.ok(format!("{wanted}: {ready} of {want} ready"));
            continue;
        }
        // the program itself says best what it waits for
        let pods = cluster.list(&format!("/api/v1/namespaces/{system}/pods")).await.unwrap_or_default();
        let mut why = Vec::new();
        for p in pods.iter().filter(|p| {
            text(p, "/metadata/labels/app.kubernetes.io~1name") == wanted || name(p).starts_with(&format!("{wanted}-"))
        }) {
            let waiting = items(&p["status"]["containerStatuses"])
                .map(|c| text(c, "/state/waiting/reason"))
                .find(|s| !s.is_empty());
            match waiting {
                Some(reason) => why.push(format!("{}: {reason}", name(p))),
                None => match cluster.of_pod(system, name(p), CONTROL_ADMIN, "/ready").await {
                    Ok((status, said)) if !status.is_success() => why.push(format!("{}: {}", name(p), said.trim())),
                    _ => {}
                },
            }
        }
        let why = if why.is_empty() { String::new() } else { format!(" ({})", some(&why)) };
        r.error(
            format!("{wanted}: {ready} of {want} ready{why}"),
            format!("kubectl -n {system} describe deploy/{wanted}; kubectl -n {system} logs deploy/{wanted}"),
        );
    }
}

/// What expires, and when: PEM with any number of certificates.
fn expiry(pem: &str) -> Result<u64, String> {
    // plain PEM names no trust domain; a bundle names its own
    let bundle = match Bundle::from_pem(pem, Some("cluster.local")) {
        Err(BundleError::WrongTrustDomain { .. }) => Bundle::from_pem(pem, None),
        read => read,
    };
    let bundle = bundle.map_err(|e| e.to_string())?;
    let ends = bundle.roots().iter().map(|c| der::facts(c).map(|f| f.not_after.as_secs()).map_err(|e| e.to_string()));
    ends.collect::<Result<Vec<_>, _>>()?.into_iter().min().ok_or_else(|| "no certificate".into())
}
fn lasts(r: &mut Report, what: &str, until: u64, next: &str) {
    match until.checked_sub(now()) {
        None => r.error(format!("{what} has expired"), next),
        Some(left) if left < DAYS * 86_400 => r.warn(format!("{what} expires in {} days", left / 86_400), next),
        Some(left) => r.ok(format!("{what}: {} days left", left / 86_400)),
    }
}

async fn trust(cluster: &Cluster, system: &str, r: &mut Report) {
    let next = "weft-ca rotate root --kubernetes (docs/ca.md)";
    match cluster.find(&format!("/api/v1/namespaces/{system}/configmaps/weft-trust-bundle")).await {
        Err(e) => r.unseen("trust bundle", &e),
        Ok(None) => r.error(
            "there is no trust bundle (ConfigMap weft-trust-bundle)",
            format!("weft-ca publishes it: kubectl -n {system} logs deploy/weft-ca"),
        ),
        Ok(Some(map)) => match expiry(text(&map, "/data/bundle.pem")) {
            Ok(until) => lasts(r, "root of the trust bundle", until, next),
            Err(e) => r.error(
                format!("the trust bundle is not usable: {e}"),
                format!("weft-ca puts it right within seconds if it runs: kubectl -n {system} logs deploy/weft-ca"),
            ),
        },
    }
    // of the CA itself: the issuer, and whether it signs
    let Ok(pods) = cluster.list(&format!("/api/v1/namespaces/{system}/pods")).await else { return };
    for p in pods.iter().filter(|p| name(p).starts_with("weft-ca-") && is_running(p)) {
        let Ok((status, said)) = cluster.of_pod(system, name(p), CONTROL_ADMIN, "/metrics").await else { continue };
        if !status.is_success() {
            continue;
        }
        let samples = metrics::parse(&said);
        let value = |n: &str| samples.iter().find(|s| s.name == n).map(|s| s.value);
        if value("weft_ca_signing") == Some(0.0) {
            let why = cluster.of_pod(system, name(p), CONTROL_ADMIN, "/ready").await.map(|a| a.1).unwrap_or_default();
            r.error(format!("{} {}", name(p), why.trim()), "docs/ca.md, \"Replicas\": restore the Secret weft-ca");
        }
        if value("weft_ca_token_review_up") == Some(0.0) {
            r.error(
                format!("{}: the API server does not answer its TokenReviews", name(p)),
                format!("kubectl -n {system} logs {}", name(p)),
            );
        }
        let issuers =
            samples.iter().filter(|s| s.name == "weft_ca_issuer_not_after_seconds" && s.label("signing") == "true");
        if let Some(until) = issuers.map(|s| s.value as u64).min() {
            lasts(r, &format!("issuer of {}", name(p)), until, "weft-ca rotate issuer --kubernetes");
        }
        if let (Some(confirmed), Some(expected)) =
            (value("weft_ca_rotation_confirmed"), value("weft_ca_rotation_expected"))
        {
            r.warn(
                format!("{}: a rotation of the root is under way, {confirmed} of {expected} have confirmed", name(p)),
                "it goes on by itself when all have; pods below that are not ready hold it",
            );
        }
    }
}

async fn webhook(cluster: &Cluster, system: &str, r: &mut Report) {
    let at = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";
    let config = match cluster.find(at).await {
        Err(e) => return r.unseen("webhook", &e),
        Ok(None) => {
            return r.error(
                "there is no MutatingWebhookConfiguration weft-injector: nothing is injected",
                "helm upgrade weft",
            );
        }
        Ok(Some(c)) => c,
    };
    let logs = format!("kubectl -n {system} logs deploy/weft-injector");
    let bundle = |w: &Value| {
        use k8s_openapi::ByteString;
        serde_json::from_value::<ByteString>(w["clientConfig"]["caBundle"].clone())
            .ok()
            .and_then(|b| String::from_utf8(b.0).ok())
            .filter(|pem| !pem.is_empty())
    };
    let bundles: Vec<Option<String>> = items(&config["webhooks"]).map(bundle).collect();
    match bundles.iter().map(|b| b.as_deref().map(expiry)).collect::<Option<Result<Vec<_>, _>>>() {
        None => r.error(
            "the webhook has no caBundle: pods of labelled namespaces are refused",
            format!("weft-injector writes it: {logs}"),
        ),
        Some(Err(e)) => r.error(
            format!("the webhook's caBundle is not usable: {e}"),
            format!("weft-injector puts it right: {logs}"),
        ),
        Some(Ok(ends)) => lasts(r, "the webhook's caBundle", ends.into_iter().min().unwrap_or(0), &logs),
    }
    // asked as the API server asks it: a pod that is not kept
    let Ok(namespaces) = cluster.list("/api/v1/namespaces").await else { return };
    // one that is being deleted takes no pods
    let usable = |n: &&Value| {
        text(n, "/metadata/labels/weft.dev~1inject") == "enabled" && n["metadata"]["deletionTimestamp"].is_null()
    };
    let Some(ns) = namespaces.iter().find(usable).map(name) else {
        return r.warn(
            "no namespace is labelled: nothing is meshed",
            "kubectl label namespace NAME weft.dev/inject=enabled, then restart its workloads",
        );
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "weft-check-", "namespace": ns},
        "spec": {"containers": [{"name": "app", "image": "weft.dev/check"}]}});
    match cluster.create(&format!("/api/v1/namespaces/{ns}/pods?dryRun=All"), &pod).await {
        Ok(made) if is_meshed(&made) => r.ok(format!("a pod made in {ns} gets a sidecar (dry run)")),
        Ok(_) => r.error(
            format!("a pod made in {ns} gets no sidecar (dry run)"),
            format!("kubectl get mutatingwebhookconfiguration weft-injector -o yaml; {logs}"),
        ),
        Err(e @ Problem::Forbidden(_)) => r.unseen(&format!("whether a pod made in {ns} gets a sidecar"), &e),
        Err(e) => r.error(
            format!("a pod cannot be made in {ns} (dry run): {e}"),
            format!("can the API server reach weft-injector? {logs}"),
        ),
    }
}

async fn workloads(cluster: &Cluster, system: &str, r: &mut Report) {
    let (namespaces, pods) = match (cluster.list("/api/v1/namespaces").await, cluster.list("/api/v1/pods").await) {
        (Ok(n), Ok(p)) => (n, p),
        (Err(e), _) | (_, Err(e)) => return r.unseen("workloads", &e),
    };
    let label = |o: &Value| text(o, "/metadata/labels/weft.dev~1inject").to_owned();
    let labels: BTreeMap<&str, String> = namespaces.iter().map(|n| (name(n), label(n))).collect();
    let should = |p: &Value| {
        let of_namespace = labels.get(namespace(p)).map(String::as_str).unwrap_or_default();
        let (own, host) = (label(p), p["spec"]["hostNetwork"] == true);
        let wanted =
            if of_namespace == "enabled" { own != "disabled" } else { of_namespace != "disabled" && own == "enabled" };
        wanted && !host && namespace(p) != system
    };
    let at = |p: &Value| format!("{}/{}", namespace(p), name(p));
    let running: Vec<&Value> = pods.iter().filter(|p| is_running(p)).collect();
    let bare: Vec<String> = running.iter().filter(|p| should(p) && !is_meshed(p)).map(|p| at(p)).collect();
    let meshed: Vec<&&Value> = running.iter().filter(|p| is_meshed(p)).collect();
    if !bare.is_empty() {
        r.warn(
            format!("labelled, but without a sidecar: {}", some(&bare)),
            "they are older than the label: kubectl rollout restart their workloads",
        );
    }
    let proxy_ready = |p: &Value| {
        let all = items(&p["status"]["initContainerStatuses"]).chain(items(&p["status"]["containerStatuses"]));
        all.into_iter().any(|c| c["name"] == "weft-proxy" && c["ready"] == true)
    };
    let unready: Vec<&&&Value> = meshed.iter().filter(|p| !proxy_ready(p)).collect();
    if let Some(first) = unready.first() {
        let said = cluster.of_pod(namespace(first), name(first), PROXY_ADMIN, "/ready").await;
        let why = said.map(|(_, text)| format!(": the first says {:?}", text.trim())).unwrap_or_default();
        let names: Vec<String> = unready.iter().map(|p| at(p)).collect();
        r.error(
            format!("sidecars that are not ready: {}{why}", some(&names)),
            format!("kubectl -n {} logs {} -c weft-proxy", namespace(first), name(first)),
        );
    }
    let version = env!("CARGO_PKG_VERSION");
    let other = |p: &Value| {
        let v = text(p, "/metadata/annotations/weft.dev~1injected");
        !v.is_empty() && v != version
    };
    let old: Vec<String> = meshed.iter().filter(|p| other(p)).map(|p| at(p)).collect();
    if !old.is_empty() {
        r.warn(
            format!("sidecars of another version than {version}: {}", some(&old)),
            "kubectl rollout restart their workloads",
        );
    }
    if bare.is_empty() && unready.is_empty() && !meshed.is_empty() {
        r.ok(format!("{} pods are meshed, their sidecars ready", meshed.len()));
    }
}

async fn routes(cluster: &Cluster, r: &mut Report) {
    let (mut good, mut silent) = (0, Vec::new());
    for (kind, path) in [
        ("HTTPRoute", "/apis/gateway.networking.k8s.io/v1/httproutes"),
        ("GRPCRoute", "/apis/gateway.networking.k8s.io/v1/grpcroutes"),
        ("TLSRoute", "/apis/gateway.networking.k8s.io/v1/tlsroutes"),
        ("TLSRoute", "/apis/gateway.networking.k8s.io/v1alpha2/tlsroutes"),
        ("TCPRoute", "/apis/gateway.networking.k8s.io/v1alpha2/tcproutes"),
        ("TrafficPolicy", "/apis/weft.dev/v1alpha1/trafficpolicies"),
        ("MeshTLSPolicy", "/apis/weft.dev/v1alpha1/meshtlspolicies"),
        ("AuthorizationPolicy", "/apis/weft.dev/v1alpha1/authorizationpolicies"),
    ] {
        let all = match cluster.list(path).await {
            Ok(all) => all,
            Err(e) => {
                r.unseen(kind, &e);
                continue;
            }
        };
        for o in &all {
            let list = if path.contains("weft.dev") { "ancestors" } else { "parents" };
            let ours: Vec<&Value> = items(&o["status"][list]).filter(|p| p["controllerName"] == CONTROLLER).collect();
            let bad: Vec<String> =
                ours.iter().flat_map(|p| items(&p["conditions"])).filter(|c| is_bad(c)).map(said).collect();
            let to_service = items(&o["spec"]["parentRefs"]).any(|p| p["kind"] == "Service") || list == "ancestors";
            let shown = format!("{kind} {}/{}", namespace(o), name(o));
            if !bad.is_empty() {
                r.warn(
                    format!("{shown}: {}", bad.join("; ")),
                    "change what the message names; kubectl describe shows all of the status",
                );
            } else if ours.is_empty() && to_service {
                silent.push(shown);
            } else if !ours.is_empty() {
                good += 1;
            }
        }
    }
    if !silent.is_empty() {
        r.warn(
            format!("not judged by the controller: {}", some(&silent)),
            "its status is written by one replica: kubectl -n weft-system logs deploy/weft-controller",
        );
    }
    if good > 0 {
        r.ok(format!("{good} routes and policies in force"));
    }
}
fn is_bad(c: &Value) -> bool {
    let (kind, status) = (text(c, "/type"), text(c, "/status"));
    match kind {
        "Accepted" | "ResolvedRefs" | "Programmed" => status != "True",
        "PartiallyInvalid" | "Conflicted" => status == "True",
        _ => false,
    }
}
fn said(c: &Value) -> String {
    format!("{}={} {}: {}", text(c, "/type"), text(c, "/status"), text(c, "/reason"), text(c, "/message"))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
