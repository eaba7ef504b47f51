//! Capture with the real rules: both backends, both families; the application dials a Service, a pod, itself, localhost, the proxy's own ports; nothing loops.

use weft_core::policy::{InboundPolicy, MeshTlsMode};
use weft_test_netns::{
    Lab,
    mesh::{APP_PORT, SERVICE_V4, SERVICE_V6, Sidecars},
};

#[test]
#[ignore = "needs root and network namespaces"]
fn row_55_services_pods_itself_and_localhost_on_both_backends_and_families() {
    for backend in ["nft", "legacy"] {
        let mut lab = Lab::new();
        let (client, server) = (lab.pod(), lab.pod());
        let sidecars = Sidecars::new();
        let _apps = [sidecars.app(&client), sidecars.app(&server)];
        let _a = sidecars.start(&client, backend, &[(&server, true)], InboundPolicy::default());
        let _b = sidecars.start(
            &server,
            backend,
            &[(&server, true)],
            InboundPolicy { tls: MeshTlsMode::Strict, ..Default::default() },
        );

        // a Service, and a pod's own address, through both sidecars: the server is strict, so an answer means mutual TLS
        for url in [
            format!("http://{SERVICE_V4}/"),
            format!("http://[{SERVICE_V6}]/"),
            format!("http://{}:{APP_PORT}/", server.v4),
            format!("http://[{}]:{APP_PORT}/", server.v6),
        ] {
            // pods that no Service names are unknown to a static configuration and would be dialled in plain text
            let body = client.get(&url).unwrap_or_else(|e| panic!("{backend} {url}: {e}"));
            assert!(body.starts_with(&server.ns), "{backend} {url}: {body}");
        }
        // itself, without the mesh: nothing is captured on lo
        let accepted = client.metric("weft_connections_accepted_total", "");
        for url in [
            format!("http://127.0.0.1:{APP_PORT}/"),
            format!("http://[::1]:{APP_PORT}/"),
            format!("http://{}:{APP_PORT}/", client.v4),
            format!("http://[{}]:{APP_PORT}/", client.v6),
        ] {
            assert!(client.get(&url).unwrap().starts_with(&client.ns), "{url}");
        }
        assert_eq!(
            client.metric("weft_connections_accepted_total", ""),
            accepted,
            "{backend}: what a pod says to itself is not captured"
        );
        // a Service that leads back to its own pod: through the sidecar, once
        for url in [format!("http://{SERVICE_V4}/"), format!("http://[{SERVICE_V6}]/")] {
            let before = server.metric("weft_connections_accepted_total", "outbound");
            assert!(server.get(&url).unwrap().starts_with(&server.ns), "{backend} {url}");
            assert_eq!(
                server.metric("weft_connections_accepted_total", "outbound"),
                before + 1.0,
                "{backend} {url}: captured once, no loop"
            );
        }
        // the proxy's own ports, dialled directly: refused, and the proxy lives
        for port in [15001, 15006] {
            assert!(client.get(&format!("http://127.0.0.1:{port}/")).is_err());
            assert!(client.get(&format!("http://{}:{port}/", client.v4)).is_err());
            assert!(client.get(&format!("http://{}:{port}/", server.v4)).is_err());
        }
        assert!(client.get(&format!("http://{SERVICE_V4}/")).is_ok());
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn row_48_strangers_reach_a_permissive_workload_and_not_a_strict_one() {
    let mut lab = Lab::new();
    let (stranger, permissive, strict) = (lab.pod(), lab.pod(), lab.pod());
    let sidecars = Sidecars::new();
    let _apps = [sidecars.app(&permissive), sidecars.app(&strict)];
    let _a = sidecars.start(&permissive, "nft", &[], InboundPolicy::default());
    let _b = sidecars.start(&strict, "nft", &[], InboundPolicy { tls: MeshTlsMode::Strict, ..Default::default() });
    assert!(stranger.get(&format!("http://{}:{APP_PORT}/", permissive.v4)).unwrap().starts_with(&permissive.ns));
    assert!(stranger.get(&format!("http://{}:{APP_PORT}/", strict.v4)).is_err());
    assert_eq!(strict.metric("weft_connections_refused_total", "strict_plain_text"), 1.0);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn between_meshed_pods_only_tls_is_on_the_wire_and_on_the_applications_port() {
    let mut lab = Lab::new();
    let (client, server) = (lab.pod(), lab.pod());
    let sidecars = Sidecars::new();
    let _apps = sidecars.app(&server);
    let _a = sidecars.start(&client, "nft", &[(&server, true)], InboundPolicy::default());
    let _b = sidecars.start(&server, "nft", &[], InboundPolicy::default());
    let capture = tempfile::NamedTempFile::new().unwrap();
    let mut dump = server
        .command("tcpdump")
        .args(["-i", "eth0", "-U", "-Z", "root", "-w"])
        .arg(capture.path())
        .args(["tcp"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // tcpdump says when it listens
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(dump.stderr.as_mut().unwrap()), &mut said).unwrap();
    for _ in 0..5 {
        client.get(&format!("http://{SERVICE_V4}/a-path-that-nobody-may-read")).unwrap();
    }
    let end = std::time::Instant::now() + weft_test_netns::mesh::LIMIT;
    let bytes = loop {
        let bytes = std::fs::read(capture.path()).unwrap();
        if bytes.len() > 4000 || std::time::Instant::now() > end {
            break bytes;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    dump.kill().unwrap();
    dump.wait().unwrap();
    let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    assert!(bytes.len() > 4000, "{} bytes were captured: {said}", bytes.len());
    assert!(!holds(b"a-path-that-nobody-may-read") && !holds(b"HTTP/1.1"), "plain text is on the wire");
    // a TLS handshake record with a ClientHello of TLS 1.2's outer version, as TLS 1.3 sends it
    assert!(holds(&[0x16, 0x03, 0x01]) || holds(&[0x16, 0x03, 0x03]), "no TLS handshake on the wire");
    let ports = server.command("tcpdump").args(["-nn", "-r"]).arg(capture.path()).output().unwrap();
    let ports = String::from_utf8_lossy(&ports.stdout).into_owned();
    assert!(
        ports.contains(&format!(".{APP_PORT}: ")) && !ports.contains(".15006"),
        "the application's own port is dialled: {ports}"
    );
}
