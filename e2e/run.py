"""End-to-end tests: real clients against a real server. Run by `make e2e`. Each test stands on those before it; with
words as arguments, the tests after the last one whose title has such a word are left out.

py-rattler fetches indexes, solves and installs from a hosted, a mirrored, a proxied and a private channel; py-rattler-build
uploads; quetz-client does all that it can; curl uploads and reads with ranges and conditions. A test that cannot run is a failure.

Tests whose titles begin with "conda: " need no server: they run by themselves if the words mean no other.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rattler_build import upload_package_to_quetz

import clients
import conda_channels
import conda_envfiles
import conda_indexes
import conda_packs
import conda_solve
import conda_vectors
import harness
import install_tree
import quetz_checks
import seedpage
from harness import curl, refused
from packages import SUBDIR, index, libtiny, write_channel

ROOT = Path(__file__).resolve().parent.parent
cases: list[tuple[str, object]] = []


def case(title: str):
    """Registers a test. They run in the order in which they stand here, each on what those before it have made."""

    def register(f):
        cases.append((title, f))
        return f

    return register


class World:
    """What the tests share."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        # What is uploaded, and what is mirrored: the same packages in other bytes.
        self.files = write_channel(workdir / "uploads", "made to be uploaded")
        self.upstream_files = write_channel(workdir / "upstream", "made to be mirrored")
        self.upstream = harness.Upstream(workdir / "upstream")
        self.server = harness.Server(ROOT / "bin" / "entrepot", workdir)
        self.url, self.key = self.server.url, self.server.key
        self.host = self.url.removeprefix("http://")

    def close(self) -> None:
        seedpage.close(self)
        self.server.stop()
        self.upstream.close()

    def api(self, method: str, path: str, body: str = "", key: str | None = None) -> harness.Answer:
        args = ["-X", method] + (["-H", "Content-Type: application/json", "-d", body] if body else [])
        return curl(self.url + path, *args, key=self.key if key is None else key)

    def create_channel(self, body: str) -> None:
        answer = self.api("POST", "/api/channels", body)
        assert answer.status == 201, f"{answer.status} {answer.body!r}"

    def upload_with_curl(self, channel: str, path: Path, *args: str, key: str | None = None, digest: str = "") -> harness.Answer:
        query = f"force=false&sha256={digest or sha256(path)}"
        return curl(f"{self.url}/api/channels/{channel}/upload/{path.name}?{query}", "-X", "POST", "--data-binary", f"@{path}", *args,
                    key=self.key if key is None else key)

    def await_listed(self, channel: str, key: str = "") -> None:
        """Waits until repodata.json, which lags behind the shards by one build, lists every package."""

        def listed() -> bool:
            seen: set[str] = set()
            for subdir in clients.SUBDIRS:
                answer = curl(f"{self.url}/channels/{channel}/{subdir}/repodata.json", key=key)
                if answer.status != 200:
                    return False
                data = answer.json()
                seen |= data["packages"].keys() | data["packages.conda"].keys()
            return seen >= self.files.keys()

        harness.wait(f"repodata.json of {channel} to list all packages", listed)

    def install(self, channel_url: str, config, name: str, files: dict[str, Path] | None = None) -> None:
        prefix = self.workdir / f"prefix-{name}"
        clients.solve_and_install(channel_url, config, prefix)
        clients.check_prefix(prefix, files or self.files, channel_url)

    def sync(self, channel: str) -> dict:
        """Starts a sync, follows its event stream to the end and returns the job."""
        answer = self.api("POST", f"/entrepot/v1/channels/{channel}:sync", "{}")
        assert answer.status == 200, f"{answer.status} {answer.body!r}"
        job = answer.json()["id"]
        events = curl(f"{self.url}/entrepot/v1/jobs/{job}/events", "-N", key=self.key)
        assert events.status == 200 and events.headers["content-type"].startswith("text/event-stream"), events
        assert b"event: state" in events.body, events.body
        done = self.api("GET", f"/entrepot/v1/jobs/{job}").json()
        assert done["state"] == "JOB_STATE_SUCCEEDED", done
        return done


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def described(files: dict[str, Path]) -> dict[str, tuple[str, int]]:
    """Sha256 and size of files, by name: what an index must say of them."""
    return {n: (sha256(p), p.stat().st_size) for n, p in files.items()}


