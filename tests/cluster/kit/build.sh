#!/usr/bin/env bash
# Builds what a cluster consists of and prints its folder: bin/ (weft-cluster, coredns, pause, testd) and images/ (pause, CoreDNS and the checks' tools as
# OCI archives). Kept in the cache by the content of the sources, so only the first run is long: 600 MB of Go modules, ten CPU-minutes of Kubernetes.
# JOBS is how many packages are compiled at a time.
set -euo pipefail
umask 022 # files in the images must be readable by their users
here=$(cd "$(dirname "$0")" && pwd)
cache=${WEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weft}
pack=$("$here/../../../images/pack.sh")
# the tools image holds Debian's programs: another version of them is another kit
debian=$(dpkg-query -W -f '${Package} ${Version}\n' busybox-static curl iptables nftables libc6 2>/dev/null || true)
key=$( (cd "$here" && cat build.sh go.mod go.sum $(find cmd -type f | sort); basename "$pack"; echo "$debian") 2>/dev/null | sha256sum | cut -c1-16)
kit="$cache/cluster-$key"
if [ -e "$kit/done" ]; then touch "$kit"; echo "$kit"; exit; fi

for tool in go=golang busybox=busybox-static curl=curl iptables=iptables nft=nftables; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${tool%%=*}" >/dev/null ||
    { echo "weft: ${tool%%=*} is needed to build the test cluster: run tests/tools/deps.sh cluster" >&2; exit 1; }
done
mkdir -p "$cache"
exec 9>"$cache/cluster.lock"
flock 9 # two first runs at once would compile Kubernetes twice
if [ -e "$kit/done" ]; then touch "$kit"; echo "$kit"; exit; fi
echo "building the test cluster (once, about five minutes on two idle cores)" >&2
rm -rf "$kit"
mkdir -p "$kit/bin" "$kit/images"
(
  cd "$here"
  # the same flags for every Go command, or all of Kubernetes is compiled again
  export CGO_ENABLED=0 GOFLAGS="-p=${JOBS:-$(nproc)} -trimpath -buildvcs=false"
  kubernetes=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
  version=k8s.io/component-base/version
  go build -o "$kit/bin/" -ldflags "-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")" ./cmd/weft-cluster
  go build -o "$kit/bin/" -ldflags "-s -w" ./cmd/pause ./cmd/coredns ./cmd/testd
) >&2

bin=$kit/bin
"$pack" -o "$kit/images/pause.tar" -name registry.k8s.io/pause:3.10 -user 65535 -entrypoint /pause "$bin/pause=/pause"
"$pack" -o "$kit/images/coredns.tar" -name registry.k8s.io/coredns/coredns:v1.12.2 -entrypoint /coredns "$bin/coredns=/coredns"
# weft.test/tools: a shell and its tools, curl, both iptables, nft, and testd, for pods of tests
busybox=$(command -v busybox)
mapfile -t links < <(busybox --list | grep -vx busybox | sed 's#.*#@/bin/busybox=/bin/&#')
modules=$(dirname "$(dpkg -L iptables | grep '/xtables/libxt_tcp.so$')")
empty=$(mktemp -d)
trap 'rmdir "$empty"' EXIT
"$pack" -o "$kit/images/tools.tar" -name weft.test/tools:1 -libs "$busybox=/bin/busybox" "${links[@]}" \
  "$bin/testd=/usr/bin/testd" "$(command -v curl)=/usr/bin/curl" /usr/sbin/nft=/usr/sbin/nft \
  /usr/sbin/xtables-legacy-multi=/usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi=/usr/sbin/xtables-nft-multi \
  @xtables-legacy-multi=/usr/sbin/iptables-legacy @xtables-legacy-multi=/usr/sbin/iptables-legacy-save \
  @xtables-nft-multi=/usr/sbin/iptables-nft @xtables-nft-multi=/usr/sbin/iptables-nft-save "$modules=$modules" \
  /etc/nsswitch.conf=/etc/nsswitch.conf /etc/passwd=/etc/passwd /etc/group=/etc/group "$empty=/tmp" "$empty=/run" "$empty=/etc/ssl"
touch "$kit/done"
# one kit is enough: older ones are a few hundred MB each
for old in "$cache"/cluster-*/; do [ "$old" = "$kit/" ] || [ -n "$(find "$old" -maxdepth 0 -mmin -720)" ] || rm -rf "$old"; done
echo "$kit"
