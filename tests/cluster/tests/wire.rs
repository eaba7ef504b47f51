//! What lies on the wire between two pods with sidecars: TLS 1.3 to the application's own port, and the identities of both sides.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::Value;
use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};
use weft_identity::{
    Bundle, WorkloadIdentity,
    provider::provider,
    verify::{Expect, Role, verify},
};
use weft_test_cluster::{
    Namespace, SOON,
    capture::{Capture, client_hello, tls13},
    eventually,
    mesh::{self, ENABLED, SYSTEM, Workload},
};

/// Looked for on the wire: part of the path and of the answer.
const MARK: &str = "may-be-read-by-nobody";

fn address(pod: &Pod) -> Ipv4Addr {
    pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[tokio::test]
#[ignore = "needs a cluster with the chart"]
async fn tls13_to_the_applications_port() {
    mesh::installed().await;
    let ns = Namespace::new("wire", &[ENABLED]).await;
    let web = Workload::sample("web", &[]).annotation("weft.dev/access-log", "stdout");
    let outside = serde_json::json!({"labels": {"weft.dev/inject": "disabled"}});
    let (client, plain, ()) =
        tokio::join!(ns.caller("client"), ns.caller_with("plain", outside, serde_json::json!({})), ns.start([web]));
    let server = ns.pods_of("web").await.remove(0);
    let url = ns.url("web", &format!("/{MARK}"));

    // by the Service's name, and by the pod's own address
    let capture = Capture::start(address(&ns.ready("client").await), address(&server));
    for url in [url.clone(), format!("http://{}:8080/{MARK}", address(&server))] {
        assert_eq!(client.count(&url, 20, "")[&200], 20);
    }
    let seen = capture.stop();
    assert!(!seen.is_empty(), "nothing was captured");
    for (ends, connection) in &seen {
        assert_eq!(ends.server.port(), 8080, "the application's own port, not the Service's and not the proxy's");
        assert_eq!(*ends.server.ip(), address(&server));
        let (sent, received) = (connection.sent(), connection.received());
        assert!(client_hello(&sent), "{ends:?}: {:?}", String::from_utf8_lossy(&sent[..sent.len().min(60)]));
        tls13(&received).unwrap_or_else(|e| panic!("{ends:?}: {e}"));
        for bytes in [&sent, &received] {
            assert!(!has(bytes, MARK) && !has(bytes, "HTTP/1.1"), "{ends:?}: plain text on the wire");
        }
        println!("{ends:?}: {} and {} bytes of TLS 1.3", sent.len(), received.len());
    }

    // the same capture does see what a client outside the mesh says
    let capture = Capture::start(address(&ns.ready("plain").await), address(&server));
    assert_eq!(plain.get(&url, "").status, 200);
    let seen = capture.stop();
    let (ends, connection) = seen.first_key_value().unwrap();
    assert_eq!(ends.server.port(), 8080);
    assert!(has(&connection.sent(), MARK) && tls13(&connection.received()).is_err());

    // who called, as the server's sidecar has verified it
    let pod = server.metadata.name.clone().unwrap();
    let peers = async || {
        let log = ns.logs(&pod, "weft-proxy").await;
        let lines = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let peers: Vec<Value> =
            lines.filter(|l| l["path"].as_str().is_some_and(|p| p.contains(MARK))).map(|l| l["peer"].clone()).collect();
        if peers.len() == 41 { Ok(peers) } else { Err(log) }
    };
    let peers = eventually("41 lines of access log", SOON, peers).await;
    let caller = format!("spiffe://cluster.local/ns/{}/sa/client", ns.name);
    assert_eq!(peers.iter().filter(|p| **p == caller).count(), 40, "{peers:?}");
    assert_eq!(peers.iter().filter(|p| p.is_null()).count(), 1, "plain text has no identity: {peers:?}");

    // and who answers
    let maps: Api<ConfigMap> = Api::namespaced(ns.client.clone(), SYSTEM);
    let pem = maps.get("weft-trust-bundle").await.unwrap().data.unwrap().remove("bundle.pem").unwrap();
    let bundle = Bundle::from_pem(&pem, None).unwrap();
    let answers = who_answers(address(&server), server.metadata.uid.as_deref().unwrap(), bundle).unwrap();
    assert_eq!(answers.to_string(), format!("spiffe://cluster.local/ns/{}/sa/web", ns.name));
}

/// A handshake as a sidecar begins it, without a certificate of its own: the server's comes before it asks for ours.
fn who_answers(pod: Ipv4Addr, uid: &str, bundle: Bundle) -> Result<WorkloadIdentity, String> {
    let verifier = Arc::new(Verifier { bundle, who: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"weft/h2".to_vec()];
    let mut socket = TcpStream::connect((pod, 8080)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut connection = ClientConnection::new(config.into(), ServerName::try_from(uid.to_owned()).unwrap()).unwrap();
    let ended = loop {
        match connection.complete_io(&mut socket) {
            // the server refuses us once it has seen that we have no certificate
            Err(e) => break e,
            Ok(_) if verifier.who.lock().unwrap().is_some() && !connection.wants_write() => {
                break io::Error::other("done");
            }
            Ok(_) => {}
        }
    };
    let who = verifier.who.lock().unwrap().take();
    who.unwrap_or_else(|| Err(format!("no certificate came: {ended}")))
}

/// The mesh's own verification; keeps whom it found.
#[derive(Debug)]
struct Verifier {
    bundle: Bundle,
    who: Mutex<Option<Result<WorkloadIdentity, String>>>,
}
impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = verify(&self.bundle, &provider(), leaf, intermediates, now, Role::Server, &Expect::Member);
        *self.who.lock().unwrap() = Some(found.map_err(|e| e.to_string()));
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was not offered".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