@case("py-rattler-build uploads both formats to a hosted channel")
def _(w: World) -> None:
    w.create_channel('{"name": "hosted", "private": false}')
    chosen = [p for n, p in w.files.items() if not n.startswith("libtiny-1")]
    assert {p.suffix for p in chosen} == {".conda", ".bz2"}, chosen
    upload_package_to_quetz([str(p) for p in chosen], w.url, "hosted", api_key=w.key)


@case("curl uploads the rest; a wrong digest, a duplicate and a stranger are refused")
def _(w: World) -> None:
    rest = [p for n, p in w.files.items() if n.startswith("libtiny-1")]
    wrong = w.upload_with_curl("hosted", rest[0], digest="0" * 64)
    assert wrong.status == 406, f"wrong digest: {wrong.status} {wrong.body!r}"
    stranger = w.upload_with_curl("hosted", rest[0], key="")
    assert stranger.status == 401, f"stranger: {stranger.status} {stranger.body!r}"
    for p in rest:
        answer = w.upload_with_curl("hosted", p)
        assert answer.status == 201, f"{p.name}: {answer.status} {answer.body!r}"
    again = w.upload_with_curl("hosted", rest[0])
    assert again.status == 409, f"duplicate: {again.status} {again.body!r}"


@case("py-rattler-build is told of a wrong key and of a duplicate")
def _(w: World) -> None:
    path = str(next(iter(w.files.values())))
    with refused("an upload with a wrong key"):
        upload_package_to_quetz([path], w.url, "hosted", api_key="not-a-key")
    with refused("a duplicate"):
        upload_package_to_quetz([path], w.url, "hosted", api_key=w.key)


@case("rattler reads the hosted channel's shards as soon as the upload was answered")
def _(w: World) -> None:
    proxy = harness.Recorder(w.url)
    try:
        got = clients.records(proxy.url + "/channels/hosted/", clients.SHARDED)
    finally:
        proxy.close()
    assert got == described(w.files), got
    paths = proxy.paths()
    assert any(p.endswith("repodata_shards.msgpack.zst") for p in paths), paths
    assert any("/shards/" in p for p in paths) and not any("repodata.json" in p for p in paths), paths


@case("rattler reads the hosted channel's repodata.json.zst and repodata.json")
def _(w: World) -> None:
    w.await_listed("hosted")
    for config, suffix in ((clients.ZSTD, "/repodata.json.zst"), (clients.JSON, "/repodata.json")):
        proxy = harness.Recorder(w.url)
        try:
            got = clients.records(proxy.url + "/channels/hosted/", config)
        finally:
            proxy.close()
        assert got == described(w.files), f"{suffix}: {got}"
        read = [p for m, p, s in proxy.requests if m == "GET" and s == 200]
        assert read and all(p.endswith(suffix) for p in read), f"{suffix}: {proxy.requests}"


@case("rattler solves and installs from the hosted channel, by shards and without them")
def _(w: World) -> None:
    w.install(w.url + "/channels/hosted/", clients.SHARDED, "hosted-sharded")
    w.install(w.url + "/channels/hosted/", clients.ZSTD, "hosted-zstd")
    w.install(w.url + "/get/hosted/", clients.JSON, "hosted-json")


@case("a mirror synchronises an upstream that rattler indexed, and again without downloading")
def _(w: World) -> None:
    w.create_channel(f'{{"name": "mirror", "private": false, "mirror_channel_url": "{w.upstream.url}", "mirror_mode": "mirror", "actions": []}}')
    result = w.sync("mirror")["result"]
    assert int(result["added"]) == len(w.upstream_files), result
    fetched = [p for p in w.upstream.paths() if p.endswith((".conda", ".tar.bz2"))]
    assert sorted(Path(p).name for p in fetched) == sorted(w.upstream_files), fetched
    w.upstream.requests.clear()
    w.sync("mirror")
    again = [p for p in w.upstream.paths() if p.endswith((".conda", ".tar.bz2"))]
    assert not again, f"downloaded again: {again}"


