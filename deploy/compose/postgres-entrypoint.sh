#!/bin/sh
# Entry point of the stand-in PostgreSQL image: makes the cluster, user and database of POSTGRES_USER, POSTGRES_PASSWORD and
# POSTGRES_DB on the first start. There is a shell in the image, but no other tool.
set -eu
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password)
  initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile=/tmp/password --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=trust --auth-host=scram-sha-256
  : >/tmp/password
  printf 'CREATE DATABASE "%s"\n' "$POSTGRES_DB" | postgres --single -D "$PGDATA" postgres >/dev/null
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  printf "listen_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
fi
exec "$@"
