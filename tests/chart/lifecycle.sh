#!/usr/bin/env bash
# Installs, upgrades, rolls back and uninstalls the chart in a cluster of its own (root; about half a minute). What it looks at needs no running program of Weft's: what the API server makes of the
# objects, who may do what, whom the webhook blocks while no injector answers, whether the caBundle survives, what an uninstallation leaves.
set -euo pipefail
cd "$(dirname "$0")/../.."
export WEFT_CLUSTER=weft-chart
cluster=tests/cluster/cluster
trap '$cluster down >/dev/null' EXIT

failed=0 passed=0
say() { printf '\n-- %s\n' "$*"; }
# same WHAT WANTED GOT
same() {
  if [ "$2" = "$3" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && printf 'FAILED %s\n  wanted: %s\n  got:    %s\n' "$1" "$2" "$3"; fi
}
k() { $cluster enter kubectl "$@"; }
helm() { $cluster enter helm "$@" 2>&1 | grep -v 'found symbolic link in path'; }
release() { helm "$@" | sed -n 's/^STATUS: //p'; }

say "up"
$cluster up | tail -1

say "install"
k create namespace weft-system >/dev/null
k label namespace weft-system pod-security.kubernetes.io/enforce=restricted >/dev/null
same "helm install" deployed "$(release install weft charts/weft -n weft-system)"
ready() { # the pods are made: the restricted profile takes them, and ServiceAccounts, volumes and selectors are right
  for _ in $(seq 50); do
    [ "$(k -n weft-system get pods -o name | wc -l)" -ge 3 ] && break
    sleep 0.2 # between two looks, with a bound
  done
  k -n weft-system get pods -o jsonpath='{range .items[*]}{.metadata.labels.app\.kubernetes\.io/name}{"\n"}{end}' | sort -u | xargs
}
same "a pod of each" "weft-ca weft-controller weft-injector" "$(ready)"

say "who is blocked while no injector answers"
k create namespace shop >/dev/null && k label namespace shop weft.dev/inject=enabled >/dev/null
k create namespace plain >/dev/null
k create namespace never >/dev/null && k label namespace never weft.dev/inject=disabled >/dev/null
# pod NAMESPACE LABEL [FIELDS]: taken or refused
pod() {
  local labels=''
  [ -z "$2" ] || labels="\"weft.dev/inject\":\"$2\""
  if printf '{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"p-","namespace":"%s","labels":{%s}},"spec":{%s"containers":[{"name":"a","image":"weft.test/none:1"}]}}' \
    "$1" "$labels" "${3:-}" | k create --dry-run=server -f - >/dev/null 2>&1; then echo taken; else echo refused; fi
}
same "labelled namespace" refused "$(pod shop '')"
same "labelled namespace, pod opted out" taken "$(pod shop disabled)"
same "labelled namespace, host network" taken "$(pod shop '' '"hostNetwork":true,')"
same "other namespace" taken "$(pod plain '')"
same "other namespace, pod opted in" refused "$(pod plain enabled)"
same "namespace that opted out" taken "$(pod never '')"
same "namespace that opted out, pod opted in" refused "$(pod never enabled)"
same "kube-system" taken "$(pod kube-system enabled)"

say "the caBundle"
bundle=$(k config view --raw -o jsonpath='{.clusters[0].cluster.certificate-authority-data}')
write() {
  k patch mutatingwebhookconfiguration weft-injector --type=json --field-manager=weft-injector -p \
    "[{\"op\":\"add\",\"path\":\"/webhooks/0/clientConfig/caBundle\",\"value\":\"$bundle\"},{\"op\":\"add\",\"path\":\"/webhooks/1/clientConfig/caBundle\",\"value\":\"$bundle\"}]" >/dev/null
}
kept() { k get mutatingwebhookconfiguration weft-injector -o jsonpath='{.webhooks[*].clientConfig.caBundle} {.webhooks[*].timeoutSeconds}'; }
write
same "helm upgrade" deployed "$(release upgrade weft charts/weft -n weft-system --set injector.timeoutSeconds=7)"
same "after an upgrade that changes the webhook" "$bundle $bundle 7 7" "$(kept)"
same "helm upgrade to values-ha.yaml" deployed "$(release upgrade weft charts/weft -n weft-system -f charts/weft/values-ha.yaml)"
same "after one to high availability" "$bundle $bundle 10 10" "$(kept)"
same "budgets" "weft-ca weft-controller weft-injector" "$(k -n weft-system get pdb -o jsonpath='{.items[*].metadata.name}')"
helm rollback weft 1 -n weft-system >/dev/null
same "after a rollback" "$bundle $bundle 10 10" "$(kept)"
same "budgets of single replicas" "" "$(k -n weft-system get pdb -o jsonpath='{.items[*].metadata.name}')"
# as GitOps tools do it: the manifest of a render, applied by the server
$cluster enter bash -c 'helm template weft charts/weft -n weft-system --set injector.timeoutSeconds=9 2>/dev/null | kubectl apply --server-side --force-conflicts --field-manager=gitops -f - >/dev/null'
same "after server-side apply" "$bundle $bundle 9 9" "$(kept)"

say "rights"
can() { k auth can-i --as="system:serviceaccount:weft-system:$1" "${@:2}" 2>/dev/null || true; }
for who in weft-ca weft-controller weft-injector; do
  same "$who: Secrets of others" no "$(can $who get secrets -n shop)"
  same "$who: list its namespace's Secrets" no "$(can $who list secrets -n weft-system)"
  same "$who: delete pods" no "$(can $who delete pods -n shop)"
  same "$who: exec" no "$(can $who create pods/exec -n shop)"
  same "$who: other webhooks" no "$(can $who patch mutatingwebhookconfigurations/other)"
done
same "the CA reads its state" yes "$(can weft-ca get secret/weft-ca -n weft-system)"
same "and nobody else" "no no" "$(can weft-controller get secret/weft-ca -n weft-system) $(can weft-injector get secret/weft-ca -n weft-system)"
same "the CA asks about tokens" yes "$(can weft-ca create tokenreviews)"
same "the injector mends its webhook" yes "$(can weft-injector patch mutatingwebhookconfigurations/weft-injector)"
same "the controller writes statuses" yes "$(can weft-controller update trafficpolicies.weft.dev --subresource=status -n shop)"
same "the controller writes no specs" no "$(can weft-controller update trafficpolicies.weft.dev -n shop)"

say "uninstall"
k create -f - >/dev/null <<'YAML'
apiVersion: weft.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {name: mine, namespace: shop}
spec: {mode: Strict, targetRefs: [{group: "", kind: Namespace, name: shop}]}
YAML
helm uninstall weft -n weft-system >/dev/null
same "no webhook, no roles" "" "$(k get mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings -o name | grep weft || true)"
same "labelled namespace" taken "$(pod shop '')"
same "the policies stay" mine "$(k -n shop get meshtlspolicies -o jsonpath='{.items[*].metadata.name}')"
same "installed again" deployed "$(release install weft charts/weft -n weft-system)"
helm uninstall weft -n weft-system >/dev/null
same "under another name" deployed "$(release install other charts/weft -n weft-system --take-ownership)"

printf '\nchart lifecycle: %s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
