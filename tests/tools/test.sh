#!/usr/bin/env bash
# The whole test run, in the order in which a mistake is cheapest to find. `test.sh lint` stops after the checks that run nothing; `test.sh cluster` and
# `test.sh conformance` are those steps alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

step() { printf '\n== %s\n' "$*"; }
left_out=()

# A cluster for the tests alone: a person's own, which `make cluster` started, stays as it is.
cluster_tests() {
  export WEFT_CLUSTER=weft-test
  # here: the node's network has no way out
  cargo build --locked --quiet -p weft-cli
  cargo test --locked --quiet -p weft-test-cluster --no-run
  cargo test --locked --quiet -p weft-test-cluster --test lifecycle -- --ignored --test-threads 1
  trap 'tests/cluster/cluster down' EXIT
  tests/cluster/cluster up
  tests/cluster/cluster images
  tests/cluster/cluster crds
  # one installation for all; the test that takes it away comes last
  tests/cluster/cluster install
  local file name
  for file in tests/cluster/tests/*.rs uninstall.rs; do
    name=$(basename "$file" .rs)
    case $file in */lifecycle.rs | */uninstall.rs) continue ;; esac
    # with what they print: latencies, memory, rates
    tests/cluster/cluster enter cargo test --locked --quiet --offline -p weft-test-cluster --test "$name" -- --ignored --test-threads 1 --nocapture
  done
  tests/cluster/cluster down
  trap - EXIT
}

conformance() {
  python3 -m unittest discover -s tests/conformance -p '*_test.py'
  # not over the report that lies in docs/conformance: a person renews that one
  tests/conformance/mesh.py --report "${CARGO_TARGET_DIR:-target}/conformance/report.yaml"
}

case ${1:-} in
  cluster) cluster_tests; exit ;;
  conformance) conformance; exit ;;
esac

step "format"
cargo fmt --all --check
step "lints (warnings are errors)"
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
step "licences, bans, sources"
cargo deny --log-level error check licenses bans sources
[ "${1:-}" = lint ] && exit 0

step "programs"
cargo build --locked --workspace --quiet
step "unit, property, simulation and mesh tests"
cargo test --locked --workspace --quiet

step "the chart"
if command -v go >/dev/null && command -v helm >/dev/null && command -v kubeconform >/dev/null; then
  # the flags of deps.sh: with others Go compiles Kubernetes' packages a second time
  (cd tests/chart && CGO_ENABLED=0 go test -p 1 -trimpath -buildvcs=false -count=1 .)
  if reason=$(tests/cluster/cluster able 2>&1); then
    tests/chart/lifecycle.sh
  else
    left_out+=("installation of the chart on a cluster: $reason")
  fi
else
  left_out+=("tests of charts/weft: they need Go, and helm and kubeconform, which tests/tools/deps.sh chart builds with it")
fi

step "network namespaces and capture"
if [ "$(id -u)" = 0 ] && ip netns add weft-probe 2>/dev/null; then
  ip netns del weft-probe
  cargo test --locked --quiet -p weft-test-netns -- --ignored --test-threads 1
else
  left_out+=("network-namespace tests: they need root and network namespaces")
fi

step "images' packer"
if command -v go >/dev/null; then (cd images/pack && go vet . && go test -count=1 .); else left_out+=("tests of images/pack: they need Go"); fi

step "cluster"
if why=$(tests/cluster/cluster able 2>&1); then
  cluster_tests
  step "conformance: the official suite's mesh tests"
  conformance
else
  python3 -m unittest discover -s tests/conformance -p '*_test.py'
  left_out+=("cluster tests and the official conformance suite: ${why#cluster: }")
fi

step "done"
for line in ${left_out[@]+"${left_out[@]}"}; do echo "left out: $line"; done