@case("rattler solves and installs from the mirror, by shards and without them")
def _(w: World) -> None:
    w.await_listed("mirror")
    for config in (clients.SHARDED, clients.ZSTD, clients.JSON):
        assert clients.records(w.url + "/channels/mirror/", config) == described(w.upstream_files), config
    w.upstream.requests.clear()
    w.install(w.url + "/channels/mirror/", clients.SHARDED, "mirror-sharded", w.upstream_files)
    w.install(w.url + "/channels/mirror/", clients.JSON, "mirror-json", w.upstream_files)
    assert not w.upstream.requests, f"the mirror asked upstream: {w.upstream.requests}"


@case("a mirror takes over what upstream adds, keeps what it drops, or drops it too if told to prune")
def _(w: World) -> None:
    root = w.workdir / "changed"
    shutil.copytree(w.workdir / "upstream", root)
    upstream = harness.Upstream(root)
    try:
        for name, policy in (("keeping", "KEEP"), ("pruning", "PRUNE")):
            answer = w.api("POST", "/entrepot/v1/channels",
                           f'{{"name": "{name}", "private": false, "mirror": {{"url": "{upstream.url}", "removal_policy": "REMOVAL_POLICY_{policy}"}}}}')
            assert answer.status == 200, f"{answer.status} {answer.body!r}"
            w.sync(name)
        new, old = libtiny("1.11"), libtiny("1.0")
        new.write(root)
        (root / SUBDIR / old.filename).unlink()
        index(root)
        for name, removed in (("keeping", 0), ("pruning", 1)):
            result = w.sync(name)["result"]
            assert (int(result["added"]), int(result["removed"])) == (1, removed), f"{name}: {result}"
            want = set(w.upstream_files) | {new.filename}
            if removed:
                want -= {old.filename}
            got = set(clients.records(f"{w.url}/channels/{name}/", clients.SHARDED))
            assert got == want, f"{name}: {sorted(got)}"
    finally:
        upstream.close()


@case("rattler solves and installs through a proxy, by shards and without them, and again when upstream is gone")
def _(w: World) -> None:
    files = write_channel(w.workdir / "proxied", "made to be proxied")
    upstream = harness.Upstream(w.workdir / "proxied")
    try:
        w.create_channel(f'{{"name": "proxied", "private": false, "mirror_channel_url": "{upstream.url}", "mirror_mode": "proxy"}}')
        url = w.url + "/channels/proxied/"
        for config in (clients.SHARDED, clients.ZSTD, clients.JSON):
            assert clients.records(url, config) == described(files), config
        w.install(url, clients.SHARDED, "proxied-sharded", files)
        w.install(url, clients.JSON, "proxied-json", files)
        asked = upstream.paths()
        twice = {p for p in asked if p.endswith((".conda", ".tar.bz2")) and asked.count(p) > 1}
        assert not twice, f"asked for more than once: {twice}"
    finally:
        upstream.close()
    w.install(url, clients.SHARDED, "proxied-again", files)


@case("a private channel: uploads by py-rattler-build, nothing for strangers")
def _(w: World) -> None:
    w.create_channel('{"name": "secret", "private": true}')
    upload_package_to_quetz([str(p) for p in w.files.values()], w.url, "secret", api_key=w.key)
    w.await_listed("secret", key=w.key)
    paths = [f"{subdir}/{name}" for subdir in clients.SUBDIRS for name in ("repodata_shards.msgpack.zst", "repodata.json", "repodata.json.zst")]
    paths += [f"{p.parent.name}/{p.name}" for p in w.files.values()]
    for path in paths:
        for mount in ("channels", "get"):
            answer = curl(f"{w.url}/{mount}/secret/{path}")
            assert answer.status == 401, f"{mount}/secret/{path}: {answer.status}"
        assert curl(f"{w.url}/channels/secret/{path}", key=w.key).status == 200, path
    assert curl(f"{w.url}/t/not-a-key/channels/secret/{paths[0]}").status == 401
    listed = [c["name"] for c in curl(w.url + "/api/channels").json()]
    assert "hosted" in listed and "secret" not in listed, listed
    for path in ("/api/channels/secret", "/api/channels/secret/packages", "/api/channels/secret/packages/libtiny/versions"):
        assert curl(w.url + path).status == 401, path


