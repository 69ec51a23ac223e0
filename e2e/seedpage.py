"""The page of Quetz's manual about mirroring, example by example, between two running servers.

The commands are those of the page: what a shell makes of them is what is sent, with or without a content type, with a space
behind a header's colon or none. Only the addresses are replaced: localhost:8000 by the first server's, and
https://conda.anaconda.org/btel by that of an upstream which notes what it is asked. What the page does between channels of
one server and says is meant for two ("normally they would be two different servers") is done both ways.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rattler import ChannelPriority, install, solve

import clients
import harness
from harness import Answer, wait
from packages import SUBDIR, File, Package, index, libtiny, python

cases: list[tuple[str, object]] = []

# The packages whose names the page's readers put on a proxylist: "too large to keep here".
LARGE = ["cudatoolkit", "cudnn", "mkl", "openjdk", "qt-main", "texlive-core", "tensorflow-base"]


def case(title: str):
    def register(f):
        cases.append(("the mirroring page: " + title, lambda world: f(page(world))))
        return f

    return register


def page(world) -> Page:
    """The page's servers, made when the first example wants them."""
    if getattr(world, "page", None) is None:
        world.page = Page(world)
    return world.page


def close(world) -> None:
    if getattr(world, "page", None) is not None:
        world.page.close()


def small(name: str, version: str, format: str, depends: list[str] = ()) -> Package:
    text = f"{name} {version}\n".encode()
    return Package(name, version, [File(f"share/{name}/readme.txt", text)], format=format, depends=list(depends), summary="of the page")


def write_btel(root: Path) -> dict[str, Path]:
    """An upstream with what the page installs, both formats, and the large ones. Files by name."""
    made = [python(), libtiny("1.10"), small("nrnpython", "7.8", ".tar.bz2", ["neuron >=7"]), small("neuron", "7.8", ".conda"), small("neuron", "7.7", ".tar.bz2")]
    made += [small(name, "1.0", ".conda" if i % 2 else ".tar.bz2") for i, name in enumerate(LARGE)]
    files = {}
    for p in made:
        p.summary = "of the page"
        files[p.filename] = p.write(root)
    index(root)
    return files


class Gate(harness.Recorder):
    """A recorder that can hold an answer back: the moment in which a server is killed."""

    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        handler = self._server.RequestHandlerClass
        forward, gate = handler.forward, self

        def held(self) -> None:
            if "/metrics/" in self.path:
                gate.entered.set()
                gate.open.wait(30)
            try:
                forward(self)
            except OSError:
                pass  # who asked was killed

        handler.forward = handler.do_GET = handler.do_HEAD = held


