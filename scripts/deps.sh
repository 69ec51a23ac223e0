#!/usr/bin/env bash
# Installs what the platform needs beside Go: a PostgreSQL server (15 or newer). Changes nothing where it is there already.
set -euo pipefail

have_postgres() {
  [ -n "${ENTREPOT_PG_BIN:-}" ] && [ -x "$ENTREPOT_PG_BIN/initdb" ] && return 0
  command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1 && return 0
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

apt_install() {
  local sudo=""
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo="sudo -n"; else return 1; fi
  fi
  command -v apt-get >/dev/null 2>&1 || return 1
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if ! command -v go >/dev/null 2>&1; then
  echo "deps: Go 1.26 or newer is missing: https://go.dev/dl/" >&2
  exit 1
fi
if ! have_postgres; then
  echo "deps: installing postgresql" >&2
  if ! apt_install postgresql; then
    cat >&2 <<'TXT'
deps: PostgreSQL 15 or newer is missing, and it could not be installed here.
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora:          sudo dnf install postgresql-server
  macOS:           brew install postgresql@17
  elsewhere:       put initdb and postgres on PATH, or name their directory in ENTREPOT_PG_BIN,
                   or run with --database-url postgres://…
TXT
    exit 1
  fi
fi
