"""What the tests do with rattler, and how they check a prefix that it has installed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from rattler import Gateway, install, solve
from rattler.networking import AuthenticationMiddleware, Client
from rattler.repo_data.gateway import SourceConfig

from packages import PLACEHOLDER, SOLUTION, SUBDIR, channel_packages

SUBDIRS = [SUBDIR, "noarch"]
SHARDED = SourceConfig(sharded_enabled=True)
ZSTD = SourceConfig(sharded_enabled=False, zstd_enabled=True, bz2_enabled=False)
JSON = SourceConfig(sharded_enabled=False, zstd_enabled=False, bz2_enabled=False)


def client() -> Client:
    """A client that takes credentials from the user's store and retries nothing, so that each failure is seen."""
    return Client([AuthenticationMiddleware()])


def login(workdir: Path, host: str, credential: dict[str, object]) -> None:
    """Makes credential what rattler's store holds for host."""
    path = workdir / "credentials.json"
    path.write_text(json.dumps({host: credential, host.partition(":")[0]: credential}))
    path.chmod(0o600)
    os.environ["RATTLER_AUTH_FILE"] = str(path)


def logout() -> None:
    os.environ.pop("RATTLER_AUTH_FILE", None)


def gateway(config: SourceConfig) -> Gateway:
    """A gateway with an empty cache."""
    return Gateway(cache_dir=Path(tempfile.mkdtemp(dir=os.environ["HOME"])), default_config=config, client=client())


def names(channel: str, config: SourceConfig) -> set[str]:
    """The names of all packages in the channel's index."""

    async def run():
        return await gateway(config).names([channel], SUBDIRS)

    return {n.normalized for n in asyncio.run(run())}


def records(channel: str, config: SourceConfig) -> dict[str, tuple[str, int]]:
    """Sha256 and size of every file in the channel's index, by file name."""
    specs = sorted({p.name for p in channel_packages()})

    async def run():
        return await gateway(config).query([channel], SUBDIRS, specs, recursive=False)

    return {r.file_name: (r.sha256.hex(), r.size) for source in asyncio.run(run()) for r in source}


def solve_and_install(channel: str, config: SourceConfig, prefix: Path) -> list:
    """Solves for hello-e2e and installs it with what it needs, downloading everything."""

    async def run():
        g, c = gateway(config), client()
        solution = await solve([channel], ["hello-e2e"], gateway=g)
        cache = Path(tempfile.mkdtemp(dir=os.environ["HOME"]))
        await install(solution, prefix, cache_dir=cache, client=c, show_progress=False)
        return solution

    solution = asyncio.run(run())
    chosen = {r.name.normalized: str(r.version) for r in solution}
    assert chosen == SOLUTION, f"solved {chosen}, want {SOLUTION}"
    return solution


def check_prefix(prefix: Path, files: dict[str, Path], channel: str) -> None:
    """Fails unless the prefix is what the packages in files (by file name) make, down to the bytes."""
    for p in channel_packages():
        if SOLUTION.get(p.name) != p.version:
            continue
        record = json.loads((prefix / "conda-meta" / f"{p.stem}.json").read_text())
        digest = hashlib.sha256(files[p.filename].read_bytes()).hexdigest()
        assert record["sha256"] == digest, f"{p.stem}: conda-meta says sha256 {record['sha256']}, the package has {digest}"
        assert record["fn"] == p.filename, record["fn"]
        assert record["url"].startswith(channel.rstrip("/") + "/"), f"{record['url']} is not in {channel}"
        assert record["size"] == files[p.filename].stat().st_size, record["size"]
        for f in p.files:
            path = prefix / f.path
            if p.noarch == "python":
                path = prefix / "lib/python3.11" / f.path
            if f.link:
                assert os.readlink(path) == f.link, f"{path} points to {os.readlink(path)}"
                continue
            want = f.data
            if f.prefix == "text":
                want = want.replace(PLACEHOLDER.encode(), str(prefix).encode())
            elif f.prefix == "binary":
                want = replace_in_binary(want, PLACEHOLDER.encode(), str(prefix).encode())
            assert path.read_bytes() == want, f"{path} has wrong bytes"
            assert path.stat().st_mode & 0o111 == f.mode & 0o111, f"{path} has mode {path.stat().st_mode:o}"
    script = prefix / "bin" / "hello-e2e"
    first = script.read_text().splitlines()[0]
    assert first == f"#!{prefix}/bin/python3.11", f"{script} begins with {first}"
    out = subprocess.run([script, "world"], capture_output=True, text=True, check=True).stdout
    assert out == f"hello {SOLUTION['hello-e2e']} world\n", out


def replace_in_binary(data: bytes, old: bytes, new: bytes) -> bytes:
    """The rule of CEP 34: replaced within each C string, which is padded with NULs to its old length."""
    out = []
    for part in data.split(b"\0"):
        replaced = part.replace(old, new)
        out.append(replaced + b"\0" * (len(part) - len(replaced)))
    return b"\0".join(out)
