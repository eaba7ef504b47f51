#!/usr/bin/env bash
# Builds what the conformance suite v1.7.0 needs and prints its folder: conformance.test (the suite, one static program), bin/, images/ (echo-basic and
# echo-advanced as OCI archives). The images' programs are tried on loopback. Kept in the cache by the content of the sources; the first run takes six
# CPU-minutes. JOBS is how many packages are compiled at a time.
set -euo pipefail
umask 022 # files in the images must be readable by their users
here=$(cd "$(dirname "$0")" && pwd)
cache=${WEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weft}
pack=$("$here/../../images/pack.sh")
key=$( (cd "$here" && cat build.sh $(find go.mod go.sum suite check cmd/selfcert echo-advanced -type f | sort); basename "$pack") | sha256sum | cut -c1-16)
kit="$cache/conformance-$key"
if [ -e "$kit/done" ]; then touch "$kit"; echo "$kit"; exit; fi

command -v go >/dev/null || { echo "weft: Go is needed to build the conformance suite: install the Go toolchain" >&2; exit 1; }
mkdir -p "$cache"
exec 9>"$cache/conformance.lock"
flock 9
if [ -e "$kit/done" ]; then touch "$kit"; echo "$kit"; exit; fi
echo "building the conformance suite (once, about three minutes on two idle cores)" >&2
rm -rf "$kit"
mkdir -p "$kit/bin" "$kit/images"
bin=$kit/bin
(
  cd "$here"
  # the suite needs Go 1.27, whatever Go this machine has: the go command fetches that one as a module
  export GOTOOLCHAIN=go1.27.4 CGO_ENABLED=0 GOFLAGS="-p=${JOBS:-$(nproc)} -trimpath -buildvcs=false '-ldflags=-s -w'"
  go build -o "$bin/" ./cmd/selfcert sigs.k8s.io/gateway-api-conformance-images/echo-basic
  go test -c -o "$kit/conformance.test" ./suite
  # Istio's requirements differ from the suite's, so its echo server has a module of its own
  go -C echo-advanced build -o "$bin/" istio.io/istio/pkg/test/echo/cmd/server istio.io/istio/pkg/test/echo/cmd/client
  "$bin/selfcert" "$bin/cert.crt" "$bin/cert.key" echo localhost
  BIN=$bin go test ./check
) >&2

# One build of echo-basic carries both tags: v0.2.0 occurs at the UDP echo Deployment alone, and v0.1.0 answers datagrams as the UDP tests want it (README.md).
"$pack" -o "$kit/images/echo-basic.tar" -name registry.k8s.io/gateway-api/conformance/echo-basic:v0.1.0 \
  -name registry.k8s.io/gateway-api/conformance/echo-basic:v0.2.0 -user 65532:65532 -entrypoint /echo-basic "$bin/echo-basic=/echo-basic"
# The suite runs `client` in it, so PATH matters. The user is upstream's; no proxy may have that number.
"$pack" -o "$kit/images/echo-advanced.tar" -name registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0 -user 1338 -entrypoint /usr/local/bin/server -sealed \
  "$bin/server=/usr/local/bin/server" "$bin/client=/usr/local/bin/client" "$bin/cert.crt=/cert.crt" "$bin/cert.key=/cert.key"
touch "$kit/done"
# one kit is enough; one that was used today may belong to another checkout
for old in "$cache"/conformance-*/; do [ "$old" = "$kit/" ] || [ -n "$(find "$old" -maxdepth 0 -mmin -720)" ] || rm -rf "$old"; done
echo "$kit"