class Page:
    def __init__(self, world) -> None:
        self.root = world.workdir / "page"
        self.root.mkdir(mode=0o711)
        self.files = write_btel(self.root / "btel")
        self.upstream = harness.Upstream(self.root / "btel")
        self.first = self.second = self.gate = None
        binary = world.server.binary
        try:
            for name in ("first", "second"):
                workdir = self.root / name
                workdir.mkdir(mode=0o711)
                setattr(self, name, harness.Server(binary, workdir))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for it in (self.first, self.second):
            if it is not None:
                it.stop()
        for it in (self.gate, self.upstream):
            if it is not None:
                it.close()

    def run(self, command: str, server: harness.Server | None = None, key: str | None = None) -> Answer:
        """Gives one of the page's commands to a shell and returns what its curl got."""
        server = server or self.first
        host = server.url.removeprefix("http://")
        command = command.replace("https://conda.anaconda.org/btel", self.upstream.url).replace("localhost:8000", host)
        with tempfile.TemporaryDirectory() as tmp:
            head, body = Path(tmp, "head"), Path(tmp, "body")
            # Around the page's curl, not in it: -q: no ~/.curlrc.
            shell = f"curl() {{ command curl -q -sS --noproxy '*' --max-time 60 -D {head} -o {body} \"$@\"; }}\n{command}\n"
            env = dict(os.environ, QUETZ_API_KEY=server.key if key is None else key, QUETZ_HOST=server.url)
            done = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, env=env, check=False)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            lines = head.read_text().replace("\r\n", "\n").strip().split("\n\n")[-1].splitlines()
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
            return Answer(int(lines[0].split()[1]), headers, body.read_bytes() if body.exists() else b"")

    def must(self, status: int, command: str, **how) -> Answer:
        answer = self.run(command, **how)
        assert answer.status == status, f"{answer.status}, not {status}: {answer.body!r}\n{command}"
        return answer

    def get(self, path: str, server: harness.Server | None = None, key: str = "") -> Answer:
        return harness.curl((server or self.first).url + path, key=key)

    def finished(self, answer: Answer, server: harness.Server | None = None) -> dict:
        """Follows the job that an action answered with to its end, and returns it as the platform shows it."""
        server = server or self.first
        return self.ended(answer.json()["id"], server)

    def ended(self, job: int, server: harness.Server, seconds: float = 60) -> dict:
        def look():
            got = self.get(f"/entrepot/v1/jobs/{job}", server, server.key)
            assert got.status == 200, got
            return got.json() if got.json()["state"] in ("JOB_STATE_SUCCEEDED", "JOB_STATE_DEAD", "JOB_STATE_CANCELLED") else None

        done = wait(f"job {job} to end", look, seconds)
        assert done["state"] == "JOB_STATE_SUCCEEDED", done
        return done

    def idle(self, server: harness.Server | None = None) -> None:
        """Waits until no job runs or waits."""
        server = server or self.first
        query = "&".join(f"states=JOB_STATE_{s}" for s in ("QUEUED", "RUNNING"))

        def none() -> bool:
            return self.get(f"/entrepot/v1/jobs?{query}", server, server.key).json()["total_size"] == 0

        wait("all jobs to end", none, 60)

    def asked(self) -> list[str]:
        """What upstream was asked since the last call."""
        asked = [path.lstrip("/") for _, path, _ in self.upstream.requests]
        self.upstream.requests.clear()
        return asked

    def packages(self, channel: str, server: harness.Server | None = None) -> set[str]:
        answer = self.get(f"/api/channels/{channel}/packages", server)
        assert answer.status == 200, answer
        return {p["name"] for p in answer.json()}


def is_package(path: str) -> bool:
    return path.endswith((".conda", ".tar.bz2"))


PROXY = """
curl -X POST "http://localhost:8000/api/channels" \\
    -H  "accept: application/json" \\
    -H  "Content-Type: application/json" \\
    -H  "X-API-Key: ${QUETZ_API_KEY}" \\
    -d '{"name":"proxy-channel",
         "private":false,
         "mirror_channel_url":"https://conda.anaconda.org/btel",
         "mirror_mode":"proxy"}'
"""


@case("a proxy channel asks nothing when it is made")
def _(p: Page) -> None:
    assert p.must(201, PROXY).body == b"null"
    assert p.asked() == []
    assert p.must(401, PROXY.replace("proxy-channel", "other"), key="not-a-key").json() == {"detail": "Not logged in"}
    shown = p.get("/api/channels/proxy-channel").json()
    assert shown["mirror_mode"] == "proxy" and shown["mirror_channel_url"] == p.upstream.url, shown


@case("mamba's -c …/channels/proxy-channel nrnpython, by rattler, with strict priority")
def _(p: Page) -> None:
    channel = p.first.url + "/channels/proxy-channel"

    async def run(config, prefix: Path):
        solution = await solve([channel], ["nrnpython"], gateway=clients.gateway(config), channel_priority=ChannelPriority.Strict)
        await install(solution, prefix, cache_dir=Path(tempfile.mkdtemp(dir=os.environ["HOME"])), client=clients.client(), show_progress=False)
        return {r.name.normalized: str(r.version) for r in solution}

    for i, config in enumerate((clients.SHARDED, clients.ZSTD, clients.JSON)):
        prefix = p.root / f"prefix-{i}"
        chosen = asyncio.run(run(config, prefix))
        assert chosen == {"nrnpython": "7.8", "neuron": "7.8"}, chosen
        assert (prefix / "share/nrnpython/readme.txt").read_text() == "nrnpython 7.8\n"
    fetched = sorted(Path(path).name for path in p.asked() if is_package(path))
    assert fetched == ["neuron-7.8-0.conda", "nrnpython-7.8-0.tar.bz2"], f"each file once, and no other: {fetched}"
    for mount in ("get", "channels"):
        for name in ("nrnpython-7.8-0.tar.bz2", "neuron-7.8-0.conda"):
            got = p.get(f"/{mount}/proxy-channel/{SUBDIR}/{name}")
            assert got.status == 200 and got.body == p.files[name].read_bytes(), got.status
    assert p.asked() == [], "what is cached was asked for again"
    assert p.get("/api/channels/proxy-channel/packages").status == 405


