//! Which AuthorizationPolicy lets a call in, or does not.

use super::ask::{Asked, Head, Question};
use crate::{convert::authorization, facts::PodFacts, index::Index};
use weft_core::{
    authorization::{Action, Call, Policy, Request, Verdict},
    matches::RequestHead as _,
    path::RequestPath,
    route::Routes,
    service::{Protocol, ServicePort},
};

/// What a workload's policies say of the call; `None`: it has none.
pub(super) fn line(
    index: &Index,
    asked: &Asked,
    question: &Question,
    through: &ServicePort,
    pod: &PodFacts,
    port: u16,
) -> Option<String> {
    let policies = authorization::authorization(index, pod);
    if policies.is_empty() {
        return None;
    }
    let who = format!("{}/{}", pod.name.namespace, pod.service_account);
    let peer = asked.pod.as_ref().filter(|p| index.meshed(p)).and_then(|p| index.identity(p));
    if peer.is_none() && asked.pod.is_none() {
        return Some(format!(
            "{who}: who may call is decided by {}; name the calling pod to see how",
            policies.0.iter().map(|p| p.name.to_string()).collect::<Vec<_>>().join(", ")
        ));
    }
    let head = Head::of(question, through);
    let bytes = matches!(through.routes, Routes::Stream(_))
        || matches!((&through.routes, through.protocol), (Routes::None, Protocol::Opaque | Protocol::Tls));
    let path = RequestPath::parse(head.target.as_bytes()).ok()?;
    let request = (!bytes).then(|| Request { method: head.method(), path: &path });
    let verdict = policies.judge(&Call { peer: peer.as_ref(), port, request });
    let caller = peer.as_ref().map_or_else(|| "a caller in plain text".to_owned(), ToString::to_string);
    Some(format!("{who}: {caller} is {}", words(&verdict, bytes)))
}

fn words(v: &Verdict<'_>, bytes: bool) -> String {
    let name = |p: &Policy| format!("AuthorizationPolicy {}", p.name);
    let mut text = match (v.denied, v.allowed) {
        (Some(p), _) => {
            let how = if bytes { "the connection is reset" } else { "403, or gRPC PERMISSION_DENIED (7)" };
            let why = match p.action {
                Action::Deny => format!("denied by a rule of {}", name(p)),
                Action::Allow => format!("denied: no rule of {} or another Allow policy takes the call", name(p)),
            };
            format!("{why}: {how}")
        }
        (None, Some(p)) => format!("allowed by a rule of {}", name(p)),
        (None, None) => "allowed: there are no Allow policies, and no Deny policy takes the call".to_owned(),
    };
    if let Some(p) = v.dry_run {
        text.push_str(&format!("; {} (DryRun) would deny it", name(p)));
    }
    text
}
