"""Channels made of nothing but dependencies: harder than real ones, and the same on every run."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from solvers import MACHINE, Problem, virtual_records

OLDEST = 1_500_000_000_000  # ms


@dataclass
class Universe:
    records: dict[str, dict[str, dict]]  # subdir → file → record
    removed: list[str]

    def names(self) -> list[str]:
        return sorted({r["name"] for sub in self.records.values() for r in sub.values()})

    def paths(self) -> dict[str, dict]:
        return {f"{subdir}/{fn}": r for subdir, sub in self.records.items() for fn, r in sub.items()}

    def write(self, root: Path, machine_as_records: bool = False) -> None:
        for subdir, records in self.records.items():
            listed = dict(records)
            if machine_as_records and subdir == "noarch":
                listed |= virtual_records(MACHINE)
            write_subdir(root, subdir, listed, self.removed)


def write_subdir(root: Path, subdir: str, records: dict[str, dict], removed: list[str] = ()) -> None:
    (root / subdir).mkdir(parents=True, exist_ok=True)
    (root / subdir / "repodata.json").write_text(json.dumps({
        "info": {"subdir": subdir},
        "packages": {k: r for k, r in sorted(records.items()) if k.endswith(".tar.bz2")},
        "packages.conda": {k: r for k, r in sorted(records.items()) if k.endswith(".conda")},
        "removed": sorted(removed), "repodata_version": 1,
    }))


def make(seed: int, conditional: bool = False) -> Universe:
    """Many names that depend on each other back and forth, pins, constraints, features, builds that differ in little."""
    rnd = random.Random(seed)
    names = [f"p{i:02d}" for i in range(rnd.randint(6, 18))]
    out = Universe({"linux-64": {}, "noarch": {}}, [])
    for name in names:
        subdir = "noarch" if rnd.random() < 0.3 else "linux-64"
        for version in range(1, rnd.randint(2, 6)):
            for build in range(rnd.randint(1, 3)):
                record = _record(rnd, names, name, f"{version}.0", build, subdir, conditional)
                extension = ".tar.bz2" if rnd.random() < 0.2 else ".conda"
                out.records[subdir][f"{name}-{record['version']}-{record['build']}{extension}"] = record
    return out


def _limit(rnd: random.Random) -> str:
    v = rnd.randint(1, 5)
    return rnd.choice(["", "", f" >={v}", f" <{v + 1}", f" {v}.*", f" !={v}.0", f" >={v},<{v + 2}"])


def _record(rnd: random.Random, names: list[str], name: str, version: str, build: int, subdir: str, conditional: bool) -> dict:
    depends = [rnd.choice(names) + _limit(rnd) for _ in range(rnd.randint(0, 5))]
    if rnd.random() < 0.12:
        depends.append(f"__glibc >=2.{rnd.randint(10, 45)}")
    if conditional and rnd.random() < 0.4:
        when = rnd.choice(names) + rnd.choice(["", " >=2", " <3"])
        if rnd.random() < 0.3:
            when += rnd.choice([" and ", " or "]) + rnd.choice(names)
        depends.append(f"{rnd.choice(names)}[when='{when}']")
    # A package that constrains itself away is left out: solvers find that out at different times.
    others = [n for n in names if n != name]
    record = {
        "name": name, "version": version, "build": f"h{build}_{build // 2}", "build_number": build // 2, "subdir": subdir,
        "depends": depends, "constrains": [f"{rnd.choice(others)} >={rnd.randint(1, 4)}"] if rnd.random() < 0.33 else [],
    }
    if rnd.random() < 0.08:
        record["track_features"] = "f"
    # No two records are equal in all that solvers look at, or chance would decide which one rattler takes: it sorts the
    # records of a repodata by name with an unstable sort. So only the first build has no time.
    if build or rnd.random() < 0.5:
        record["timestamp"] = OLDEST + rnd.randrange(100_000_000_000)
    return record


def problems(universe: Universe, seed: int, plain_only: bool = False) -> list[Problem]:
    """Requests on a universe, of all kinds or only of the kind that every solver takes."""
    rnd = random.Random(seed)
    names = universe.names()

    def specs() -> list[str]:
        return [rnd.choice(names) + rnd.choice(["", "", " >=2", " <3"]) for _ in range(rnd.randint(1, 3))]

    if plain_only:
        return [Problem(specs()) for _ in range(2)]
    return [
        Problem(specs()),
        Problem(specs(), strategy="lowest"),
        Problem(specs(), strategy="lowest-direct"),
        Problem(specs(), constraints=[rnd.choice(names) + " <4"]),
        Problem(specs(), exclude_newer="2019-06-01T00:00:00+00:00"),
        Problem(specs(), virtual=[("__glibc", "2.28", "0"), ("__unix", "0", "0")]),
    ]