MIRROR = """
curl -X POST "http://localhost:8000/api/channels" \\
    -H  "accept: application/json" \\
    -H  "Content-Type: application/json" \\
    -H  "X-API-Key: ${QUETZ_API_KEY}" \\
    -d '{"name":"mirror-channel",
         "private":false,
         "mirror_channel_url":"https://conda.anaconda.org/btel",
         "mirror_mode":"mirror"}'
"""

POSTPONED = MIRROR.replace('"mirror"}', '"mirror",\n         "actions": []}').replace("mirror-channel", "later-channel")


@case("postponed with actions: [], a mirror sends not one request")
def _(p: Page) -> None:
    p.must(201, POSTPONED)
    p.idle()
    time.sleep(0.5)  # for a request that somebody would make behind our back
    assert p.asked() == []
    assert p.packages("later-channel") == set()


SYNCHRONIZE = """
curl -X PUT localhost:8000/api/channels/later-channel/actions \\
    -H "X-API-Key: ${QUETZ_API_KEY}" \\
    -d '{"action": "synchronize_repodata"}'
"""


@case("synchronize_repodata by hand, without a content type; not for strangers")
def _(p: Page) -> None:
    assert p.must(401, SYNCHRONIZE.replace('    -H "X-API-Key: ${QUETZ_API_KEY}" \\\n', "")).json() == {"detail": "Not logged in"}
    job = p.must(200, SYNCHRONIZE)
    shown = job.json()
    assert set(shown) == {"items_spec", "manifest", "start_at", "repeat_every_seconds", "id", "owner_id", "created", "status"}, shown
    assert shown["manifest"] == "synchronize_repodata" and shown["status"] in ("pending", "running"), shown
    result = p.finished(job)["result"]
    assert int(result["added"]) == len(p.files) and not result["failed"], result
    fetched = sorted(Path(path).name for path in p.asked() if is_package(path))
    # The two that the proxy fetched are stored already.
    assert fetched == sorted(set(p.files) - {"neuron-7.8-0.conda", "nrnpython-7.8-0.tar.bz2"}), fetched
    tasks = p.get(f"/api/jobs/{shown['id']}/tasks?status=success", key=p.first.key).json()
    assert [(t["job_id"], t["package_version"], t["status"]) for t in tasks["result"]] == [(shown["id"], {}, "success")], tasks
    # Again: what has not changed is not fetched.
    result = p.finished(p.must(200, SYNCHRONIZE))["result"]
    assert int(result["added"]) == 0 and int(result["unchanged"]) == len(p.files), result
    assert not [path for path in p.asked() if is_package(path)]


@case("a mirror channel is synchronised when it is made, can be read without a key, and cannot be written")
def _(p: Page) -> None:
    p.must(201, MIRROR)
    wait("the mirror to list everything", lambda: len(p.packages("mirror-channel")) == len({f.rsplit("-", 2)[0] for f in p.files}))
    listed = p.must(200, "curl http://localhost:8000/api/channels/mirror-channel/packages")
    assert {"nrnpython", "neuron", *LARGE} <= {x["name"] for x in listed.json()}, listed.body
    assert not [path for path in p.asked() if is_package(path)], "what the other mirror has was downloaded again"
    refusal = {"detail": "This method is not implemented for mirror channels"}
    name = "neuron-7.8-0.conda"
    write = f"""
    curl -X POST "http://localhost:8000/api/channels/mirror-channel/ROUTE" \\
        -H "X-API-Key: ${{QUETZ_API_KEY}}" """
    for route, more in (
        ("files/", f"-F files=@{p.files[name]}"),
        (f"upload/{name}?sha256=", f"--data-binary @{p.files[name]}"),
        ("packages", """-d '{"name": "another"}'"""),
        ("packages/neuron/files/", f"-F files=@{p.files[name]}"),
        (f"packages/copy?source_channel=later-channel&source_package=neuron&subdir={SUBDIR}&filename={name}", ""),
    ):
        assert p.must(405, write.replace("ROUTE", route) + more).json() == refusal, route
    for route in ("packages/neuron", f"packages/neuron/versions/{SUBDIR}/{name}"):
        assert p.must(405, write.replace("ROUTE", route).replace("POST", "DELETE")).json() == refusal, route


