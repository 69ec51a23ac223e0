#!/usr/bin/env bash
# Runs e2e/run.py with the pinned real clients in a virtual environment (.venv) that it makes. What cannot run fails.
# A Node of at least 20 is taken from PATH or else installed there; ENTREPOT_E2E_NODE=install always installs it.
# Arguments are words: the tests after the last one that has one of them in its title are left out. ENTREPOT_E2E_FULL=1
# asks the solvers thousands of questions more.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "e2e: needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv); set PYTHON=… to name one" >&2
  exit 1
fi
command -v curl >/dev/null || { echo "e2e: curl is missing" >&2; exit 1; }
if ! cmp -s e2e/requirements.txt .venv/requirements.txt; then
  echo "e2e: making .venv" >&2
  "$python" -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --requirement e2e/requirements.txt
  cp e2e/requirements.txt .venv/requirements.txt # last, so that a broken installation is made anew
fi
usable() { command -v node npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; }
export PATH="$PWD/.venv/bin:$PATH"
if [ "${ENTREPOT_E2E_NODE:-}" = install ] || ! usable; then
  .venv/bin/pip install --quiet --disable-pip-version-check --requirement e2e/node/requirements.txt
  usable || { echo "e2e: the Node of e2e/node/requirements.txt does not run here" >&2; exit 1; }
fi
if ! cmp -s e2e/node/package-lock.json .venv/node/installed; then
  rm -rf .venv/node && mkdir .venv/node
  cp e2e/node/package.json e2e/node/package-lock.json .venv/node/
  npm ci --prefix .venv/node --ignore-scripts --no-audit --no-fund --silent
  cp e2e/node/package-lock.json .venv/node/installed
fi
exec .venv/bin/python -B e2e/run.py "$@"
