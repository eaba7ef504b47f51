//! Policies of GEP-713 in general, and BackendTLSPolicy.

use crate::{
    meta::Condition,
    shared::{LocalObjectReference, ParentReference},
};
use std::collections::BTreeMap;

shape! {
    pub struct LocalPolicyTargetReference {
        group: String,
        kind: String,
        name: String,
    }
}
shape! {
    pub struct LocalPolicyTargetReferenceWithSectionName {
        group: String,
        kind: String,
        name: String,
        /// A listener, a Service's port name or a rule's name, as the target's kind has it.
        section_name?: String,
    }
}
shape! {
    pub struct PolicyStatus {
        ancestors: Vec<PolicyAncestorStatus>,
    }
}
shape! {
    pub struct PolicyAncestorStatus {
        ancestor_ref: ParentReference,
        controller_name: String,
        conditions: Vec<Condition>,
    }
}

kind! {
    /// How TLS to a backend is verified (GEP-1897).
    BackendTLSPolicy, "gateway.networking.k8s.io", "v1", "backendtlspolicies", NamespaceResourceScope, BackendTLSPolicySpec, PolicyStatus
}
shape! {
    pub struct BackendTLSPolicySpec {
        target_refs: Vec<LocalPolicyTargetReferenceWithSectionName>,
        validation: BackendTLSPolicyValidation,
        options?: BTreeMap<String, String>,
    }
}
shape! {
    pub struct BackendTLSPolicyValidation {
        ca_certificate_refs*: LocalObjectReference,
        #[serde(rename = "wellKnownCACertificates")]
        well_known_ca_certificates?: WellKnownCACertificatesType,
        hostname: String,
        subject_alt_names*: SubjectAltName,
    }
}
words! { pub enum WellKnownCACertificatesType { System = "System" } }
shape! {
    pub struct SubjectAltName {
        r#type: SubjectAltNameType,
        hostname?: String,
        uri?: String,
    }
}
words! { pub enum SubjectAltNameType { Hostname = "Hostname", URI = "URI" } }