LISTS = """
curl -X PATCH "http://localhost:8000/api/channels/mirror-channel" \\
    -H "X-API-Key: ${QUETZ_API_KEY}" \\
    -d '{"metadata": {"excludelist": [], "includelist": [],
         "proxylist": ["cudatoolkit", "cudnn", "mkl", "openjdk", "qt-main", "texlive-core", "tensorflow-base"]}}'
"""


@case("proxylist on PATCH: seven names redirect, all others stay mirrored")
def _(p: Page) -> None:
    shown = p.must(200, LISTS).json()
    assert set(shown) == {"name", "description", "private", "size_limit", "ttl", "mirror_channel_url", "mirror_mode"}, shown
    result = p.finished(p.must(200, SYNCHRONIZE.replace("later", "mirror")))["result"]
    assert not result["failed"], result
    for name, path in p.files.items():
        got = p.get(f"/get/mirror-channel/{SUBDIR}/{name}")
        if name.rsplit("-", 2)[0] in LARGE:
            assert got.status == 307 and got.headers["location"] == f"{p.upstream.url}/{SUBDIR}/{name}", f"{name}: {got.status} {got.headers}"
        else:
            assert got.status == 200 and got.body == path.read_bytes(), f"{name}: {got.status}"
    assert set(LARGE) <= p.packages("mirror-channel"), "what is proxied is listed all the same"
    assert not [path for path in p.asked() if is_package(path)]


@case("includelist, excludelist and proxylist when a channel is made, and changed on a proxy")
def _(p: Page) -> None:
    def make(name: str, lists: str, mode: str = "mirror", status: int = 201) -> Answer:
        return p.must(status, f"""
        curl -X POST "http://localhost:8000/api/channels" -H "X-API-Key: ${{QUETZ_API_KEY}}" \\
            -d '{{"name": "{name}", "private": false, "mirror_channel_url": "https://conda.anaconda.org/btel", "mirror_mode": "{mode}",
                 "metadata": {lists}}}' """)

    make("included", '{"includelist": ["nrn", "neuron"], "proxylist": ["neuron"]}')
    make("excluded", '{"excludelist": ["cuda", "mkl", "python"]}')
    refused = make("both", '{"includelist": ["a"], "excludelist": ["b"]}', status=422)
    assert refused.json() == {"detail": "Cannot use both `includelist` and `excludelist` together."}, refused.body
    wait("the included channel", lambda: p.packages("included") == {"nrnpython", "neuron"})
    everything = {f.rsplit("-", 2)[0] for f in p.files}
    wait("the excluded channel", lambda: p.packages("excluded") == everything - {"cudatoolkit", "mkl", "python"})
    p.idle()
    assert p.get(f"/get/included/{SUBDIR}/neuron-7.8-0.conda").status == 307
    assert p.get(f"/get/included/{SUBDIR}/nrnpython-7.8-0.tar.bz2").status == 200
    # PATCH has both lists: the include list wins, and what it drops goes with the next sync.
    p.must(200, LISTS.replace("mirror-channel", "excluded").replace('"includelist": []', '"includelist": ["nrnpython"]').replace('"excludelist": []', '"excludelist": ["nrn"]'))
    p.finished(p.must(200, SYNCHRONIZE.replace("later-channel", "excluded")))
    assert "nrnpython" in p.packages("excluded")
    # A proxy's lists change, too.
    p.must(200, LISTS.replace("mirror-channel", "proxy-channel"))
    name = "mkl-1.0-0.tar.bz2" if "mkl-1.0-0.tar.bz2" in p.files else "mkl-1.0-0.conda"
    got = p.get(f"/channels/proxy-channel/{SUBDIR}/{name}")
    assert got.status == 307 and got.headers["location"] == f"{p.upstream.url}/{SUBDIR}/{name}", got
    assert p.get(f"/channels/proxy-channel/{SUBDIR}/neuron-7.7-0.tar.bz2").status == 200
    p.must(200, LISTS.replace("mirror-channel", "proxy-channel").replace(json.dumps(LARGE)[1:-1], ""))
    assert p.get(f"/channels/proxy-channel/{SUBDIR}/{name}").status == 200
    p.idle()
    p.asked()


