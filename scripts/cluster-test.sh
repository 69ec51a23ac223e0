#!/usr/bin/env bash
# Runs services/cmd/clustertest: the platform as one process per target, over a private PostgreSQL, `entrepot nats` and a
# real S3 server, while parts of it are killed, frozen and stopped. Arguments go to it (-only "health of NATS").
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p bin
[ -x bin/versitygw ] || GOWORK=off go -C deploy/tools build -o "$PWD/bin/" github.com/versity/versitygw/cmd/versitygw
go build -o bin/clustertest ./services/cmd/clustertest
exec bin/clustertest "$@"
