//! AdmissionReview in, AdmissionReview out: a pure function that answers every input and never panics.

use crate::{
    inject::{self, Denial, Settings, Verdict},
    knobs::Annotations,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// What an answer was, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    Injected,
    Left,
    Nothing,
    Denied,
    NotReady,
}

/// A body that is no review at all: HTTP 400 with this text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadReview(pub String);

/// Annotations of a namespace, if it is known.
pub type Namespaces<'a> = dyn Fn(&str) -> Option<Annotations> + 'a;

/// Answers a review. `bundle`: the trust bundle in PEM; without one no pod can be meshed.
pub fn answer(
    body: &[u8],
    namespaces: &Namespaces<'_>,
    bundle: Option<&str>,
    settings: &Settings,
) -> Result<(Value, Outcome), BadReview> {
    let review: Value =
        serde_json::from_slice(body).map_err(|e| BadReview(format!("the body is no AdmissionReview: {e}")))?;
    if review["kind"] != "AdmissionReview" {
        return Err(BadReview("the body is no AdmissionReview: kind is another".into()));
    }
    let version = review["apiVersion"].as_str().unwrap_or_default();
    if version != "admission.k8s.io/v1" {
        let short: String = version.chars().take(60).collect();
        return Err(BadReview(format!("apiVersion {short:?} is not understood; admission.k8s.io/v1 is")));
    }
    let request = &review["request"];
    let Some(uid) = request["uid"].as_str().filter(|u| !u.is_empty()) else {
        return Err(BadReview("request.uid is missing".into()));
    };
    let (allowed, patch, warnings, outcome) = match judge(request, namespaces, settings) {
        Ok(Verdict::Inject { mut patch, warnings }) => match bundle {
            Some(bundle) => {
                inject::with_bundle(&mut patch, bundle);
                (Ok(()), patch, warnings, Outcome::Injected)
            }
            None => {
                let text =
                    "the mesh's trust bundle (ConfigMap weft-trust-bundle) is not there yet; is weft-ca running?";
                (Err((503, text.to_owned())), Vec::new(), warnings, Outcome::NotReady)
            }
        },
        Ok(Verdict::Leave { patch, warnings }) => (Ok(()), patch, warnings, Outcome::Left),
        Ok(Verdict::Nothing { warnings }) => (Ok(()), Vec::new(), warnings, Outcome::Nothing),
        Err(denial) => (Err((400, denial.to_string())), Vec::new(), Vec::new(), Outcome::Denied),
    };
    let mut response = json!({"uid": uid, "allowed": allowed.is_ok()});
    if let Err((code, text)) = allowed {
        response["status"] = json!({"code": code, "message": format!("weft: {text}")});
    }
    if !patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(Value::Array(patch).to_string()));
    }
    if !warnings.is_empty() {
        response["warnings"] = json!(warnings);
    }
    Ok((json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}), outcome))
}

fn judge(request: &Value, namespaces: &Namespaces<'_>, settings: &Settings) -> Result<Verdict, Denial> {
    let nothing = || Ok(Verdict::Nothing { warnings: Vec::new() });
    // only the creation of pods is asked for; whatever else comes by a wrong rule is none of our business
    if request["operation"] != "CREATE" || !request["subResource"].as_str().unwrap_or_default().is_empty() {
        return nothing();
    }
    if request["resource"]["resource"] != "pods"
        || !request["resource"]["group"].as_str().unwrap_or_default().is_empty()
    {
        return nothing();
    }
    let pod = &request["object"];
    if !pod.is_object() {
        return Err(Denial::NoPod("request.object is missing"));
    }
    let namespace = request["namespace"].as_str().or(pod["metadata"]["namespace"].as_str()).unwrap_or_default();
    inject::judge(pod, &namespaces(namespace).unwrap_or_default(), settings)
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
