"""Judges solutions by what a request means, from the records of the index alone. It shares nothing with any solver."""

from __future__ import annotations

import datetime
import functools
import re

from rattler import MatchSpec, PackageRecord
from rattler.package.build_string import BuildString

from solvers import Problem


class Index:
    """The records of channels, in order of priority: each a dict from "subdir/file" to the record."""

    def __init__(self, channels: list[dict[str, dict]], removed: set[str] = frozenset()) -> None:
        self.channels, self.removed = channels, removed

    def find(self, path: str) -> tuple[int, dict] | None:
        """The channel's number and the record of a file, as solvers.path_of writes it."""
        at, colon, rest = path.partition(":")
        number, rest = (int(at), rest) if colon else (0, path)
        return (number, self.channels[number][rest]) if rest in self.channels[number] else None

    @functools.cached_property
    def first(self) -> dict[str, int]:
        """The first channel that has a name."""
        out: dict[str, int] = {}
        for i, channel in enumerate(self.channels):
            for r in channel.values():
                out.setdefault(r["name"], i)
        return out


@functools.lru_cache(maxsize=200_000)
def spec(text: str) -> MatchSpec:
    return MatchSpec(text)


@functools.lru_cache(maxsize=200_000)
def name_of(text: str) -> str:
    """The name that a dependency is about, lower-cased."""
    return re.match(r"\s*([^\s\[=<>!~]+)", text.rpartition("::")[2] if "::" in text.partition("[")[0] else text)[1].lower()


def judge(index: Index, p: Problem, answer: frozenset[str]) -> list[str]:
    """What is wrong with an answer; nothing if it is a solution of the problem."""
    problems: list[str] = []
    chosen: dict[str, dict] = {}
    for path in sorted(answer):
        found = index.find(path)
        if found is None:
            problems.append(f"{path} is in no channel")
            continue
        channel, record = found
        if path in index.removed:
            problems.append(f"{path} was removed")
        if p.priority == "strict" and channel != index.first[record["name"]]:
            problems.append(f"{path} is not from the channel that comes first")
        if record["name"] in chosen:
            problems.append(f"two packages of {record['name']}")
        if p.exclude_newer and not _old_enough(record, p.exclude_newer):
            problems.append(f"{path} is newer than {p.exclude_newer}")
        chosen[record["name"]] = record
    have = {name: _as_record(r) for name, r in chosen.items()}
    have |= {n: PackageRecord(n, v, BuildString(b), 0, "noarch") for n, v, b in p.virtual}
    problems += [f"the request's {s} is not met" for s in p.specs if not _met(s, have)]
    problems += [f"the request's constraint {s} is violated" for s in p.constraints if not _tolerated(s, have)]
    for r in chosen.values():
        who = f"{r['name']} {r['version']} {r['build']}"
        problems += [f"{who} needs {d}" for d in r.get("depends") or [] if not _met(d, have)]
        problems += [f"{who} constrains {c}" for c in r.get("constrains") or [] if not _tolerated(c, have)]
    return problems


def _as_record(r: dict) -> PackageRecord:
    return PackageRecord(r["name"], r["version"], BuildString(r["build"]), r["build_number"], r["subdir"], flags=r.get("flags"))


def _met(text: str, have: dict[str, PackageRecord]) -> bool:
    condition = spec(text).condition
    if condition and not holds(condition, have):
        return True
    record = have.get(name_of(text))
    return record is not None and spec(text).matches(record)


def _tolerated(text: str, have: dict[str, PackageRecord]) -> bool:
    record = have.get(name_of(text))
    return record is None or spec(text).matches(record)


def holds(condition: str, have: dict[str, PackageRecord]) -> bool:
    """Evaluates CEP 43's conditions without parentheses: `and` binds tighter than `or`."""
    assert "(" not in condition, condition
    return any(all(_met(term.strip(), have) for term in clause.split(" and ")) for clause in condition.split(" or "))


def _old_enough(record: dict, limit: str) -> bool:
    at = record.get("timestamp")
    return at is not None and at <= datetime.datetime.fromisoformat(limit).timestamp() * 1000
