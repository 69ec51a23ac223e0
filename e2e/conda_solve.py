"""The solver beside two others, on made channels and on a real one: equal sets of files, and each judged by itself.

py-rattler solves with resolvo 0.12, which shares clauses; @conda-org/rattler 0.3.5 is older and does not. Ours can do
either (--encoding), so both are met record by record. ENTREPOT_E2E_FULL=1 asks more. What differs nevertheless is in docs/conda-conformance.md.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import zstandard

import universes
import validator
from solvers import Entrepot, NodeRattler, Problem, PyRattler, WebServer, virtual_records

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "bin" / "entrepot"
MODULES = ROOT / ".venv" / "node"
SHARED = ROOT.parent / "shared" / "data"
FULL = os.environ.get("ENTREPOT_E2E_FULL", "") not in ("", "0")

# Ties of the last key: rattler shuffles records that are equal in all others (docs/conda-conformance.md).
TIES = {"linux-64/libcblas-3.11.0-0_h0358290_openblas.conda", "linux-64/libcblas-3.11.0-3_hfef963f_mkl.conda"}


def node() -> str:
    """The Node that scripts/e2e.sh found or installed."""
    found = shutil.which("node")
    assert found, "node is missing; run scripts/e2e.sh, which installs it"
    assert (MODULES / "node_modules" / "@conda-org" / "rattler").is_dir(), f"no node_modules in {MODULES}; run scripts/e2e.sh"
    return found


class Tally:
    """Counts answers, and keeps the first few that are wrong."""

    def __init__(self) -> None:
        self.asked = self.solved = 0
        self.wrong: list[str] = []

    def compare(self, index: validator.Index, p: Problem, ours, theirs, known: set[str] = frozenset()) -> None:
        self.asked += 1
        if ours is not None:
            self.solved += 1
            self.wrong += [f"{p.specs}: ours is not valid: {x}" for x in validator.judge(index, p, ours)]
        if (ours is None) != (theirs is None):
            self.wrong.append(f"{p}: solved is {ours is not None}, the oracle says {theirs is not None}")
        elif ours is not None and ours ^ theirs and not ours ^ theirs <= known:
            self.wrong.append(f"{p}: ours {sorted(ours - theirs)}, theirs {sorted(theirs - ours)}")

    def report(self, what: str, both: bool = True, least: int = 1) -> None:
        assert not self.wrong, f"{what}: {len(self.wrong)} of {self.asked} differ:\n" + "\n".join(self.wrong[:10])
        assert self.solved >= least, f"{what}: only {self.solved} were solved"
        assert not both or self.solved < self.asked, f"{what}: everything was solved, so nothing is known of the rest"
        print(f"      {what}: {self.asked} requests, {self.solved} solved", flush=True)


def made_channels_as_py_rattler(_: object) -> None:
    """All kinds of requests on hard made channels."""
    tally = compare_made(range(0, 120 if FULL else 20), conditional=False)
    tally.report("py-rattler on made channels")


def conditions_as_py_rattler(_: object) -> None:
    """Conditional dependencies (CEP 43). What they add to the search is encoded when a solution meets them, and the two
    solvers do that in another order, so in one of a hundred hard problems each takes another of many valid answers."""
    tally = compare_made(range(5000, 5120 if FULL else 5015), conditional=True)
    other = [w for w in tally.wrong if "theirs [" in w]
    assert len(other) <= max(1, tally.asked // 50), f"{len(other)} of {tally.asked} answers are others:\n" + "\n".join(other[:5])
    tally.wrong = [w for w in tally.wrong if w not in other]
    tally.report("py-rattler with conditional dependencies")


def compare_made(seeds: range, conditional: bool) -> Tally:
    tally = Tally()
    for seed in seeds:
        made = universes.make(seed, conditional)
        with tempfile.TemporaryDirectory() as tmp, WebServer(Path(tmp)) as web:
            made.write(Path(tmp) / "c")
            url = web.url + "/c"
            oracle = PyRattler([url], Path(tmp) / "cache")
            with Entrepot(BINARY, [url], "shared") as ours:
                for p in universes.problems(made, seed):
                    tally.compare(validator.Index([made.paths()]), p, ours.solve(p), oracle.solve(p))
    return tally


def two_channels_as_py_rattler(_: object) -> None:
    """Two channels that share names, under each priority.

    Requests name no versions here: py-rattler's gateway forgets the records that a request's spec does not match, so under
    strict priority a channel whose versions do not fit counts as not having the name. Ours counts the name.
    """
    tally = Tally()
    for seed in range(1000, 1060 if FULL else 1010):
        made = [universes.make(seed), universes.make(seed + 100_000)]
        index = validator.Index([u.paths() for u in made])
        with tempfile.TemporaryDirectory() as tmp, WebServer(Path(tmp)) as web:
            urls = [f"{web.url}/{i}" for i in range(2)]
            for i, u in enumerate(made):
                u.write(Path(tmp) / str(i))
            oracle = PyRattler(urls, Path(tmp) / "cache")
            with Entrepot(BINARY, urls, "shared") as ours:
                for p in universes.problems(made[0], seed):
                    p.specs = sorted({s.split()[0] for s in p.specs})
                    for p.priority in ("strict", "flexible", "disabled"):
                        tally.compare(index, p, ours.solve(p), oracle.solve(p))
    tally.report("py-rattler on two channels")


def made_channels_as_node(_: object) -> None:
    tally = Tally()
    with NodeRattler(node(), MODULES, []) as oracle:  # once, since it takes a second to begin
        for seed in range(2000, 2200 if FULL else 2015):
            made = universes.make(seed)
            with tempfile.TemporaryDirectory() as tmp, WebServer(Path(tmp)) as web:
                made.write(Path(tmp) / "ours")
                made.write(Path(tmp) / "theirs", machine_as_records=True)
                oracle.channels = [web.url + "/theirs"]
                with Entrepot(BINARY, [web.url + "/ours"], "plain") as ours:
                    for p in universes.problems(made, seed, plain_only=True):
                        tally.compare(validator.Index([made.paths()]), p, ours.solve(p), oracle.solve(p))
    tally.report("@conda-org/rattler on made channels")


def unpack(path: Path) -> dict:
    return json.loads(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read())


def real_channel(root: Path, name: str, machine_as_records: bool = False) -> dict[str, dict]:
    """Writes a harvested channel below root and returns its records by path."""
    paths: dict[str, dict] = {}
    for subdir in ("linux-64", "noarch"):
        data = unpack(SHARED / "01-harvested-channels" / name / subdir / "repodata.json.zst")
        records = data.get("packages", {}) | data.get("packages.conda", {})
        paths |= {f"{subdir}/{fn}": r for fn, r in records.items()}
        extra = virtual_records() if machine_as_records and subdir == "noarch" else {}
        universes.write_subdir(root, subdir, records | extra, data.get("removed", []))
    return paths


def real_specs(sample: int) -> list[list[str]]:
    """The given problems, in an order of their own: the first sample of them."""
    raw = zstandard.ZstdDecompressor().stream_reader((SHARED / "04-vectors" / "solve_golden.rattler-wasm-0.3.5.linux-64.jsonl.zst").open("rb")).read()
    specs = [json.loads(line)["specs"] for line in raw.splitlines()]
    random.Random(1).shuffle(specs)
    return specs if FULL else specs[:sample]


def real_channel_as_both(_: object) -> None:
    if not SHARED.is_dir():
        print(f"      no real channel at {SHARED}: the made ones have to do", flush=True)
        return
    with tempfile.TemporaryDirectory() as tmp, WebServer(Path(tmp)) as web:
        index = validator.Index([real_channel(Path(tmp) / "ours", "conda-forge")])
        real_channel(Path(tmp) / "theirs", "conda-forge", machine_as_records=True)
        url = web.url + "/ours"
        tally = Tally()
        oracle = PyRattler([url], Path(tmp) / "cache")
        with Entrepot(BINARY, [url], "shared") as ours:
            for specs in real_specs(60):
                p = Problem(specs)
                tally.compare(index, p, ours.solve(p), oracle.solve(p), TIES)
        tally.report("py-rattler on the real channel", both=FULL)
        tally = Tally()
        with Entrepot(BINARY, [url], "plain") as ours, NodeRattler(node(), MODULES, [web.url + "/theirs"]) as oracle:
            for specs in real_specs(20):
                p = Problem(specs)
                tally.compare(index, p, ours.solve(p), oracle.solve(p), TIES)
        tally.report("@conda-org/rattler on the real channel", both=FULL)


CASES = [
    ("conda: made channels are solved as py-rattler does", made_channels_as_py_rattler),
    ("conda: conditional dependencies are solved as py-rattler does", conditions_as_py_rattler),
    ("conda: two channels are solved as py-rattler does, under each priority", two_channels_as_py_rattler),
    ("conda: made channels are solved as @conda-org/rattler does", made_channels_as_node),
    ("conda: a real channel is solved as both do", real_channel_as_both),
]
