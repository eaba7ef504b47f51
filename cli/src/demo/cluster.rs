//! The cluster that the demo stands in for: it gives Services their ClusterIPs and Deployments their pods, as an API server, a scheduler and a kubelet would,
//! and writes both back as YAML for the controller to read. Addresses are real cluster addresses; [`Workload`] knows which loopback addresses stand for them.

use super::stage::CONTROLLER_PORT;
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

/// Loopback blocks hold a workload each: 127.<network>.<n>.0/24 for n from 1.
const MAX_WORKLOADS: usize = 200;
/// Services that a workload may dial: one loopback address each, from .10 up.
const MAX_SERVICES: usize = 200;

/// A pod of the demo.
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub uid: String,
    /// Its address in the cluster.
    pub ip: Ipv4Addr,
    /// Of the demo it belongs to, see [`Cluster::network`].
    network: u8,
    /// Number of its loopback block.
    pub block: u8,
    pub ports: Vec<u16>,
    pub command: Vec<String>,
    pub meshed: bool,
}

impl Workload {
    fn local(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.network, self.block, host).into()
    }
    /// Where the application listens.
    pub fn app(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.local(1), unprivileged(port))
    }
    /// Where the sidecar takes what is meant for `ip:port`.
    pub fn inbound(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.local(2), unprivileged(port))
    }
    /// The sidecar's admin listener.
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.local(3), 15020)
    }
    /// Where the sidecar takes what this workload sends to a Service port.
    pub fn outbound(&self, service: &Service) -> SocketAddr {
        SocketAddr::new(self.local(service.slot), unprivileged(service.port))
    }
}

/// The first network in which nobody listens where the controller is going to.
fn free_network() -> anyhow::Result<u8> {
    let free = |n: &u8| TcpListener::bind((Ipv4Addr::new(127, *n, 0, 1), CONTROLLER_PORT)).is_ok();
    (88..=120)
        .find(free)
        .context("every loopback network from 127.88.0.0/16 to 127.120.0.0/16 is in use by other demos")
}

/// Ports below 1024 cannot be listened on without a capability: their stand-ins lie above.
fn unprivileged(port: u16) -> u16 {
    if port < 1024 { 30_000 + port } else { port }
}

/// A Service port.
#[derive(Clone, Debug)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    pub cluster_ip: Ipv4Addr,
    pub grpc: bool,
    slot: u8,
}

#[derive(Debug)]
pub struct Cluster {
    /// The second number of its loopback addresses: each demo on this machine has one of its own.
    pub network: u8,
    /// The copied folder that the controller reads and the keys edit.
    pub folder: PathBuf,
    pub workloads: Vec<Workload>,
    pub services: Vec<Service>,
}

impl Cluster {
    /// Copies `from` to `folder`, completed with addresses and pods.
    pub fn new(from: &Path, folder: &Path) -> anyhow::Result<Cluster> {
        fs::create_dir_all(folder)?;
        let mut files: Vec<PathBuf> = fs::read_dir(from)
            .with_context(|| format!("cannot read the folder {}", from.display()))?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"))
            .collect();
        files.sort();
        let mut cluster =
            Cluster { network: free_network()?, folder: folder.into(), workloads: Vec::new(), services: Vec::new() };
        let mut meshed = BTreeMap::new();
        let mut deployments = Vec::new();
        for file in &files {
            let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
            let mut copy = Vec::new();
            for document in documents(&text) {
                let object: Value = serde_saphyr::from_str(document).with_context(|| format!("{}", file.display()))?;
                match object["kind"].as_str() {
                    Some("Namespace") => {
                        let on = object["metadata"]["labels"]["weft.dev/inject"] == "enabled";
                        meshed.insert(text_of(&object["metadata"]["name"]), on);
                        copy.push(document.to_owned());
                    }
                    Some("Service") => copy.push(cluster.service(document, &object)?),
                    Some("Deployment") => {
                        deployments.push(object);
                        copy.push(document.to_owned());
                    }
                    _ => copy.push(document.to_owned()),
                }
            }
            fs::write(folder.join(file.file_name().unwrap_or_default()), format!("{}\n", copy.join("\n---\n")))?;
        }
        for d in &deployments {
            let on = meshed.get(&text_of(&d["metadata"]["namespace"])).copied().unwrap_or(false);
            cluster.pods(d, on)?;
        }
        if cluster.workloads.is_empty() {
            bail!("{} holds no Deployment: the demo has nothing to start", from.display());
        }
        cluster.write_pods(&deployments)?;
        Ok(cluster)
    }

