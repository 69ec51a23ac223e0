#!/usr/bin/env bash
# Checks deploy/kubernetes without a cluster: renders base and overlays, holds every object against the JSON schemas of a
# Kubernetes release (kubeconform), the API's Go types and the deployment's own rules. The schemas are fetched once.
set -euo pipefail
cd "$(dirname "$0")/.."
release=v1.36.0
check=deploy/kubernetes/check
schemas=.cache/k8s-schemas/$release
python=${PYTHON:-python3}
if ! cmp -s $check/requirements.txt "$schemas/requirements.txt" || ! cmp -s $check/schemas.py "$schemas/schemas.py"; then
  "$python" -c 'import pip' 2>/dev/null || { echo "k8s-check: needs Python with pip (Debian: apt-get install python3-pip)" >&2; exit 1; }
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $check/requirements.txt --dest "$tmp"
  rm -rf "$schemas"
  "$python" -B $check/schemas.py "$tmp"/*.whl $release "$schemas"
  cp $check/requirements.txt $check/schemas.py "$schemas" # last, so that a broken fetch is made anew
fi
export GOWORK=off
go -C $check test .
go -C $check run . -schemas "$PWD/$schemas" "$PWD/deploy/kubernetes/base" "$PWD"/deploy/kubernetes/overlays/*/
