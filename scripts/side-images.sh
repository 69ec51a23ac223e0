#!/usr/bin/env bash
# Builds stand-ins for the PostgreSQL and S3 images of docker-compose.yml where none can be pulled: from this machine's own
# PostgreSQL and from the S3 server of deploy/tools. For tests; entrepot-postgres:local behaves as the official image does
# for the settings that docker-compose.yml uses.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pg_bin=${ENTREPOT_PG_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
[ -x "$pg_bin/pg_config" ] || pg_bin=$(dirname "$(readlink -f "$(command -v initdb)")")
share=$(cd "$pg_bin/.." && pwd)/share
[ -d "$share" ] || share=/usr/share/postgresql/$(basename "$(dirname "$pg_bin")")
root=$work/postgres/root
mkdir -p "$root"/{tmp,var/run/postgresql,var/lib/postgresql/data,etc,bin,usr/local/bin,"$(dirname "$pg_bin")"}
cp -a "$pg_bin" "$root$pg_bin"
[ ! -d "$pg_bin/../lib" ] || cp -a "$pg_bin/../lib" "$root$(dirname "$pg_bin")/lib"
rm -rf "$root$(dirname "$pg_bin")"/lib/{bitcode,pgxs,llvmjit*} # the JIT compiler alone would be two thirds of the image
mkdir -p "$root$share" && cp -aL "$share/." "$root$share/"
for d in /usr/share/zoneinfo /usr/lib/locale; do [ ! -d "$d" ] || { mkdir -p "$root$d" && cp -a "$d/." "$root$d/"; }; done
cp -L /bin/sh "$root/bin/sh" # initdb starts its helpers by a shell
# Every shared library that any of it needs, under the name by which the loader asks for it.
{ find "$root$(dirname "$pg_bin")" -type f \( -perm -u+x -o -name '*.so' \) -print0 | xargs -0 ldd "$root/bin/sh" 2>/dev/null || true; } |
  grep -oE '/[^ ]+\.so[^ ]*' | grep -v "^$root" | grep -v ':$' | sort -u | while read -r lib; do
  [ -e "$lib" ] || continue
  mkdir -p "$root$(dirname "$lib")"
  cp -L "$lib" "$root$lib"
done
for program in postgres initdb psql pg_isready; do ln -s "$pg_bin/$program" "$root/usr/local/bin/$program"; done
printf 'root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\npostgres:x:999:\n' >"$root/etc/group"
cp deploy/compose/postgres-entrypoint.sh "$root/usr/local/bin/entrypoint"
chmod 755 "$root/usr/local/bin/entrypoint"
chmod 1777 "$root/tmp"
cat >"$work/postgres/Dockerfile" <<'TXT'
FROM scratch
COPY root/ /
COPY --chown=999:999 root/var/lib/postgresql/ /var/lib/postgresql/
COPY --chown=999:999 root/var/run/postgresql/ /var/run/postgresql/
ENV PATH=/usr/local/bin:/bin LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["/bin/sh", "/usr/local/bin/entrypoint"]
CMD ["postgres"]
TXT
DOCKER_BUILDKIT=0 docker build --quiet -t entrepot-postgres:local "$work/postgres"

mkdir -p "$work/s3/root"/{data,tmp} bin
GOWORK=off CGO_ENABLED=0 GOOS=linux go -C deploy/tools build -trimpath -ldflags '-s -w' -o "$work/s3/root/versitygw" github.com/versity/versitygw/cmd/versitygw
cat >"$work/s3/Dockerfile" <<'TXT'
FROM scratch
COPY root/ /
VOLUME /data
EXPOSE 7070
ENTRYPOINT ["/versitygw"]
TXT
DOCKER_BUILDKIT=0 docker build --quiet -t entrepot-versitygw:local "$work/s3"
