#!/usr/bin/env bash
# Prints the path of the image packer, which is built at first use (five seconds, standard library only) and kept by the content of its sources.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${WEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weft}
pack="$cache/bin/pack-$(cat "$here"/pack/{go.mod,main.go,layer.go,image.go} | sha256sum | cut -c1-16)"
if [ ! -x "$pack" ]; then
  command -v go >/dev/null || { echo "weft: Go is needed to pack images: install the Go toolchain" >&2; exit 1; }
  mkdir -p "$cache/bin"
  (cd "$here/pack" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$pack.$$" . && mv "$pack.$$" "$pack")
fi
echo "$pack"