# As the page has it: with a comma before the closing brace.
REINDEX = """
curl -X POST "http://localhost:8000/api/channels" \\
    -H  "accept: application/json" \\
    -H  "Content-Type: application/json" \\
    -H  "X-API-Key: ${QUETZ_API_KEY}" \\
    -d '{
     "name":"later-channel",
     "private":false,
     "mirror_channel_url":"https://conda.anaconda.org/btel",
     "mirror_mode":"mirror",
     "actions": ["reindex"],
   }'
"""


@case("reindex after the database was lost: all files return, without a request upstream")
def _(p: Page) -> None:
    p.idle()
    wait("the extras", lambda: p.get("/get/later-channel/channeldata.json").status == 200)

    def indexes() -> dict[str, object]:
        return {s: p.get(f"/get/later-channel/{s}/repodata.json").json() for s in ("noarch", SUBDIR)}

    before = indexes()
    p.first.stop()
    # The database is gone, and what NATS remembers with it. The blobs and the master key stay.
    gone = [d for d in p.first.data_dir.iterdir() if d.is_dir() and d.name != "blobs"]
    assert any((d / "PG_VERSION").exists() or list(d.glob("*/PG_VERSION")) for d in gone), f"no database among {gone}"
    for d in gone:
        shutil.rmtree(d)
    (p.first.data_dir / "admin-key").unlink()
    p.first.start()
    assert p.get("/api/channels").json() == []
    p.must(201, REINDEX)
    wait("the files to return", lambda: len(p.packages("later-channel")) == len({f.rsplit("-", 2)[0] for f in p.files}))
    p.idle()
    for name, path in p.files.items():
        got = p.get(f"/get/later-channel/{SUBDIR}/{name}")
        assert got.status == 200 and got.body == path.read_bytes(), f"{name}: {got.status}"
    wait("the indexes to say what they said", lambda: indexes() == before)
    assert {Path(name).suffix for name in p.files} == {".bz2", ".conda"}
    assert p.asked() == [], "reindex asked upstream"


@case("… and a later synchronisation downloads only what is absent")
def _(p: Page) -> None:
    new = small("brand-new", "1.0", ".conda")
    p.files[new.filename] = new.write(p.root / "btel")
    index(p.root / "btel")
    result = p.finished(p.must(200, SYNCHRONIZE))["result"]
    assert int(result["added"]) == 1 and int(result["unchanged"]) == len(p.files) - 1, result
    assert [path for path in p.asked() if is_package(path)] == [f"{SUBDIR}/{new.filename}"]


REGISTER = """
curl -X POST "http://localhost:8000/api/channels/my-channel/mirrors" \\
    -H "X-API-Key: ${QUETZ_API_KEY}" \\
    -d '{"url": "http://localhost:8000/get/mirror-channel",
         "api_endpoint": "http://localhost:8000/api/channels/mirror-channel",
         "metrics_endpoint": "http://localhost:8000/metrics/channels/mirror-channel"}'
"""


