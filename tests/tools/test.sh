#!/usr/bin/env bash
# The whole test run, in the order in which a mistake is cheapest to find. `test.sh lint` stops after the checks that run nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

step() { printf '\n== %s\n' "$*"; }
left_out=()

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

step "done"
for line in ${left_out[@]+"${left_out[@]}"}; do echo "left out: $line"; done
