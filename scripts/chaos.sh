#!/usr/bin/env bash
# Runs the fault scenarios (services/cmd/chaos) against bin/entrepot, each also without its guard. Arguments go to it:
# --quick, --full, --scenario race,locks, --list, --report docs/benchmarks/<date>-chaos.json.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p bin
CGO_ENABLED=0 go build -o bin/chaos ./services/cmd/chaos
exec bin/chaos --entrepot bin/entrepot --source "$PWD" "$@"
