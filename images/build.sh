#!/usr/bin/env bash
# Builds Weft's images as OCI archives, without a container engine, and prints their sizes:
#   weft.dev/weft-proxy     weft-proxy and weft-init, with the iptables programs that weft-init calls
#   weft.dev/weft-control   weft-ca, weft-controller, weft-injector and weft: one program (control/) under four names
#   weft.dev/sample         weft alone, for `weft sample`: the services of examples/shop
# OUT (default: images/ in the target directory) gets one .tar each, REGISTRY and TAG change the names. BIN is a folder of programs that are built already.
#
# PROFILE is cargo's profile, `quick` by default: optimised as `release`, but without link-time optimisation and in 16 units. On two cores that is
# minutes instead of a quarter of an hour, and `make demo` has compiled the same. A release is built with PROFILE=release; PROFILE=dev saves time
# while developing, its images are large and their size is not judged.
set -euo pipefail
umask 022
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
profile=${PROFILE:-quick}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
registry=${REGISTRY:-weft.dev} tag=${TAG:-$version}
target=${CARGO_TARGET_DIR:-target}
bin=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
out=${OUT:-$target/images}
# What a node downloads: 25 MB is a few seconds on a slow link.
limit=$((25 * 1000 * 1000))

for tool in cargo strip ldd iptables; do
  PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || { echo "images: $tool is needed: run tests/tools/deps.sh build images" >&2; exit 1; }
done
pack=$("$here/pack.sh")

proxy=(weft-proxy weft-init) control=(weft-control weft)
if [ -n "${BIN:-}" ]; then bin=$BIN; else
  cargo build --locked --profile "$profile" -p weft-proxy -p weft-init -p weft-control -p weft-cli
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/bin" "$work/etc"
for program in "${proxy[@]}" "${control[@]}"; do
  [ -x "$bin/$program" ] || { echo "images: $bin/$program was not built" >&2; exit 1; }
  strip -o "$work/bin/$program" "$bin/$program"
done
# the C library asks for these: names of users, and that hosts are looked up in /etc/hosts and by DNS
echo 'hosts: files dns' >"$work/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/sbin/nologin\nweft-proxy:x:2102:2102:weft-proxy:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n' >"$work/etc/passwd"
printf 'root:x:0:\nweft-proxy:x:2102:\nnonroot:x:65532:\n' >"$work/etc/group"
base=("$work/etc=/etc" "$PWD/LICENSE=/usr/share/doc/weft/LICENSE")

# doc PACKAGE...: the licences of what comes from Debian
doc() { local p; for p in "$@"; do [ ! -e "/usr/share/doc/$p/copyright" ] || printf '%s\n' "/usr/share/doc/$p/copyright=/usr/share/doc/$p/copyright"; done; }
mapfile -t libc < <(doc libc6 libgcc-s1)

# image NAME USER ENTRYPOINT ARG...: packs a sealed image and judges its size
image() {
  local name=$1 user=$2 entrypoint=$3; shift 3
  "$pack" -o "$out/$name.tar" -name "$registry/$name:$tag" -user "$user" -entrypoint "$entrypoint" -label "org.opencontainers.image.version=$version" \
    -libs -sealed -gzip "$@" "${base[@]}" ${libc[@]+"${libc[@]}"}
  local size; size=$(stat -c %s "$out/$name.tar")
  printf '%-40s %5s MB  %s\n' "$registry/$name:$tag" "$(awk "BEGIN{printf \"%.1f\", $size/1e6}")" "$out/$name.tar"
  if [ "$size" -gt $limit ] && [ "$profile" != dev ]; then echo "images: $name has $size bytes, more than $limit" >&2; return 1; fi
}

programs() { local p; for p in "$@"; do printf '%s\n' "$work/bin/$p=/usr/local/bin/$p"; done; }

# Both variants of iptables, each one program under many names, and their extensions: rules of others in the pod's nat table must be readable, too.
modules=$(dirname "$(dpkg -L iptables | grep '/xtables/libxt_tcp.so$')")
mkdir "$work/xtables"
cp "$modules"/lib{xt,ipt,ip6t}_*.so "$work/xtables/"
iptables=("/usr/sbin/xtables-nft-multi=/usr/sbin/xtables-nft-multi" "/usr/sbin/xtables-legacy-multi=/usr/sbin/xtables-legacy-multi" "$work/xtables=$modules")
for tool in iptables ip6tables; do
  for kind in nft legacy; do
    for suffix in "" -save -restore; do iptables+=("@xtables-$kind-multi=/usr/sbin/$tool-$kind$suffix"); done
  done
done
mapfile -t licences < <(doc iptables libxtables12 libip4tc2 libip6tc2 libnftnl11 libmnl0 libnetfilter-conntrack3 libnfnetlink0)
mapfile -t files < <(programs "${proxy[@]}")
# The lock of the legacy variant would lie in /run, which is read-only. /dev/shm is always writable and the pod's own, as are the tables that it guards.
image weft-proxy 2102:2102 /usr/local/bin/weft-proxy -env XTABLES_LOCKFILE=/dev/shm/xtables.lock "${files[@]}" "${iptables[@]}" ${licences[@]+"${licences[@]}"}
names=()
for name in weft weft-ca weft-controller weft-injector; do names+=("@weft-control=/usr/local/bin/$name"); done
image weft-control 65532:65532 /usr/local/bin/weft "$work/bin/weft-control=/usr/local/bin/weft-control" "${names[@]}"
image sample 65532:65532 /usr/local/bin/weft "$work/bin/weft=/usr/local/bin/weft"