@case("rattler without credentials sees nothing of the private channel")
def _(w: World) -> None:
    clients.logout()
    for config in (clients.SHARDED, clients.ZSTD, clients.JSON):
        with refused("reading a private channel without a key") as text:
            clients.records(w.url + "/channels/secret/", config)
        assert any("401" in t or "nauthorized" in t for t in text), text


@case("rattler installs from the private channel with the key in the path")
def _(w: World) -> None:
    clients.logout()
    channel = f"{w.url}/t/{w.key}/channels/secret/"
    for config, name in ((clients.SHARDED, "sharded"), (clients.ZSTD, "zstd"), (clients.JSON, "json")):
        w.install(channel, config, f"path-token-{name}")


@case("rattler installs from the private channel with credentials of its own store")
def _(w: World) -> None:
    for kind, credential in (
        ("bearer", {"BearerToken": w.key}),
        ("basic", {"BasicHTTP": {"username": "alice", "password": w.key}}),
        ("conda-token", {"CondaToken": w.key}),
    ):
        clients.login(w.workdir, w.host, credential)
        try:
            w.install(w.url + "/channels/secret/", clients.SHARDED, f"store-{kind}")
        finally:
            clients.logout()


@case("a revoked key stops working within five seconds")
def _(w: World) -> None:
    made = w.api("POST", "/api/api-keys", '{"description": "short-lived", "roles": []}')
    assert made.status == 201, f"{made.status} {made.body!r}"
    key = made.json()["key"]
    path = f"/channels/secret/{SUBDIR}/repodata_shards.msgpack.zst"
    assert curl(w.url + path, key=key).status == 200
    gone = w.api("DELETE", f"/api/api-keys/{key}")
    assert gone.status in (200, 204), f"{gone.status} {gone.body!r}"
    begin = time.monotonic()
    harness.wait("the revoked key to be refused", lambda: curl(w.url + path, key=key).status == 401, seconds=5)
    assert time.monotonic() - begin < 5


@case("curl: ranges, also of a suffix longer than the file and beyond its end")
def _(w: World) -> None:
    file = w.files["libtiny-1.10-0.tar.bz2"]
    data, size = file.read_bytes(), file.stat().st_size
    url = f"{w.url}/channels/hosted/{SUBDIR}/{file.name}"
    whole = curl(url)
    assert whole.status == 200 and whole.body == data and whole.headers["accept-ranges"] == "bytes", whole.headers
    for given, first, last in (("0-99", 0, 99), ("100-", 100, size - 1), ("-10", size - 10, size - 1), (f"-{size + 1000}", 0, size - 1), (f"0-{size + 1000}", 0, size - 1)):
        part = curl(url, "-r", given)
        assert part.status == 206, f"{given}: {part.status}"
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}", f"{given}: {part.headers}"
        assert part.body == data[first:last + 1], given
    beyond = curl(url, "-r", f"{size}-")
    assert beyond.status == 416 and beyond.headers["content-range"] == f"bytes */{size}", beyond
    tag = whole.headers["etag"]
    same = curl(url, "-r", "0-9", "-H", f"If-Range: {tag}")
    assert same.status == 206 and same.body == data[:10], same
    other = curl(url, "-r", "0-9", "-H", 'If-Range: "other"')
    assert other.status == 200 and other.body == data, other.status


