#!/usr/bin/env bash
# Runs the benchmarks (services/cmd/bench), which need nginx to compare with and wrk to load with. Arguments go to it:
# --only sync,upload,serve,proxy,jobs,metrics,large,clients,index,install,solve; --help lists the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
command -v wrk >/dev/null || missing+=(wrk)
PATH="$PATH:/usr/sbin" command -v nginx >/dev/null || missing+=(nginx-light)
if [ ${#missing[@]} != 0 ]; then
  sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  echo "bench: installing ${missing[*]}" >&2
  # The packages' own service is not wanted: the benchmark runs an nginx of its own. RUNLEVEL=1 keeps it from starting.
  if ! { $sudo apt-get update -qq && $sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
    echo "bench: ${missing[*]} could not be installed; Debian and Ubuntu: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
mkdir -p bin
go build -o bin/bench ./services/cmd/bench
export PATH="$PATH:/usr/sbin"
exec bin/bench "$@"
