"""2,466 environment files of public pipelines: each must solve or fail as it does with py-rattler.

The files are read by each side's own means (ours by `entrepot conda solve --file`, the oracle's by a YAML library), so a
dependency that is read wrongly shows as a difference. The channels hold only a part of what the files ask for: nineteen in
twenty fail, and must fail on both sides. Each is asked for again without its versions, which more channels can meet.
"""

from __future__ import annotations

import io
import random
import re
import tarfile
import tempfile
from pathlib import Path

import zstandard
from ruamel.yaml import YAML

import validator
from conda_solve import BINARY, FULL, SHARED, Tally, real_channel
from solvers import MACHINE, Entrepot, Problem, PyRattler, WebServer, path_of

CHANNELS = ["conda-forge", "bioconda"]
SAMPLE = 150


def environment_files() -> dict[str, bytes]:
    """The files by path: nf-core's modules and Snakemake's wrappers."""
    out = {}
    for archive in ("nf-core-modules-environment-yml", "snakemake-wrappers-envs-and-pins"):
        raw = zstandard.ZstdDecompressor().stream_reader((SHARED / "06-envspecs" / f"{archive}.tar.zst").open("rb")).read()
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith((".yml", ".yaml")):
                    out[f"{archive}/{member.name}"] = tar.extractfile(member).read()
    return out


def dependencies(text: bytes, channels: dict[str, str]) -> list[str]:
    """The conda dependencies of a file. A channel is written as its address, which the oracle does not know by name."""
    found = YAML(typ="safe").load(text).get("dependencies") or []
    out = []
    for d in found:
        if not isinstance(d, str):
            continue
        channel, colons, rest = d.partition("::")
        out.append(f"{channels.get(channel, channel)}::{rest}" if colons else d)
    return out


def files_as_py_rattler(_: object) -> None:
    if not SHARED.is_dir():
        print(f"      no environment files at {SHARED}", flush=True)
        return
    files = environment_files()
    names = sorted(files)
    if not FULL:
        names = random.Random(2).sample(names, SAMPLE)
    with tempfile.TemporaryDirectory() as tmp, WebServer(Path(tmp)) as web:
        urls = {c: f"{web.url}/{c}" for c in CHANNELS}
        index = validator.Index([real_channel(Path(tmp) / c, c) for c in CHANNELS])
        oracle = PyRattler(list(urls.values()), Path(tmp) / "cache")
        tally, loose = Tally(), Tally()
        path = Path(tmp) / "environment.yml"
        with Entrepot(BINARY, list(urls.values()), "auto") as ours:
            for name in names:
                path.write_bytes(files[name])
                specs = dependencies(files[name], urls)
                compare(tally, index, name, Problem(specs), ours, oracle, {"specs": [], "file": str(path)}, list(urls.values()))
                bare = sorted({re.split(r"[ =<>!~\[]", re.sub(r"^\S+::", "", s))[0] for s in specs})
                compare(loose, index, name, Problem(bare), ours, oracle, {"specs": bare}, list(urls.values()))
        tally.report("environment files")
        loose.report("environment files without versions")


def compare(tally: Tally, index: validator.Index, name: str, p: Problem, ours: Entrepot, oracle: PyRattler, question: dict, urls: list[str]) -> None:
    tally.asked += 1
    got = ours.ask(question | {"virtual_packages": ["=".join(v) for v in MACHINE]})
    if not p.specs:
        if got["status"] != "error":
            tally.wrong.append(f"{name} asks for nothing, and was {got['status']}")
        return
    if got["status"] == "error":
        tally.wrong.append(f"{name}: {got['error']}")
        return
    try:
        theirs = oracle.solve(p)
    except Exception as e:
        tally.wrong.append(f"{name}: the oracle failed: {e}")
        return
    solved = got["status"] == "solved"
    tally.solved += solved
    if solved != (theirs is not None):
        tally.wrong.append(f"{name} {p.specs}: ours is {got['status']}, the oracle says {'solved' if theirs else 'not'}; {got.get('explanation')}")
    if solved:
        answer = frozenset(path_of(urls, r["channel"], r["subdir"], r["fn"]) for r in got["records"])
        # A spec with a channel takes its name from there, so the channels' order says nothing here.
        bare = Problem([re.sub(r"^\S+::", "", s) for s in p.specs], priority="disabled")
        tally.wrong += [f"{name}: ours is not valid: {x}" for x in validator.judge(index, bare, answer)]


CASES = [("conda: environment files solve or fail as with py-rattler", files_as_py_rattler)]
