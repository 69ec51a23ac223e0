"""Three solvers behind one question: ours, py-rattler, and @conda-org/rattler under Node. And a web server for channels.

A question is a Problem; an answer is the set of files chosen, as "subdir/file" (with several channels the number of the
channel and a colon before it, but for the first), or None if there is no solution. What is
neither, such as a spec that does not parse, is an error and fails the test.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import http.server
import json
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import rattler
from rattler.exceptions import SolverError
from rattler.package.build_string import BuildString
from rattler.repo_data.gateway import SourceConfig

Virtual = tuple[str, str, str]
Answer = frozenset[str] | None

MACHINE: list[Virtual] = [("__archspec", "1", "x86_64_v3"), ("__glibc", "2.39", "0"), ("__linux", "6.8.0", "0"), ("__unix", "0", "0")]
PLATFORMS = ["linux-64", "noarch"]


@dataclass
class Problem:
    specs: list[str]
    constraints: list[str] = field(default_factory=list)
    strategy: str = "highest"
    priority: str = "strict"
    exclude_newer: str = ""  # RFC 3339
    virtual: list[Virtual] = field(default_factory=lambda: list(MACHINE))


class WebServer:
    """Serves a directory on loopback."""

    def __init__(self, root: Path) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement between its head and its body

    def log_message(self, *_: object) -> None:
        pass


class Lines:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, command: list[str | Path]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: dict) -> dict:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args[0]} ended with status {self._process.wait()} instead of an answer to {question}")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        if status := self._process.wait(timeout=30):
            raise RuntimeError(f"{self._process.args[0]} ended with status {status}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_: object) -> None:
        if kind:
            self._process.kill()
            self._process.wait()
        else:
            self.close()


class Entrepot(Lines):
    """`entrepot conda solve --batch` on channels. The encoding says which generation of rattler is to be met."""

    def __init__(self, binary: Path, channels: list[str], encoding: str, platform: str = "linux-64") -> None:
        command = [binary, "conda", "solve", "--batch", "--no-cache", "-q", "--platform", platform, "--encoding", encoding]
        super().__init__(command + [x for c in channels for x in ("-c", c)])
        self._channels = channels

    def solve(self, p: Problem) -> Answer:
        return self.answer({
            "specs": p.specs, "constraints": p.constraints, "strategy": p.strategy, "channel_priority": p.priority,
            "exclude_newer": p.exclude_newer, "virtual_packages": ["=".join(v) for v in p.virtual],
        })

    def answer(self, question: dict) -> Answer:
        got = self.ask(question)
        if got["status"] == "error":
            raise RuntimeError(f"{question}: {got['error']}")
        if got["status"] != "solved":
            return None
        return frozenset(path_of(self._channels, r["channel"], r["subdir"], r["fn"]) for r in got["records"])


class PyRattler:
    """py-rattler on channels, whose indexes it reads once."""

    def __init__(self, channels: list[str], cache: Path, platforms: list[str] | None = None) -> None:
        self._channels, self._platforms = channels, platforms or PLATFORMS
        # Everything from one repodata.json: a channel made here has no shards.
        plain = SourceConfig(sharded_enabled=False, zstd_enabled=False, bz2_enabled=False)
        self._gateway = rattler.Gateway(cache_dir=cache, default_config=plain)

    def solve(self, p: Problem) -> Answer:
        newer = datetime.datetime.fromisoformat(p.exclude_newer) if p.exclude_newer else None
        virtual = [rattler.GenericVirtualPackage(rattler.PackageName(n), rattler.Version(v), BuildString(b)) for n, v, b in p.virtual]
        priority = {"strict": rattler.ChannelPriority.Strict, "flexible": rattler.ChannelPriority.Flexible, "disabled": rattler.ChannelPriority.Disabled}

        async def run():
            return await rattler.solve(
                self._channels, [rattler.MatchSpec(s) for s in p.specs], gateway=self._gateway, platforms=self._platforms,
                virtual_packages=virtual, strategy=p.strategy, channel_priority=priority[p.priority], exclude_newer=newer,
                constraints=[rattler.MatchSpec(s) for s in p.constraints], timeout=datetime.timedelta(seconds=60))

        try:
            return frozenset(path_of(self._channels, r.channel, r.subdir, r.file_name) for r in asyncio.run(run()))
        except SolverError as e:
            if "timeout" in str(e).lower():
                raise
            return None
        except BaseException as e:  # a panic's type is made by the extension and derives from nothing useful
            # resolvo 0.12.1 can panic while it words why there is no solution (conflict.rs: an edge of a conditional
            # dependency leads nowhere). It never gets there if there is one.
            if type(e).__name__ != "RustPanic":
                raise
            return None


class NodeRattler(Lines):
    """@conda-org/rattler under Node. It has no virtual packages, so a channel has to list them as noarch records."""

    def __init__(self, node: str, modules: Path, channels: list[str]) -> None:
        super().__init__([node, Path(__file__).with_name("node") / "oracle.cjs", modules])
        self.channels = channels

    def solve(self, p: Problem) -> Answer:
        assert not p.constraints and not p.exclude_newer and (p.strategy, p.priority) == ("highest", "strict"), p
        got = self.ask({"specs": p.specs, "channels": self.channels, "platforms": PLATFORMS})
        if "error" not in got:
            return frozenset(f for f in got["packages"] if not f.startswith("noarch/__"))
        if not got["error"].startswith("Cannot solve the request because of:"):
            raise RuntimeError(f"{p.specs}: {got['error']}")
        return None


def path_of(channels: list[str], channel: str, subdir: str, file: str) -> str:
    at = [c.rstrip("/") for c in channels].index(channel.rstrip("/"))
    return f"{at}:{subdir}/{file}" if at else f"{subdir}/{file}"


def virtual_records(machine: list[Virtual] = MACHINE) -> dict[str, dict]:
    """A machine's virtual packages as records of a noarch repodata, for a solver that knows no other way."""
    return {
        f"{name}-{version}-{build}.conda": {"name": name, "version": version, "build": build, "build_number": 0, "depends": [], "subdir": "noarch"}
        for name, version, build in machine
    }
