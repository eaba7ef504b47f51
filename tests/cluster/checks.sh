#!/usr/bin/env bash
# Checks of the cluster itself, without Weft, from the node's network: prints PASS or FAIL for each; the exit status is the number of failures.
cd "$(dirname "$0")"
NAME=${NAME:-weft} STATE=${STATE:-/tmp/weft-cluster/weft}
in_node() { ip netns exec "$NAME" env KUBECONFIG="$STATE/kubeconfig" "$@"; }
k() { in_node kubectl "$@"; }
fails=0
check() { # NAME PATTERN COMMAND...: the output must match the pattern
  local name=$1 pattern=$2 out; shift 2
  out=$("$@" 2>&1)
  if grep -qE -- "$pattern" <<<"$out"; then echo "PASS $name: $(grep -m1 -E -- "$pattern" <<<"$out" | cut -c1-150)"
  else echo "FAIL $name: wanted $pattern"; sed 's/^/     | /' <<<"$out" | tail -8; fails=$((fails+1)); fi
}
tmp=$(mktemp -d); trap 'rm -rf $tmp' EXIT

k delete ns checks --ignore-not-found >/dev/null 2>&1
k create ns checks >/dev/null
# The webhook's certificate, and a CA bundle for its configuration.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hook \
  -addext subjectAltName=DNS:hook.checks.svc -keyout $tmp/tls.key -out $tmp/tls.crt 2>/dev/null
k -n checks create secret tls hook --cert=$tmp/tls.crt --key=$tmp/tls.key >/dev/null
start=$(date +%s.%N)
k -n checks apply -f - >/dev/null <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: weft.test/tools:1
        command: [testd]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hook}
