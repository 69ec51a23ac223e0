"""Other real indexes, old and odd ones: complete histories, features, records without times, and a sudoku."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import universes
import validator
from conda_solve import BINARY, FULL, SHARED, Tally, unpack
from solvers import Entrepot, Problem, PyRattler, WebServer

FILES = {
    "defaults of 2014": "conda-tests-index", "defaults of 2019": "conda-tests-index4", "R": "defaults-r_linux-64.repodata",
    "pytorch": "pytorch-linux-64.repodata", "all builds of a python tree": "subchannel-cf-py39-linux-64.repodata",
    "sudoku": "mamba-tests-sudoku",
}

# R stands on a channel that is not here. And the sudoku is one of mamba's tests that has no solution: the cells of all
# boxes exclude those of the first. To find that out takes hundreds of conflicts, and thousands without shared clauses.
NEVER = {"R", "sudoku"}
PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


def records(name: str) -> dict[str, dict]:
    data = unpack(SHARED / "02-real-repodata" / f"{name}.json.zst")
    found = data.get("packages", {}) | data.get("packages.conda", {}) if "packages" in data else data
    # One old index has a record whose name is a file's.
    return {fn: r | {"subdir": "linux-64"} for fn, r in found.items() if not r["name"].endswith(".tar.bz2")}


def requests(found: dict[str, dict], title: str) -> list[Problem]:
    names = sorted({r["name"] for r in found.values()})
    rnd = random.Random(title)
    if title == "sudoku":
        # A package for each cell, a version for each digit. The last of each fixes two equal digits in a row.
        cells = [f"sudoku_{row}_{column}" for row in range(9) for column in range(9)]
        given = [f"{cell} =={digit}" for cell, digit in zip(cells, PUZZLE) if digit != "."]
        return [Problem(cells), Problem(cells + given), Problem(cells + [f"{cells[0]} ==5", f"{cells[8]} ==5"])]
    out = []
    for _ in range(150 if FULL else 15):
        specs = rnd.sample(names, rnd.randint(1, 4))
        if rnd.random() < 0.5:
            r = rnd.choice([r for r in found.values() if r["name"] == specs[0]])
            specs[0] += rnd.choice([" ==", " <=", " >="]) + r["version"]
        out.append(Problem(specs))
    return out


def tied(index: validator.Index, ours: frozenset[str], theirs: frozenset[str]) -> bool:
    """Whether two answers differ only in records that are equal in version, build number and time: rattler sorts the
    records of an index by name with an unstable sort, so chance decides between those."""
    def key(path: str) -> tuple:
        r = index.find(path)[1]
        return r["name"], r["version"], r["build_number"], r.get("timestamp"), bool(r.get("track_features"))

    return sorted(map(str, map(key, ours - theirs))) == sorted(map(str, map(key, theirs - ours)))


def as_py_rattler(_: object) -> None:
    if not SHARED.is_dir():
        print(f"      no real indexes at {SHARED}", flush=True)
        return
    for title, name in FILES.items():
        found = records(name)
        index = validator.Index([{f"linux-64/{fn}": r for fn, r in found.items()}])
        tally, ties = Tally(), 0
        with tempfile.TemporaryDirectory() as tmp, WebServer(Path(tmp)) as web:
            universes.write_subdir(Path(tmp) / "c", "linux-64", found)
            universes.write_subdir(Path(tmp) / "c", "noarch", {})
            oracle = PyRattler([web.url + "/c"], Path(tmp) / "cache")
            with Entrepot(BINARY, [web.url + "/c"], "auto" if title == "sudoku" else "shared") as ours:
                for p in requests(found, title):
                    a, b = ours.solve(p), oracle.solve(p)
                    if a and b and a != b and tied(index, a, b):
                        ties, b = ties + 1, a
                    tally.compare(index, p, a, b)
        tally.report(f"{title}, {ties} ties", both=False, least=0 if title in NEVER else 1)


CASES = [("conda: other real indexes are solved as py-rattler does", as_py_rattler)]
