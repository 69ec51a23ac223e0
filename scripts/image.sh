#!/usr/bin/env bash
# Builds the static binary and, without a container engine, the image around it: dist/entrepot-image.tar for `docker load`
# and dist/entrepot-oci, an OCI layout. `image.sh check` does it twice in different places and compares every byte.
# VERSION, LDFLAGS, GOARCH, ENTREPOT_IMAGE (the name in the archive) come from the environment.
set -euo pipefail
shopt -s inherit_errexit # a build that fails inside $(…) must end the script
cd "$(dirname "$0")/.."
export GOFLAGS=-buildvcs=false CGO_ENABLED=0 GOOS=linux
arch=${GOARCH:-$(go env GOARCH)}
tag=${ENTREPOT_IMAGE:-entrepot:local}

build() { # <directory>
  mkdir -p "$1"
  GOARCH=$arch go build -trimpath -ldflags "${LDFLAGS:--s -w}" -o "$1/entrepot" ./services/cmd/entrepot
  GOOS="" GOWORK=off go -C deploy/tools run ./image -binary "$1/entrepot" -arch "$arch" -version "${VERSION:-dev}" -tag "$tag" -out "$1"
}

case "${1:-build}" in
build)
  mkdir -p dist
  dist=$(cd dist && pwd)
  digest=$(build "$dist")
  echo "image: $tag ($arch) $digest"
  echo "image: dist/entrepot-image.tar, $(du -h dist/entrepot-image.tar | cut -f1); dist/entrepot-oci"
  ;;
check)
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  one=$(build "$tmp/one")
  two=$(build "$tmp/somewhere/else")
  diff -r "$tmp/one" "$tmp/somewhere/else"
  [ "$one" = "$two" ] || { echo "image-check: $one and then $two" >&2; exit 1; }
  echo "image-check: ok, $one twice"
  ;;
*)
  echo "usage: image.sh [build|check]" >&2
  exit 2
  ;;
esac
