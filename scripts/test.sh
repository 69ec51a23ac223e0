#!/usr/bin/env bash
# Runs every test of the workspace against one private PostgreSQL (started and stopped by testpg), JetStream in
# process, and the S3 server that `make tools` builds. RACE=1 adds the race detector; $1 narrows by test name.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p bin
[ -x bin/versitygw ] || GOWORK=off go -C deploy/tools build -o "$PWD/bin/" github.com/versity/versitygw/cmd/versitygw
go build -o bin/testpg ./pkg/pg/pgtest/cmd/testpg
CGO_ENABLED=0 go build -trimpath -o bin/entrepot ./services/cmd/entrepot
export ENTREPOT_TEST_VERSITYGW="$PWD/bin/versitygw" ENTREPOT_TEST_BIN="$PWD/bin/entrepot"
flags=(-timeout 20m)
[ -n "${RACE:-}" ] && flags+=(-race)
[ -n "${1:-}" ] && flags+=(-run "$1")
bin/testpg go test "${flags[@]}" ./proto/... ./pkg/... ./services/... ./gateway/...
