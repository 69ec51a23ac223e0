"""`entrepot conda index` beside conda-index, on the same packages: what the indexes say.

Every record, shard, run_exports and channeldata entry must be equal but for what is listed here and in
docs/conda-conformance.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgpack
import zstandard

import packages
from conda_solve import BINARY, SHARED

HERE = Path(__file__).parent

# conda-index drops two keys of records that are deprecated; we keep whatever a package says. A list of removed files is
# always there in our shards. It counts the format of run_exports.json as 1 where CEP 12 has no number and conda-forge 0.
# channeldata.json says null where nothing is known, as conda-build wrote it; conda-index leaves the key out.
KNOWN = re.compile(r"""
    \S+/(packages|packages\.conda|v3)/\S+/(arch|platform):\ only\ ours.* | \S+/run_exports\.json/info/(arch|platform):\ only\ ours.*
    | \S+/run_exports\.json/info/version:\ ours\ 0,\ theirs\ 1 | \S+/shards/\S+/removed:\ only\ ours,\ \[\]
    | channeldata\.json/packages/\S+:\ only\ ours,\ None""", re.VERBOSE)


def build(root: Path) -> None:
    """The packages of the end-to-end channel, and real ones where there are any."""
    for p in packages.channel_packages():
        p.summary = "made to be indexed"
        p.write(root)
    for folder in ("jancaha-channel",):
        for file in sorted((SHARED / "03-packages" / folder).rglob("*")) if SHARED.is_dir() else []:
            if file.name.endswith((".conda", ".tar.bz2")) and file.parent.name in ("noarch", "linux-64", "win-64"):
                (root / file.parent.name).mkdir(exist_ok=True)
                shutil.copyfile(file, root / file.parent.name / file.name)


def conda_index(root: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "shim")])}
    done = subprocess.run([sys.executable, "-B", "-m", "conda_index", "--channeldata", "--run-exports", "--write-shards", "--no-current-repodata",
                           "--no-rss", "--no-bz2", "--zst", "--threads", "1", root], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def entrepot_index(root: Path) -> None:
    done = subprocess.run([BINARY, "conda", "index", root], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def load(path: Path) -> dict:
    return json.loads(path.read_bytes())


def unpack(path: Path):
    return msgpack.unpackb(zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read())


def shards(root: Path, subdir: str) -> dict[str, dict]:
    """A subdir's shards by name, each checked against the digest that names it."""
    index = unpack(root / subdir / "repodata_shards.msgpack.zst")
    out = {}
    for name, digest in index["shards"].items():
        path = root / subdir / index["info"]["shards_base_url"] / f"{digest.hex()}.msgpack.zst"
        assert hashlib.sha256(path.read_bytes()).digest() == digest, path
        out[name] = unpack(path)
    return out


def differences(ours, theirs, where: str = "") -> list[str]:
    """The leaves in which two documents differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        out = []
        for key in sorted(ours.keys() | theirs.keys()):
            here = f"{where}/{key}"
            if key not in theirs:
                out.append(f"{here}: only ours, {ours[key]!r}")
            elif key not in ours:
                out.append(f"{here}: only theirs, {theirs[key]!r}")
            else:
                out += differences(ours[key], theirs[key], here)
        return out
    return [] if ours == theirs else [f"{where}: ours {ours!r}, theirs {theirs!r}"]


def as_conda_index(_: object) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        ours, theirs = Path(tmp) / "ours", Path(tmp) / "theirs"
        build(ours)
        shutil.copytree(ours, theirs)
        entrepot_index(ours)
        conda_index(theirs)
        found, files = [], 0
        for subdir in sorted(p.name for p in ours.iterdir() if (p / "repodata.json").exists()):
            a, b = load(ours / subdir / "repodata.json"), load(theirs / subdir / "repodata.json")
            files += len(a["packages"]) + len(a["packages.conda"])
            found += differences(a, b, f"{subdir}/repodata.json")
            found += differences(load(ours / subdir / "run_exports.json"), load(theirs / subdir / "run_exports.json"), f"{subdir}/run_exports.json")
            found += differences(shards(ours, subdir), shards(theirs, subdir), f"{subdir}/shards")
        found += differences(load(ours / "channeldata.json"), load(theirs / "channeldata.json"), "channeldata.json")
        new = [f for f in found if not KNOWN.fullmatch(f)]
        assert not new, f"{len(new)} differences of {files} files:\n" + "\n".join(new[:60])
        assert files >= 7, files
        print(f"      conda-index: {files} files, {len(found)} known differences", flush=True)


CASES = [("conda: an index says what conda-index says", as_conda_index)]
