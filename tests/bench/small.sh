#!/usr/bin/env bash
# `make bench-small`: instructions and allocations per request, route-table match time. See small.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/../tools/deps.sh" build bench
export WEFTBENCH_DIR=${WEFTBENCH_DIR:-/var/tmp/weft-bench}
mkdir -p "$WEFTBENCH_DIR/bin"
target=${CARGO_TARGET_DIR:-$here/../../target}
cargo build --release --locked -p weft-proxy
# what is not measured need not be linked for minutes
cargo build --profile quick --locked -p weft-controller -p weft-ca
cargo build --release --locked -p weft-core --example table_match
install -m 755 "$target/release/weft-proxy" "$WEFTBENCH_DIR/bin/weft-proxy"
for program in weft-controller weft-ca; do install -m 755 "$target/quick/$program" "$WEFTBENCH_DIR/bin/$program"; done
exec python3 "$here/small.py" "$("$target/release/examples/table_match")"
