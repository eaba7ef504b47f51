#!/usr/bin/env bash
# `make bench`: Weft beside nginx, HAProxy, Envoy and the layer-4 floor in one run, with ratio columns and a machine-readable file.
# Arguments go to `bench.py run` (--rounds 5, --peers floor,envoy,weft, --cases sat_h2 ...). `profile` first: where the CPU and the memory of the sidecars go.
# `report`: fills the tables of docs/bench.md from the newest figures; nothing is measured.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${WEFT_CACHE:-$HOME/.cache/weft}
[ "${1:-}" = report ] && exec python3 "$here/report.py" fill "${@:2}"
[ "$(id -u)" = 0 ] || { echo "make bench needs root: it makes network namespaces" >&2; exit 1; }
"$here/../tools/deps.sh" build bench
export WEFTBENCH_DIR=${WEFTBENCH_DIR:-/var/tmp/weft-bench}
target=${CARGO_TARGET_DIR:-$here/../../target}
mode=run
if [ "${1:-}" = profile ]; then
  mode=profile
  shift
  # with symbols: only the program itself is linked again
  cargo rustc --release --locked -p weft-proxy --bin weft-proxy -- -C strip=none
else
  cargo build --release --locked -p weft-proxy
fi
# their answers are part of the start that is measured
cargo build --release --locked -p weft-controller -p weft-ca
CARGO_TARGET_DIR=$cache/floor-target cargo build --release --locked --quiet --manifest-path "$here/floor/Cargo.toml"
install -m 755 "$target/release/weft-proxy" "$WEFTBENCH_DIR/bin/weft-proxy"
for program in weft-controller weft-ca; do install -m 755 "$target/release/$program" "$WEFTBENCH_DIR/bin/$program"; done
install -m 755 "$cache/floor-target/release/floor" "$WEFTBENCH_DIR/bin/floor"
exec python3 "$here/bench.py" "$mode" "$@"
