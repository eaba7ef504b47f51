use super::*;
use clap::Parser as _;
use serde_json::json;
use weft_ca::testing::FakeApi;

fn args(words: &[&str]) -> Args {
    Args::parse_from([&["stat"], words].concat())
}
fn pod(api: &FakeApi, ns: &str, name: &str, meshed: bool) {
    let sidecar = if meshed { json!([{"name": "weft-proxy"}]) } else { json!([]) };
    api.put(
        &format!("/api/v1/namespaces/{ns}/pods/{name}"),
        json!({"metadata": {"name": name, "namespace": ns}, "spec": {"initContainers": sidecar}, "status": {"phase": "Running"}}),
    );
}
fn counts(api: &FakeApi, ns: &str, name: &str, good: u32, bad: u32) {
    let l = "parent=\"shop/orders:80\",kind=\"HTTPRoute\",route=\"shop/r\",rule=\"0\",backend=\"shop/orders:80\"";
    let total = good + bad;
    let text = format!(
        "weft_requests_total{{{l},success=\"true\"}} {good}\nweft_requests_total{{{l},success=\"false\"}} {bad}\n\
         weft_attempts_total{{{l},success=\"true\"}} {good}\nweft_attempts_total{{{l},success=\"false\"}} {}\nweft_retries_total{{{l}}} {bad}\n\
         weft_timeouts_total{{{l},timeout=\"request\"}} {bad}\n\
         weft_request_duration_seconds_bucket{{{l},le=\"0.004\"}} {total}\nweft_request_duration_seconds_bucket{{{l},le=\"+Inf\"}} {total}\n",
        bad * 2
    );
    api.put_raw(&format!("/api/v1/namespaces/{ns}/pods/{name}:15020/proxy/metrics"), &text);
}
fn shop() -> FakeApi {
    let api = FakeApi::default();
    for (ns, name, meshed) in
        [("shop", "orders-1", true), ("shop", "orders-2", false), ("web", "front-1", true), ("web", "plain-1", false)]
    {
        pod(&api, ns, name, meshed);
    }
    let endpoints: Vec<Value> =
        ["orders-1", "orders-2"].map(|n| json!({"targetRef": {"kind": "Pod", "name": n}})).into();
    api.put(
        "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/orders-x",
        json!({"metadata": {"name": "orders-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "orders"}}, "endpoints": endpoints}),
    );
    counts(&api, "shop", "orders-1", 0, 0);
    counts(&api, "web", "front-1", 80, 20);
    api
}

#[tokio::test]
async fn totals_of_all_sidecars() {
    let api = shop();
    let s = of(&Cluster::new(api.client()), &args(&["--total"])).await.unwrap();
    assert_eq!((s.sidecars, s.silent.len(), s.lines.len()), (2, 0, 1));
    let l = &s.lines[0];
    assert_eq!(
        (l.row.requests_per_second, l.row.success, l.row.attempt_success),
        (100.0, Some(0.8), Some(80.0 / 120.0))
    );
    assert_eq!((l.mtls_endpoints, l.endpoints), (1, 2));
    let t = table(&s);
    assert!(t.contains("REQUESTS") && t.contains("shop/r") && t.contains("80.00%") && t.contains("1/2"), "{t}");
    assert!(t.contains("2 of 2 sidecars, since their start"), "{t}");
    let json = serde_json::to_value(&s).unwrap();
    assert_eq!(json["lines"][0]["parent"], "shop/orders:80");
}

#[tokio::test(start_paused = true)]
async fn rates_between_two_looks_and_sidecars_that_do_not_answer() {
    let api = shop();
    pod(&api, "web", "late-1", true);
    let (cluster, asked) = (Cluster::new(api.client()), args(&["--over", "10", "-n", "web"]));
    let between = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        counts(&api, "web", "front-1", 180, 20);
    };
    let (s, ()) = tokio::join!(of(&cluster, &asked), between);
    let s = s.unwrap();
    let row = &s.lines[0].row;
    assert_eq!((row.requests_per_second.round(), row.success, row.retries_per_second), (10.0, Some(1.0), 0.0));
    assert_eq!(s.silent.keys().collect::<Vec<_>>(), ["web/late-1"]);
    let t = table(&s);
    assert!(t.contains("1 of 2 sidecars, over 10 s"), "{t}");
}

#[tokio::test]
async fn nothing_to_show_says_what_to_do() {
    let api = shop();
    let ask = async |words: &[&str]| of(&Cluster::new(api.client()), &args(words)).await.unwrap_err().to_string();
    let none = ask(&["nobody", "-n", "web"]).await;
    assert!(none.contains("no running pod of nobody in namespace web has a sidecar. Next: kubectl label"), "{none}");
    api.fails(Some(http::StatusCode::FORBIDDEN));
    let forbidden = ask(&[]).await;
    assert!(forbidden.contains("not allowed") && forbidden.contains("Next: ask"), "{forbidden}");
}
