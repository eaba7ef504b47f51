//! Kubernetes objects as text, as short as they can be said: one injected namespace `shop`, Services, pods.

use std::fmt::Write as _;

/// Builds YAML; every pod carries the label `app: <app>`, every Service selects by it.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    text: String,
    pods: u8,
    services: u8,
}

impl Objects {
    pub fn shop() -> Objects {
        Objects {
            text: "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {weft.dev/inject: enabled}}\n"
                .into(),
            ..Objects::default()
        }
    }
    /// `ports`: what follows `port:` of each, such as `80, name: http, targetPort: 8080`.
    pub fn service(mut self, name: &str, app: &str, ports: &[&str]) -> Self {
        self.services += 1;
        let ports: Vec<_> = ports.iter().map(|p| format!("{{port: {p}}}")).collect();
        let _ = write!(
            self.text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.96.2.{}, selector: {{app: {app}}}, ports: [{}]}}\n",
            self.services,
            ports.join(", ")
        );
        self
    }
    pub fn pod(self, name: &str, app: &str, ports: &[u16]) -> Self {
        self.any_pod(name, app, ports, "")
    }
    /// A pod without a sidecar.
    pub fn plain_pod(self, name: &str, app: &str, ports: &[u16]) -> Self {
        self.any_pod(name, app, ports, ", weft.dev/inject: disabled")
    }
    fn any_pod(mut self, name: &str, app: &str, ports: &[u16], label: &str) -> Self {
        self.pods += 1;
        let n = self.pods;
        let ports: Vec<_> = ports.iter().map(|p| format!("{{containerPort: {p}}}")).collect();
        let _ = write!(
            self.text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: 00000000-0000-4000-8000-0000000001{n:02}, labels: {{app: {app}{label}}}}}\nspec: {{serviceAccountName: {app}, containers: [{{name: app, image: app, ports: [{}]}}]}}\nstatus: {{phase: Running, podIP: 10.244.2.{n}, podIPs: [{{ip: 10.244.2.{n}}}], conditions: [{{type: Ready, status: \"True\"}}]}}\n",
            ports.join(", ")
        );
        self
    }
    /// Any other document.
    pub fn and(mut self, yaml: &str) -> Self {
        let _ = write!(self.text, "---\n{}\n", yaml.trim());
        self
    }
    /// An HTTPRoute on a Service, or with `name, port: n` on one of its ports; `rules` is a flow list.
    pub fn route(self, name: &str, parent: &str, rules: &str) -> Self {
        self.and(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{parentRefs: [{{group: \"\", kind: Service, name: {parent}}}], rules: {rules}}}"
        ))
    }
    /// A TrafficPolicy on a Service; `spec` is the inside of its spec.
    pub fn traffic(self, service: &str, spec: &str) -> Self {
        self.traffic_on(&format!("group: \"\", kind: Service, name: {service}"), spec)
    }
    /// The same on any target.
    pub fn traffic_on(self, target: &str, spec: &str) -> Self {
        self.and(&format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: traffic, namespace: shop}}\nspec: {{targetRefs: [{{{target}}}], {spec}}}"
        ))
    }
    pub fn tls(self, target: &str, mode: &str) -> Self {
        self.and(&format!(
            "apiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {{name: tls, namespace: shop}}\nspec: {{targetRefs: [{{{target}}}], mode: {mode}}}"
        ))
    }
    /// Without the pod of this name.
    pub fn without(&self, pod: &str) -> String {
        self.text.split("---\n").filter(|d| !is_pod(d, pod)).collect::<Vec<_>>().join("---\n")
    }
    /// With this pod there, but not ready.
    pub fn unready(&self, pod: &str) -> String {
        let one = |d: &str| if is_pod(d, pod) { d.replace("status: \"True\"", "status: \"False\"") } else { d.into() };
        self.text.split("---\n").map(one).collect::<Vec<_>>().join("---\n")
    }
    pub fn yaml(&self) -> &str {
        &self.text
    }
}

fn is_pod(document: &str, name: &str) -> bool {
    document.contains("kind: Pod\n") && document.contains(&format!("metadata: {{name: {name},"))
}
