#!/usr/bin/env bash
# The platform in containers: compose.sh up|down|logs|config|test, called by `make up` and so on. Further arguments go to
# Compose. On the first run it writes .env and deploy/compose/secrets with fresh passwords.
# SIDE_IMAGES=local builds the PostgreSQL and S3 images from this machine's software (scripts/side-images.sh) instead of
# pulling them; `test` does so by itself where they cannot be pulled.
set -euo pipefail
cd "$(dirname "$0")/.."

engine() {
  if ! command -v docker >/dev/null 2>&1; then
    cat >&2 <<'TXT'
compose: there is no container engine here. What to install:
  Debian, Ubuntu:  sudo apt-get install docker.io docker-compose && sudo systemctl start docker
  Fedora:          sudo dnf install moby-engine docker-compose && sudo systemctl start docker
  macOS, Windows:  Docker Desktop, or colima
Without one everything runs in one process: make run
TXT
    exit 1
  fi
  if ! docker info >/dev/null 2>&1; then
    cat >&2 <<'TXT'
compose: docker is installed, but its daemon does not answer. What may help:
  sudo systemctl start docker      if it is not running (Debian: apt-get install docker.io)
  sudo usermod -aG docker "$USER"  if it runs but you may not use it; log in again afterwards
  export DOCKER_HOST=unix:///…     if its socket is elsewhere
Without an engine everything runs in one process: make run
TXT
    exit 1
  fi
  if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
  elif command -v docker-compose >/dev/null 2>&1; then
    compose=(docker-compose)
  else
    cat >&2 <<'TXT'
compose: Compose is missing (1.29 or newer). What to install:
  Debian, Ubuntu:  sudo apt-get install docker-compose    (or docker-compose-v2)
  Fedora:          sudo dnf install docker-compose
TXT
    exit 1
  fi
}

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# secrets writes what the containers and nobody else shall know. The token's file must be readable for an account inside
# a container, hence 0644; the directory around it keeps this machine's other accounts out.
secrets() {
  if [ ! -e .env ]; then
    (umask 077 && cat >.env.new <<TXT
# Made by 'make up'. The passwords belong to the data in the volumes: keep this file as long as those.
POSTGRES_PASSWORD=$(random 24)
NATS_TOKEN=$(random 24)
S3_ACCESS_KEY=entrepot
S3_SECRET_KEY=$(random 24)
TARGET_SECRET=$(random 32)
TXT
    )
    mv .env.new .env
    echo "compose: wrote .env with fresh passwords" >&2
  fi
  local token
  token=$(sed -n 's/^NATS_TOKEN=//p' .env)
  mkdir -p -m 700 deploy/compose/secrets
  printf '%s\n' "$token" >deploy/compose/secrets/nats-token
  chmod 644 deploy/compose/secrets/nats-token
}

# images loads the platform's image if the engine does not have this build of it, and sees to the other two.
images() {
  if [ -z "${ENTREPOT_IMAGE:-}" ]; then
    scripts/image.sh
    docker load --quiet --input dist/entrepot-image.tar
  fi
  if [ "${SIDE_IMAGES:-}" = local ]; then
    local_sides
  fi
}

local_sides() {
  scripts/side-images.sh
  export POSTGRES_IMAGE=entrepot-postgres:local S3_IMAGE=entrepot-versitygw:local
}

have() { docker image inspect "$1" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$1" >/dev/null 2>&1; }

wait_ready() {
  local url=$1 i
  for i in $(seq 120); do
    if curl -fsS -o /dev/null "$url/health/ready" 2>/dev/null; then return 0; fi
    sleep 1
  done
  echo "compose: the edge is not ready after two minutes: make logs" >&2
  "${compose[@]}" ps >&2
  return 1
}

cmd=${1:-}
[ $# = 0 ] || shift
case "$cmd" in
up)
  engine
  secrets
  images
  "${compose[@]}" up -d "$@"
  url=http://127.0.0.1:${ENTREPOT_HTTP_PORT:-8000}
  wait_ready "$url"
  echo "Entrepot is ready at $url"
  echo "The first administrator's API key:"
  echo "  export ENTREPOT_API_KEY=\$(docker cp $("${compose[@]}" ps -q identity | head -1):/var/lib/entrepot/admin-key - | tar -xO)"
  ;;
down)
  engine
  [ -e .env ] || { echo "compose: nothing was started here (no .env)" >&2; exit 0; }
  "${compose[@]}" down "$@"
  ;;
logs | config)
  engine
  secrets
  "${compose[@]}" "$cmd" "$@"
  ;;
test)
  engine
  [ "$(uname -s)" = Linux ] || { echo "compose-test: needs an engine on this machine itself, on Linux: containers must reach an upstream on the host" >&2; exit 1; }
  # A project, passwords and ports of its own: a running platform is not touched.
  dir=$(mktemp -d)
  export COMPOSE_PROJECT_NAME=entrepot-test-$$ ENTREPOT_HTTP_PORT=0 ENTREPOT_GRPC_PORT=0 ENTREPOT_EGRESS_ALLOW=10.0.0.0/8,172.16.0.0/12,192.168.0.0/16
  export POSTGRES_PASSWORD NATS_TOKEN S3_ACCESS_KEY=entrepot S3_SECRET_KEY TARGET_SECRET NATS_TOKEN_FILE=$dir/nats-token
  POSTGRES_PASSWORD=$(random 24) NATS_TOKEN=$(random 24) S3_SECRET_KEY=$(random 24) TARGET_SECRET=$(random 32)
  printf '%s\n' "$NATS_TOKEN" >"$NATS_TOKEN_FILE"
  chmod 644 "$NATS_TOKEN_FILE"
  ended() {
    status=$?
    trap - EXIT
    [ $status = 0 ] || "${compose[@]}" logs --no-color --tail 60 >"${TMPDIR:-/tmp}/entrepot-compose-test.log" 2>&1 || true
    [ $status = 0 ] || echo "compose-test: failed; the containers' last lines are in ${TMPDIR:-/tmp}/entrepot-compose-test.log" >&2
    "${compose[@]}" down --volumes --remove-orphans --timeout 5 >/dev/null 2>&1 || true
    rm -rf "$dir"
    exit $status
  }
  trap ended EXIT
  images
  if [ "${SIDE_IMAGES:-}" != local ] && ! { have "${POSTGRES_IMAGE:-postgres:17}" && have "${S3_IMAGE:-versity/versitygw:v1.8.0}"; }; then
    echo "compose-test: images cannot be pulled here; building them from this machine's software" >&2
    local_sides
  fi
  COMPOSE="${compose[*]}" go run ./services/cmd/composetest "$@"
  ;;
*)
  echo "usage: compose.sh up|down|logs|config|test [arguments for Compose]" >&2
  exit 2
  ;;
esac
