#!/usr/bin/env bash
# Static checks over all modules. Prints every finding; fails on any.
set -uo pipefail
cd "$(dirname "$0")/.."
status=0
unformatted=$(bin/gofumpt -l $(git ls-files '*.go' | grep -vE '\.pb(\.gw)?\.go$'))
if [ -n "$unformatted" ]; then
  printf 'lint: not formatted (make fmt):\n%s\n' "$unformatted" >&2
  status=1
fi
go vet work || status=1
bin/staticcheck ./proto/entrepot/... ./pkg/... ./services/... ./gateway/... || status=1
for m in proto pkg services gateway examples/grpcclient; do
  GOWORK=off go -C "$m" mod verify >/dev/null || { echo "lint: $m: go mod verify failed" >&2; status=1; }
  GOWORK=off go -C "$m" build ./... || { echo "lint: $m does not build on its own" >&2; status=1; }
done
for f in scripts/*.sh .ci/run; do bash -n "$f" || status=1; done
[ $status = 0 ] && echo "lint: ok"
exit $status