spec:
  selector: {matchLabels: {app: hook}}
  template:
    metadata: {labels: {app: hook}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: hook
        image: weft.test/tools:1
        command: [testd, -listen, ":8443", -webhook, /tls]
        ports: [{containerPort: 8443, hostPort: 18443}]
        volumeMounts: [{name: tls, mountPath: /tls}]
        readinessProbe: {httpGet: {path: /, port: 8443, scheme: HTTPS}, periodSeconds: 1}
      volumes: [{name: tls, secret: {secretName: hook}}]
---
apiVersion: v1
kind: Service
metadata: {name: hook}
spec: {selector: {app: hook}, ports: [{port: 443, targetPort: 8443}]}
---
# An init container that changes the pod's firewall, a native sidecar, and a
# token with an audience of its own.
apiVersion: v1
kind: Pod
metadata: {name: side, labels: {app: side}}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: firewall
    image: weft.test/tools:1
    securityContext: {capabilities: {add: [NET_ADMIN, NET_RAW]}}
    command: [sh, -ec]
    args:
    - |
      iptables-legacy -t nat -A PREROUTING -p tcp --dport 9999 -j REDIRECT --to-ports 15006
      iptables-legacy -t nat -A OUTPUT -p tcp -d 192.0.2.1 --dport 80 -j DNAT --to-destination 127.0.0.1:15006
      iptables-legacy -t nat -S
      nft add table inet t && nft list tables
  - name: sidecar
    image: weft.test/tools:1
    restartPolicy: Always
    command: [testd, -listen, ":15006"]
    startupProbe: {httpGet: {path: /, port: 15006}, periodSeconds: 1}
  containers:
  - name: main
    image: weft.test/tools:1
    command: [sh, -c, "echo sidecar says \$(wget -qO- http://127.0.0.1:15006/); trap 'exit 0' TERM; while :; do sleep 1; done"]
    volumeMounts: [{name: token, mountPath: /token}]
  volumes:
  - name: token
    projected: {sources: [{serviceAccountToken: {path: weft, audience: weft, expirationSeconds: 600}}]}
YAML
check "node Ready" " Ready " k get nodes --no-headers
check "Deployment of 2" "condition met" k -n checks wait --for=condition=Available deploy/web --timeout=60s
check "2 replicas" "^2$" k -n checks get deploy web -o jsonpath='{.status.readyReplicas}'
check "webhook server" "condition met" k -n checks wait --for=condition=Available deploy/hook --timeout=60s
check "sidecar pod" "condition met" k -n checks wait --for=condition=Ready pod/side --timeout=60s
echo "     all pods ready after $(echo "$(date +%s.%N) - $start" | bc 2>/dev/null || python3 -c "import time;print(round(time.time()-$start,1))") s"
pod=$(k -n checks get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
other=$(k -n checks get pods -l app=web -o jsonpath='{.items[1].status.podIP}')
self=$(k -n checks get pods -l app=web -o jsonpath='{.items[0].status.podIP}')
vip=$(k -n checks get svc web -o jsonpath='{.spec.clusterIP}')
lb=$(k -n checks get svc web -o jsonpath='{.status.loadBalancer.ingress[0].ip}')
side=$(k -n checks get pod side -o jsonpath='{.status.podIP}')
node=$(k get node -o jsonpath='{.items[0].status.addresses[0].address}')
ex() { k -n checks exec "$pod" -- "$@"; }

check "resolv.conf of a pod" "search checks.svc.cluster.local svc.cluster.local cluster.local" ex cat /etc/resolv.conf
check "ndots:5" "options ndots:5" ex cat /etc/resolv.conf
check "DNS svc.ns, glibc" "$vip" ex curl -sv --max-time 5 http://web.checks/
check "DNS full name" "Address.*$vip" ex nslookup web.checks.svc.cluster.local
check "DNS outside: NXDOMAIN" "NXDOMAIN" ex nslookup www.example.com
check "DNS of the apiserver" "10.96.0.1" ex nslookup kubernetes.default.svc.cluster.local
check "pod -> ClusterIP" "pod=web" ex curl -s --max-time 5 http://$vip/
check "pod -> ClusterIP, source address kept" "client=$side" k -n checks exec side -c main -- curl -s --max-time 5 http://$vip/
check "pod -> its own Service, 8 times (hairpin)" "^8$" ex sh -c "for i in 1 2 3 4 5 6 7 8; do curl -s --max-time 3 http://web.checks/; done | grep -c pod="
check "pod -> pod, source address kept" "client=$self" ex curl -s --max-time 5 http://$other:8080/
check "pod -> node (apiserver)" "ok" ex curl -sk --max-time 5 https://$node:6443/healthz
check "pod -> apiserver by ClusterIP, own token" '"gitVersion"' ex sh -c 'curl -s --max-time 5 --cacert /var/run/secrets/kubernetes.io/serviceaccount/ca.crt -H "Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)" https://kubernetes.default.svc/version'
check "pod -> LoadBalancer address" "pod=web" ex curl -s --max-time 5 http://$lb/
check "pod -> outside: none" "code=7|code=28" ex sh -c 'curl -s --max-time 5 http://198.51.100.7/; echo code=$?'
check "node -> pod" "pod=web" in_node curl -s --max-time 5 http://$other:8080/
check "node -> ClusterIP" "pod=web" in_node curl -s --max-time 5 http://$vip/
check "node -> Service name (netns resolv.conf)" "pod=web" in_node curl -s --max-time 5 http://web.checks.svc.cluster.local/
check "node -> LoadBalancer $lb" "pod=web" in_node curl -s --max-time 5 http://$lb/
check "node -> NodePort" "pod=web" in_node curl -s --max-time 5 http://$node:30080/
check "node -> hostPort (portmap)" "pod=hook" in_node curl -sk --max-time 5 https://$node:18443/
check "kubectl logs" "listening on :8080" k -n checks logs "$pod"
check "kubectl exec, WebSocket" "Switching Protocols|101" k -v=8 -n checks exec "$pod" -- true
check "kubectl exec, WebSocket output" "^over-ws$" env KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true ip netns exec "$NAME" kubectl --kubeconfig "$STATE/kubeconfig" -n checks exec "$pod" -- echo over-ws
check "kubectl exec, SPDY output" "^over-spdy$" env KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false ip netns exec "$NAME" kubectl --kubeconfig "$STATE/kubeconfig" -n checks exec "$pod" -- echo over-spdy
check "kubectl exec, stdin and exit status" "in=hello rc=7" bash -c "echo hello | ip netns exec $NAME kubectl --kubeconfig $STATE/kubeconfig -n checks exec -i $pod -- sh -c 'read x; echo in=\$x rc=7; exit 7'"
ip netns exec "$NAME" kubectl --kubeconfig "$STATE/kubeconfig" -n checks port-forward "$pod" 28080:8080 >$tmp/pf 2>&1 & pf=$!
sleep 2
check "kubectl port-forward" "pod=web" in_node curl -s --max-time 5 http://127.0.0.1:28080/
kill $pf
check "init container: iptables-legacy" "REDIRECT" k -n checks logs side -c firewall
check "init container: nft" "table inet t" k -n checks logs side -c firewall
check "rule redirects to the sidecar" "pod=side" in_node curl -s --max-time 5 http://$side:9999/
check "sidecar was up before main" "sidecar says pod=side" k -n checks logs side -c main
check "sidecar is an init container still running" "true" k -n checks get pod side -o jsonpath='{.status.initContainerStatuses[1].started}'
token=$(k -n checks exec side -c main -- cat /token/weft)
claims=$(cut -d. -f2 <<<"$token" | tr '_-' '/+' | sed 's/$/==/' | base64 -d 2>/dev/null)
check "token: audience, 600 s, bound to the pod" '\["weft"\] 607? "side"|\["weft"\] 600 "side"' jq -c -r '"\(.aud) \(.exp-.iat) \"\(."kubernetes.io".pod.name)\""' <<<"$claims"
review() { k create -o json -f - <<<"{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenReview\",\"spec\":{\"token\":\"$token\",\"audiences\":[\"$1\"]}}" | jq -c .status; }
check "TokenReview, audience weft" '"authenticated":true' review weft
check "TokenReview names the service account" '"username":"system:serviceaccount:checks:default"' review weft
check "TokenReview, another audience" 'error|\{"user":\{\}' review other
check "TokenRequest" "^eyJ" k -n checks create token default --audience weft --duration 600s
k apply -f - >/dev/null <<YAML
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: checks}
webhooks:
- name: hook.checks.svc
  clientConfig: {caBundle: $(base64 -w0 $tmp/tls.crt), service: {namespace: checks, name: hook, path: /mutate}}
  rules: [{operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: checks}}
  objectSelector: {matchLabels: {mutate: "yes"}}
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 5
YAML
sleep 2
k -n checks run mutated --image=weft.test/tools:1 --labels=mutate=yes --restart=Never --command -- true >/dev/null
check "mutating webhook in the cluster" '^testd$' k -n checks get pod mutated -o jsonpath='{.metadata.labels.mutated-by}'
k delete mutatingwebhookconfiguration checks >/dev/null
check "pod that ends: Succeeded" "condition met" k -n checks wait --for=jsonpath='{.status.phase}'=Succeeded pod/mutated --timeout=30s
check "LB address is given back" "^gone$" bash -c "ip netns exec $NAME kubectl --kubeconfig $STATE/kubeconfig -n checks delete svc web >/dev/null; sleep 1; ip -n $NAME addr show weft-lb | grep -q $lb || echo gone"
start=$(date +%s)
k delete ns checks --timeout=60s >/dev/null
check "namespace deleted" "NotFound" k get ns checks
echo "     namespace gone after $(($(date +%s)-start)) s"
echo "$fails failures"
exit $fails