@case("registering a mirror, on one server and with a variable that no shell expands")
def _(p: Page) -> None:
    p.must(201, """
    curl -X POST "http://localhost:8000/api/channels" -H "X-API-Key: ${QUETZ_API_KEY}" -d '{"name": "my-channel", "private": false}' """)
    for name in ("nrnpython-7.8-0.tar.bz2", "neuron-7.8-0.conda"):
        p.must(201, f"""
        curl -X POST "http://localhost:8000/api/channels/my-channel/files/" -H "X-API-Key: ${{QUETZ_API_KEY}}" -F files=@{p.files[name]}""")
    p.must(201, MIRROR)
    # A mirror copies what the index lists, which follows an upload by a moment.
    wait("the index of my-channel", lambda: len(p.get(f"/get/my-channel/{SUBDIR}/repodata.json").body.split(b'"sha256"')) == 3)
    wait("my-channel's channeldata.json", lambda: SUBDIR in p.get("/get/my-channel/channeldata.json").json()["subdirs"])
    p.idle()
    assert p.must(201, REGISTER).body == b"null"
    listed = p.must(200, 'curl "http://localhost:8000/api/channels/my-channel/mirrors"').json()
    url = p.first.url
    assert [{k: v for k, v in m.items() if k != "id"} for m in listed] == [{
        "url": f"{url}/get/mirror-channel", "api_endpoint": f"{url}/api/channels/mirror-channel", "metrics_endpoint": f"{url}/metrics/channels/mirror-channel",
    }], listed
    assert len(listed[0]["id"]) == 36
    # Twice is once; and without endpoints they follow from the URL.
    p.must(201, REGISTER)
    p.must(201, """
    curl -X POST ${QUETZ_HOST}/api/channels/my-channel/mirrors -H "X-API-Key: ${QUETZ_API_KEY}" -d "{\\"url\\": \\"${QUETZ_HOST}/get/mirror-channel\\"}" """)
    assert p.get("/api/channels/my-channel/mirrors").json() == listed
    literal = p.must(422, """
    curl -X POST ${QUETZ_HOST}/api/channels/my-channel/mirrors -H "X-API-Key: ${QUETZ_API_KEY}" -d '{"url": "${QUETZ_HOST}/get/mirror-channel"}' """)
    assert "single quotes" in literal.json()["detail"], literal.body
    local = p.must(404, REGISTER.replace("mirror-channel", "my-channel"))
    assert local.json() == {"detail": "URL is not a mirror server"}, local.body
    p.must(401, REGISTER.replace('    -H "X-API-Key: ${QUETZ_API_KEY}" \\\n', ""))


CREATE_AND_REGISTER = """
curl -X POST "localhost:8000/api/channels?register_mirror=true&mirror_api_key=${QUETZ_API_KEY}"  \\
    -d '{"name": "my-mirror-channel",
         "private": false,
         "mirror_channel_url": "http://localhost:8000/get/my-channel",
         "mirror_mode": "mirror"}' \\
    -H "x-api-key: ${QUETZ_API_KEY}"
"""


@case("a mirror is made and registered at once: of its own server, and of another one")
def _(p: Page) -> None:
    p.must(201, CREATE_AND_REGISTER)
    first, second = p.first.url, p.second.url
    # The same command for the second server: its own key makes the channel, the first one's registers it there.
    command = CREATE_AND_REGISTER.replace("mirror_api_key=${QUETZ_API_KEY}", f"mirror_api_key={p.first.key}")
    command = command.replace("http://localhost:8000/get/my-channel", f"{first}/get/my-channel")
    p.must(201, command, server=p.second)

    def registered() -> dict[str, dict]:
        return {m["url"]: m for m in p.must(200, 'curl "http://localhost:8000/api/channels/my-channel/mirrors"').json()}

    want = {f"{first}/get/mirror-channel", f"{first}/get/my-mirror-channel", f"{second}/get/my-mirror-channel"}
    wait("both mirrors to be registered", lambda: set(registered()) == want)
    m = registered()[f"{second}/get/my-mirror-channel"]
    assert (m["api_endpoint"], m["metrics_endpoint"]) == (f"{second}/api/channels/my-mirror-channel", f"{second}/metrics/channels/my-mirror-channel"), m
    for server in (p.first, p.second):
        wait("the mirror to have both packages", lambda: p.packages("my-mirror-channel", server) == {"nrnpython", "neuron"})
    # With a key that may not register anything there, the channel is made all the same.
    p.must(201, command.replace("my-mirror-channel", "unwelcome").replace(p.first.key, "not-a-key"), server=p.second)
    p.idle(p.second)
    assert set(registered()) == want
    for server in (p.first, p.second):
        assert server.key not in server.log(100_000), "a key is in the log"
    assert p.first.key not in p.second.log(100_000), "the other server's key is in the log"


METRICS = """
curl -X PUT http://localhost:8000/api/channels/my-channel/actions \\
    -H "x-api-key:${QUETZ_API_KEY}" \\
    -d '{"action": "synchronize_metrics"}'
"""


