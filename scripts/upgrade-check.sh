#!/usr/bin/env bash
# Guards the upgrade rule: versions N and N−1 run together (docs/operations.md, "Upgrading").
#  - protos stay compatible with the last release, or before the first with where this branch left the main one (buf breaking);
#  - a migration that was released is never changed; newer ones only expand (services/internal/migrationlint);
#  - job arguments keep fields that the version does not know (pkg/jobs);
#  - this version starts and works on the next one's database, and is refused by one that is further (pkg/pg, upgradetest).
set -euo pipefail
cd "$(dirname "$0")/.."
status=0

# last_release is the newest release before this commit: the release's own commit is compared with the one before it.
last_release() { git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null; }

# fork_point is where this branch left the main one; on the main one, the commit before.
fork_point() {
  local ref base
  for ref in origin/HEAD origin/main main; do
    base=$(git merge-base HEAD "$ref" 2>/dev/null) || continue
    if [ "$base" != "$(git rev-parse HEAD)" ]; then echo "$base"; return; fi
  done
  git rev-parse --verify --quiet 'HEAD^'
}

if ! git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
  echo "upgrade-check: NOT CHECKED: not a git checkout, so there is nothing to compare protos and migrations with" >&2
elif tag=$(last_release) && [ -n "$tag" ]; then
  base=$tag
else
  tag=""
  base=$(fork_point) || base=""
  if [ -z "$base" ]; then
    echo "upgrade-check: NOT CHECKED: this commit has no ancestor here (the first one, or a shallow clone: git fetch --unshallow --tags)" >&2
  fi
fi

if [ -n "${base:-}" ]; then
  if [ -z "$(git ls-tree -r --name-only "$base" -- proto/entrepot | grep '\.proto$' || true)" ]; then
    echo "upgrade-check: NOT CHECKED: $base has no protos" >&2
  elif bin/buf breaking --against ".git#ref=$base"; then
    echo "upgrade-check: protos are compatible with $base"
  else
    echo "upgrade-check: protos break those who speak $base's; deprecate and add instead" >&2
    status=1
  fi
  if [ -n "$tag" ]; then
    changed=$(git diff --name-status --diff-filter=MDRT "$tag" -- '*/migrations/*.sql')
    if [ -n "$changed" ]; then
      printf 'upgrade-check: %s was released with these migrations; databases have them as they were. Add another instead:\n%s\n' "$tag" "$changed" >&2
      status=1
    else
      echo "upgrade-check: the migrations of $tag are untouched"
    fi
  else
    echo "upgrade-check: nothing has been released, so migrations may still change"
  fi
fi

go test -count=1 ./services/internal/migrationlint || status=1
go build -o bin/testpg ./pkg/pg/pgtest/cmd/testpg
bin/testpg go test -count=1 -run 'TestArguments' ./pkg/jobs || status=1
bin/testpg go test -count=1 -run 'TestReleases|TestMinVersion' ./pkg/pg || status=1
bin/testpg go test -count=1 ./services/cmd/entrepot/internal/upgradetest || status=1
exit $status