@case("curl: conditions and HEAD, for packages and for every index file")
def _(w: World) -> None:
    paths = [f"{SUBDIR}/libtiny-1.10-0.tar.bz2", f"{SUBDIR}/libtiny-2.0-0.conda"]
    paths += [f"{subdir}/{name}" for subdir in clients.SUBDIRS for name in ("repodata_shards.msgpack.zst", "repodata.json", "repodata.json.zst")]
    for path in paths:
        url = f"{w.url}/channels/hosted/{path}"
        got = curl(url)
        tag = got.headers.get("etag", "")
        assert got.status == 200 and tag.startswith('"') and tag.endswith('"'), f"{path}: {got.status}, ETag {tag}"
        head = curl(url, "-I")
        assert head.status == 200 and not head.body.strip().startswith(b"{"), path
        for name in ("etag", "content-length", "content-type", "cache-control", "last-modified"):
            assert head.headers.get(name) == got.headers.get(name) is not None, f"{path}: {name}: {head.headers.get(name)}, GET {got.headers.get(name)}"
        assert int(got.headers["content-length"]) == len(got.body), path
        unchanged = curl(url, "-H", f"If-None-Match: {tag}")
        assert unchanged.status == 304 and not unchanged.body, f"{path}: {unchanged.status}"
        assert unchanged.headers["etag"] == tag, path
        assert curl(url, "-H", 'If-None-Match: "other"').status == 200, path
        assert curl(url, "-H", f"If-Modified-Since: {got.headers['last-modified']}").status == 304, path
    assert curl(f"{w.url}/channels/hosted/{SUBDIR}/no-such-1.0-0.conda").status == 404
    assert curl(f"{w.url}/channels/no-such-channel/{SUBDIR}/repodata.json").status == 404


@case("curl resumes a broken download")
def _(w: World) -> None:
    file = w.files["hello-e2e-1.2.0-0.conda"]
    part = w.workdir / "resumed.conda"
    part.write_bytes(file.read_bytes()[:100])
    subprocess.run(["curl", "-q", "-sS", "--noproxy", "*", "--fail", "-C", "-", "-o", part, f"{w.url}/channels/hosted/noarch/{file.name}"], check=True)
    assert part.read_bytes() == file.read_bytes()


@case("quetz-client: users, roles, channels, members, packages, mirrors")
def _(w: World) -> None:
    chosen = [p for n, p in sorted(w.files.items()) if n.endswith(".conda")][:3]
    quetz_checks.check(w.url, w.key, chosen)


cases.extend(seedpage.cases)
standalone = conda_vectors.CASES + conda_solve.CASES + conda_channels.CASES + conda_envfiles.CASES + conda_indexes.CASES + install_tree.CASES + conda_packs.CASES
cases.extend(standalone)


@case("the server ends cleanly and leaves no process behind")
def _(w: World) -> None:
    children = w.server.children()
    status = w.server.stop()
    assert status == 0, f"exit status {status}:\n{w.server.log()}"
    harness.wait(f"children {children} to end", lambda: not any(Path(f"/proc/{p}").exists() for p in children), seconds=10)


def main(words: list[str]) -> int:
    if shutil.which("curl") is None:
        print("e2e: curl is missing", file=sys.stderr)
        return 1
    chosen = cases
    if words:
        last = max((i for i, (title, _) in enumerate(cases) if any(word in title for word in words)), default=None)
        if last is None:
            print(f"e2e: no test has {' or '.join(words)} in its title", file=sys.stderr)
            return 1
        chosen = cases[: last + 1]
        meant = [c for c in cases if any(word in c[0] for word in words)]
        if all(c in standalone for c in meant):
            chosen = meant
    # Ends in the `finally` blocks below, so no process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="entrepot-e2e-", dir="/var/tmp") as tmp:
        workdir = Path(tmp)
        workdir.chmod(0o711)
        harness.isolated_home(workdir)
        world = World(workdir) if any(c not in standalone for c in chosen) else None
        try:
            for title, run in chosen:
                begin = time.monotonic()
                try:
                    run(world)
                except Exception:
                    failed += 1
                    print(f"FAIL  {title}\n{traceback.format_exc()}", flush=True)
                else:
                    passed += 1
                    print(f"PASS  {title}  ({time.monotonic() - begin:.1f} s)", flush=True)
            if failed and world:
                print(f"--- the end of the server's log\n{world.server.log()}", flush=True)
        finally:
            if world:
                world.close()
    print(f"{passed} passed, {failed} failed", flush=True)
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
