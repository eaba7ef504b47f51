use crate::source::folder::read_text;

/// What is said of a route whose rule is `rule`.
fn rule(kind: &str, rule: &str) -> String {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: a}}]\n  rules: [{rule}]\n"
    );
    said(&text)
}
fn said(text: &str) -> String {
    let update = read_text("f", text);
    let all = update.findings.unwrap_or_default();
    assert_eq!(all.is_empty(), !update.apply.is_empty(), "a refused object is left out: {all:?}");
    all.iter()
        .map(|f| format!("{}: {} | {}\n", f.field, f.message.split(';').next().unwrap_or_default(), f.fix))
        .collect()
}

#[test]
fn what_an_api_server_takes() {
    for good in [
        "{}",
        "{matches: [{path: {type: Exact, value: /a/b}, headers: [{name: X-A, value: b}]}, {path: {type: RegularExpression, value: '.*'}}]}",
        "{filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}",
        "{filters: [{type: SomethingNew}]}",
        "{timeouts: {request: 0s, backendRequest: 3s}, retry: {}}",
    ] {
        assert_eq!(rule("HTTPRoute", good), "", "{good}");
    }
}

#[test]
fn what_it_refuses() {
    for (kind, bad, expected) in [
        ("HTTPRoute", "{matches: [{path: {value: a}}]}", "spec.rules[0].matches[0].path.value: \"a\" is no path"),
        ("HTTPRoute", "{matches: [{path: {value: /a/../b}}]}", "spec.rules[0].matches[0].path.value"),
        (
            "HTTPRoute",
            "{matches: [{headers: [{name: 'X A', value: b}]}]}",
            "spec.rules[0].matches[0].headers[0].name: \"X A\" is no header name",
        ),
        (
            "HTTPRoute",
            "{filters: [{type: URLRewrite}]}",
            "spec.rules[0].filters[0].urlRewrite: is missing for a filter of type URLRewrite | add urlRewrite",
        ),
        (
            "HTTPRoute",
            "{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]}",
            "spec.rules[0].filters[1]: repeats the type CORS",
        ),
        ("HTTPRoute", "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}", "200 is no redirect"),
        (
            "HTTPRoute",
            "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}",
            "spec.rules[0].backendRefs: stand beside a RequestRedirect",
        ),
        (
            "HTTPRoute",
            "{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}",
            "ReplacePrefixMatch needs a prefix",
        ),
        (
            "HTTPRoute",
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 101}}]}",
            "percent: is above 100",
        ),
        (
            "HTTPRoute",
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 3, denominator: 2}}}]}",
            "3 of 2 is more than all",
        ),
        ("HTTPRoute", "{backendRefs: [{name: a}]}", "spec.rules[0].backendRefs[0].port: is missing"),
        ("HTTPRoute", "{backendRefs: [{name: a, port: 80, weight: 1000001}]}", "weight: is above 1000000"),
        (
            "HTTPRoute",
            "{timeouts: {request: 1s, backendRequest: 2s}}",
            "spec.rules[0].timeouts.backendRequest: is longer than timeouts.request",
        ),
        ("HTTPRoute", "{timeouts: {request: 10sec}}", "spec.rules[0].timeouts.request: \"10sec\" is no duration"),
        ("HTTPRoute", "{retry: {codes: [200]}}", "spec.rules[0].retry.codes[0]: 200 is outside 400 to 599"),
        ("HTTPRoute", "{name: a}, {name: a}", "spec.rules[1].name: \"a\" names another rule, too"),
        ("GRPCRoute", "{matches: [{method: {}}]}", "spec.rules[0].matches[0].method: has neither service nor method"),
        ("GRPCRoute", "{matches: [{method: {service: a/b}}]}", "is no gRPC service name"),
        ("GRPCRoute", "{filters: [{type: RequestMirror}]}", "spec.rules[0].filters[0].requestMirror: is missing"),
        ("TCPRoute", "{backendRefs: []}", "spec.rules[0].backendRefs: is empty"),
        (
            "TCPRoute",
            "{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: a, port: 1}]}",
            "spec.rules: has 2 rules",
        ),
    ] {
        let told = rule(kind, bad);
        assert!(told.contains(expected), "{bad}\nexpected {expected}\ntold {told}");
    }
}

#[test]
fn what_it_refuses_of_other_kinds() {
    for (text, expected) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: nowhere, ports: [{port: 80}]}\n",
            "\"nowhere\" is no IP address",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}, {port: 80}]}\n",
            "80 stands twice",
        ),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {}\n", "spec.ports: is empty"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: A_b}\nspec: {ports: [{port: 80}]}\n", "\"A_b\" is no name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: here}\n", "\"here\" is no IP address"),
        (
            "apiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {name: a}\nspec: {targetRefs: [{group: '', kind: Namespace}], mode: Strict}\n",
            "spec.targetRefs[0]: needs a name or a selector",
        ),
        (
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {targetRefs: [], retry: {grpcCodes: [17]}}\n",
            "17 is outside 1 to 16",
        ),
        (
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {targetRefs: [{group: '', kind: Service, name: a}], localRateLimit: {requests: 1, interval: 0s}}\n",
            "spec.localRateLimit.interval: must be longer than 0s",
        ),
        (
            "apiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {name: a}\nspec: {targetRefs: [{group: '', kind: Namespace, name: a}, {group: '', kind: Namespace, name: b}], mode: Strict}\n",
            "spec.targetRefs: has 2 Namespaces",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {name: a}\nspec: {hostnames: [1.2.3.4], rules: [{backendRefs: [{name: a, port: 1}]}]}\n",
            "\"1.2.3.4\" is no host name",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{name: a}, {name: a}]}\n",
            "spec.parentRefs[1]: names the same parent twice",
        ),
    ] {
        let told = said(text);
        assert!(told.contains(expected), "{text}\nexpected {expected}\ntold {told}");
    }
}