    /// Gives a Service its ClusterIP; returns its text with it.
    fn service(&mut self, document: &str, object: &Value) -> anyhow::Result<String> {
        let n = self.services.len();
        if n >= MAX_SERVICES {
            bail!("more than {MAX_SERVICES} Service ports: the demo has no loopback addresses left");
        }
        let given = object["spec"]["clusterIP"].as_str();
        let cluster_ip = match given {
            Some(ip) => ip.parse().with_context(|| format!("spec.clusterIP {ip:?}"))?,
            None => Ipv4Addr::new(10, 96, 0, 10 + n as u8),
        };
        for port in object["spec"]["ports"].as_array().into_iter().flatten() {
            let slot = 10 + self.services.len() as u8;
            self.services.push(Service {
                namespace: text_of(&object["metadata"]["namespace"]),
                name: text_of(&object["metadata"]["name"]),
                port: port["port"].as_u64().and_then(|p| p.try_into().ok()).context("spec.ports[].port")?,
                cluster_ip,
                grpc: port["appProtocol"] == "kubernetes.io/h2c",
                slot,
            });
        }
        Ok(match given {
            Some(_) => document.to_owned(),
            None => document.replacen("\nspec:\n", &format!("\nspec:\n  clusterIP: {cluster_ip}\n"), 1),
        })
    }

    fn pods(&mut self, deployment: &Value, meshed: bool) -> anyhow::Result<()> {
        let (meta, spec) = (&deployment["metadata"], &deployment["spec"]["template"]["spec"]);
        let container = &spec["containers"][0];
        let words = |v: &Value| v.as_array().into_iter().flatten().map(text_of).collect::<Vec<_>>();
        let ports = container["ports"].as_array().into_iter().flatten();
        let ports: Vec<u16> = ports.filter_map(|p| p["containerPort"].as_u64()?.try_into().ok()).collect();
        let replicas = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        for replica in 0..replicas {
            let n = self.workloads.len();
            if n >= MAX_WORKLOADS {
                bail!("more than {MAX_WORKLOADS} pods: the demo has no loopback blocks left");
            }
            let block = n as u8 + 1;
            self.workloads.push(Workload {
                name: format!("{}-{replica}", text_of(&meta["name"])),
                namespace: text_of(&meta["namespace"]),
                service_account: spec["serviceAccountName"].as_str().unwrap_or("default").into(),
                uid: format!("00000000-0000-4000-8000-0000000000{block:02x}"),
                ip: Ipv4Addr::new(10, 244, 0, block),
                network: self.network,
                block,
                ports: ports.clone(),
                command: words(&container["command"]).into_iter().chain(words(&container["args"])).collect(),
                meshed,
            });
        }
        Ok(())
    }

    /// Writes the pods as a kubelet would report them.
    fn write_pods(&self, deployments: &[Value]) -> anyhow::Result<()> {
        let mut text = String::new();
        for w in &self.workloads {
            let template = deployments
                .iter()
                .find(|d| w.name.rsplit_once('-').is_some_and(|(n, _)| d["metadata"]["name"] == n))
                .map(|d| &d["spec"]["template"])
                .context("a pod without its Deployment")?;
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": w.name, "namespace": w.namespace, "uid": w.uid, "labels": template["metadata"]["labels"]},
                "spec": {"serviceAccountName": w.service_account, "containers": template["spec"]["containers"]},
                "status": {"phase": "Running", "podIP": w.ip.to_string(), "podIPs": [{"ip": w.ip.to_string()}],
                           "conditions": [{"type": "Ready", "status": "True"}]},
            });
            // JSON is YAML
            text.push_str(&format!("---\n{pod}\n"));
        }
        fs::write(self.folder.join("zz-pods.yaml"), text)?;
        Ok(())
    }

    pub fn workload(&self, prefix: &str) -> Option<&Workload> {
        self.workloads.iter().find(|w| w.name.starts_with(prefix))
    }
    pub fn service_named(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }
}

fn text_of(v: &Value) -> String {
    v.as_str().unwrap_or_default().into()
}

/// The documents of a YAML stream, as text, so that what the user wrote stays as it is.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix("---\n").unwrap_or(text);
    text.split("\n---\n")
        .map(|d| d.trim_end_matches('\n'))
        .filter(|d| d.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shop_gets_addresses_and_pods() {
        let dir = std::env::temp_dir().join(format!("weft-cluster-{}", std::process::id()));
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
        let c = Cluster::new(&shop, &dir).unwrap();
        assert!(c.workloads.iter().all(|w| w.meshed && w.namespace == "shop" && w.command[..2] == ["weft", "sample"]));
        let orders = c.service_named("orders").unwrap();
        let text = fs::read_to_string(dir.join("orders.yaml")).unwrap();
        assert!(text.contains(&format!("clusterIP: {}", orders.cluster_ip)), "{text}");
        let pods = fs::read_to_string(dir.join("zz-pods.yaml")).unwrap();
        assert_eq!(documents(&pods).count(), c.workloads.len());
        let mut addresses: Vec<_> = c.services.iter().map(|s| c.workloads[0].outbound(s)).collect();
        addresses.dedup();
        assert_eq!(addresses.len(), c.services.len());
        fs::remove_dir_all(dir).unwrap();
    }
}