@case("synchronize_metrics: the mirrors' whole hours come over exactly once, whoever is killed meanwhile")
def _(p: Page) -> None:
    if datetime.now(timezone.utc).minute >= 58:  # the hour must not turn while we count hours
        time.sleep((60 - datetime.now(timezone.utc).minute) * 60)
    file = f"{SUBDIR}/neuron-7.8-0.conda"
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    told = [(hour - timedelta(hours=5), 3), (hour - timedelta(hours=2), 4)]

    def count_on(server: harness.Server, source: str, points) -> None:
        """Downloads of former hours, by the route that takes them over from elsewhere."""
        body = {"source_id": source, "source": "the past", "files": [{"path": file, "interval": "INTERVAL_HOUR", "series": [{"time": t.strftime("%Y-%m-%dT%H:%M:%SZ"), "count": n} for t, n in points]}]}
        got = harness.curl(f"{server.url}/entrepot/v1/channels/my-mirror-channel/metrics/imports", "-X", "POST", "-d", json.dumps(body), key=server.key)
        assert got.status == 200, got

    def series(period: str = "H") -> dict[str, int]:
        got = p.get(f"/metrics/channels/my-channel?period={period}&start=2000-01-01T00:00:00").json()["packages"]
        return {x["timestamp"]: x["count"] for x in got.get(file, {"series": []})["series"]}

    def total() -> int:
        return p.get(f"/metrics/channels/my-channel/packages/neuron/versions/{file}").json()["total"]

    count_on(p.second, "6f1d38a5-5a5a-4a64-9f5c-0e8f3ad1c001", told)
    # The current hour is not over: it is left for later.
    assert p.get("/get/my-mirror-channel/" + file, p.second).status == 200
    had = 1  # by the other server's mirror; the one beside it found the bytes stored already
    wait("the mirror's own download to be counted", lambda: total() == had)
    job = p.must(200, METRICS)
    assert job.json()["manifest"] == "synchronize_metrics", job.body
    result = p.finished(job)["result"]
    by_url = {m["url"]: m for m in result["mirrors"]}
    assert int(by_url[f"{p.second.url}/get/my-mirror-channel"]["downloads"]) == 7, result
    assert total() == had + 7
    want = {t.strftime("%Y-%m-%dT%H:%M:%S"): n for t, n in told}
    assert {t: n for t, n in series().items() if t in want} == want, series()
    assert sum(series("Y").values()) == had + 7
    # Run twice, counted once.
    p.finished(p.must(200, METRICS))
    assert total() == had + 7
    # Killed after it was counted, and asked again.
    p.first.kill()
    p.first.start()
    p.finished(p.must(200, METRICS))
    assert total() == had + 7, f"{total()} downloads after a kill, want {had + 7}"
    # Killed while a mirror is about to answer. Its counts are those of a mirror that nobody asked yet.
    p.gate = Gate(p.second.url)
    p.must(201, REGISTER.replace("http://localhost:8000/get/mirror-channel", p.gate.url + "/get/my-mirror-channel")
           .replace("http://localhost:8000/api/channels/mirror-channel", p.gate.url + "/api/channels/my-mirror-channel")
           .replace("http://localhost:8000/metrics/channels/mirror-channel", p.gate.url + "/metrics/channels/my-mirror-channel"))
    p.gate.open.clear()
    number = p.must(200, METRICS).json()["id"]
    assert p.gate.entered.wait(30), "the mirror was not asked"
    p.first.kill()
    p.gate.open.set()
    p.first.start()
    p.ended(number, p.first)
    assert total() == had + 14, f"{total()} downloads after a kill, want {had + 14}"
    p.finished(p.must(200, METRICS))
    assert total() == had + 14
    queries = [path for _, path, _ in p.gate.requests if "/metrics/" in path]
    # After the kill the question is asked again, in an hour that may be the next.
    ends = {(hour + timedelta(hours=n)).strftime("%Y-%m-%dT%H:%M:%S") for n in (0, 1)}
    assert queries and set(queries) <= {f"/metrics/channels/my-mirror-channel?period=H&end={end}" for end in ends}, queries
