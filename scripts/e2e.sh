#!/usr/bin/env bash
# Runs e2e/run.py with the pinned real clients in a virtual environment (.venv) that it makes. What cannot run fails.
# Arguments are words: the tests after the last one that has one of them in its title are left out.
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
exec .venv/bin/python -B e2e/run.py "$@"
