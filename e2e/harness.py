"""The server under test, a proxy that notes what clients ask for, and curl."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 60
STOP_SECONDS = 30


class Server:
    """A fresh `entrepot serve` with its own data directory, on free ports of loopback."""

    def __init__(self, binary: Path, workdir: Path) -> None:
        self.binary = binary
        self.data_dir = workdir / "data"
        self.log_path = workdir / "serve.log"
        self.http_addr = "127.0.0.1:0"
        # The private PostgreSQL may run as another user, which must be able to reach the directory.
        self.data_dir.mkdir(mode=0o711)
        self.start()

    def start(self) -> None:
        """Starts the server; again, it has the address that it had."""
        addr = ["--http-addr", self.http_addr]
        addr += [x for name in ("grpc", "service", "data", "ops") for x in (f"--{name}-addr", "127.0.0.1:0")]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--data-dir", self.data_dir, "--egress-allow", "127.0.0.0/8", *addr],
                env={k: v for k, v in os.environ.items() if not k.startswith("ENTREPOT_") or k == "ENTREPOT_PG_BIN"},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            self.url = self._await_url()
            self.http_addr = self.url.removeprefix("http://")
            self.key = (self.data_dir / "admin-key").read_text().strip()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """Ends the server at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def _await_url(self) -> str:
        """Returns the address that the server prints once it is ready."""
        timer = threading.Timer(READY_SECONDS, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                if m := re.search(r"http://127\.0\.0\.1:\d+", line):
                    # Keep reading, or a full pipe would stop the server.
                    threading.Thread(target=self.process.stdout.read, daemon=True).start()
                    return m.group(0)
        finally:
            timer.cancel()
        raise RuntimeError(f"the server ended, or was not ready in {READY_SECONDS} s; its log:\n{self.log()}")

    def log(self, lines: int = 40) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def children(self) -> list[int]:
        """The process ids of the server's children, its PostgreSQL among them."""
        pid = self.process.pid
        found = []
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(p) for p in task.read_text().split()]
        return found

    def stop(self) -> int:
        """Ends the server as Ctrl-C would and returns its status; kills it if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


def curl(url: str, *args: str, key: str = "", timeout: int = 60) -> Answer:
    """Runs the real curl and returns the last answer that it got."""
    with tempfile.TemporaryDirectory() as tmp:
        head, body = Path(tmp, "head"), Path(tmp, "body")
        # -q: no ~/.curlrc; -g: brackets in URLs mean themselves.
        command = ["curl", "-q", "-g", "-sS", "--noproxy", "*", "--max-time", str(timeout), "-D", head, "-o", body]
        if key:
            command += ["-H", f"X-API-Key: {key}"]
        command += [*args, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"curl {url}: {done.stderr.strip()}")
        block = head.read_text(errors="replace").replace("\r\n", "\n").strip().split("\n\n")[-1].splitlines()
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in block[1:])}
        return Answer(int(block[0].split()[1]), headers, body.read_bytes() if body.exists() else b"")


class Recorder:
    """A forwarding proxy in front of an origin, which notes every request as (method, path, status).

    It is what proves that a client really took the shards, or really did not.
    """

    def __init__(self, origin: str) -> None:
        self.requests: list[tuple[str, str, int]] = []
        host = origin.removeprefix("http://")
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                upstream = http.client.HTTPConnection(host, timeout=60)
                try:
                    headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "te")}
                    upstream.request(self.command, self.path, headers=headers)
                    answer = upstream.getresponse()
                    body = answer.read()
                finally:
                    upstream.close()
                recorder.requests.append((self.command, self.path, answer.status))
                self.send_response(answer.status)
                for k, v in answer.getheaders():
                    if k.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(k, v)
                self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = forward

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def paths(self) -> list[str]:
        return [path for _, path, status in self.requests if status == 200]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Upstream(Recorder):
    """A plain web server over a directory, as a mirror's upstream, which notes what is asked of it."""

    def __init__(self, root: Path) -> None:
        handler = functools.partial(_Quiet, directory=str(root))
        self._files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._files.daemon_threads = True
        threading.Thread(target=self._files.serve_forever, daemon=True).start()
        super().__init__(f"http://127.0.0.1:{self._files.server_port}")

    def close(self) -> None:
        super().close()
        self._files.shutdown()
        self._files.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def wait(what: str, ready, seconds: float = 30):
    """Calls ready until it returns something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        if value := ready():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def refused(what: str):
    """Fails unless the block raises, and shows the error's text to the caller."""
    text: list[str] = []
    try:
        yield text
    except Exception as e:  # the clients' errors have no common base
        cause: BaseException | None = e
        while cause is not None:
            text.append(str(cause))
            cause = cause.__cause__ or cause.__context__
        return
    raise AssertionError(f"{what} was not refused")


def isolated_home(workdir: Path) -> None:
    """Points the clients' caches and credential stores into workdir, away from the user's own."""
    home = workdir / "home"
    home.mkdir()
    for name in [n for n in os.environ if n.startswith(("RATTLER_", "XDG_", "CONDA_", "PIXI_", "QUETZ_")) or n.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ["HOME"] = str(home)
    os.environ["RATTLER_CACHE_DIR"] = str(home / "cache")
    # The fixture's interpreter runs `python3`: the one that runs this.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
