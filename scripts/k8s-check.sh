#!/usr/bin/env bash
# Checks deploy/kubernetes without a cluster: renders base and overlays, holds every object against the JSON schemas of a
# Kubernetes release and of KEDA (kubeconform), the API's Go types and the deployment's own rules, which know the settings
# and ports of this checkout. The schemas are fetched once.
set -euo pipefail
cd "$(dirname "$0")/.."
release=v1.36.0
keda=github.com/kedacore/keda/v2@v2.21.0
keda_sum=h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=
check=deploy/kubernetes/check
schemas=.cache/k8s-schemas/$release
python=${PYTHON:-python3}
recipe() { cat $check/requirements.txt $check/schemas.py $check/crd.go; echo "$keda $keda_sum"; }
if ! recipe | cmp -s - "$schemas/recipe"; then
  "$python" -c 'import pip' 2>/dev/null || { echo "k8s-check: needs Python with pip (Debian: apt-get install python3-pip)" >&2; exit 1; }
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $check/requirements.txt --dest "$tmp"
  rm -rf "$schemas"
  "$python" -B $check/schemas.py "$tmp"/*.whl $release "$schemas"
  # KEDA's definitions are in its module.
  (cd "$tmp" && GOWORK=off GOFLAGS=-mod=mod go mod download -json $keda >keda.json)
  read -r dir sum < <("$python" -c 'import json, sys; m = json.load(open(sys.argv[1])); print(m["Dir"], m["Sum"])' "$tmp/keda.json")
  [ "$sum" = $keda_sum ] || { echo "k8s-check: $keda has the sum $sum, not $keda_sum" >&2; exit 1; }
  GOWORK=off go -C $check run . -schemas "$PWD/$schemas" -crd "$dir/config/crd/bases/keda.sh_scaledobjects.yaml"
  recipe >"$schemas/recipe" # last, so that a broken fetch is made anew
fi
settings=.cache/k8s-schemas/settings.yaml
# Without the variables of whoever calls: the defaults are asked for.
env -i PATH="$PATH" HOME="$HOME" GOFLAGS="${GOFLAGS:-}" GOCACHE="$(go env GOCACHE)" GOMODCACHE="$(go env GOMODCACHE)" GOPROXY="$(go env GOPROXY)" \
  go run ./services/cmd/entrepot config show >$settings
export GOWORK=off K8S_CHECK_SETTINGS=$PWD/$settings
go -C $check test .
go -C $check run . -schemas "$PWD/$schemas" -settings "$PWD/$settings" "$PWD/deploy/kubernetes/base" "$PWD"/deploy/kubernetes/overlays/*/
