"""The order of versions as CEP 33 words it, and starts-with as conda has it: slow, short, and independent of all else."""

from __future__ import annotations

import functools
import itertools
import re


@functools.total_ordering
class Version:
    """A version. It is also what conda-index expects of conda's own class."""

    def __init__(self, text: str) -> None:
        v = text.strip().lower()
        allowed = re.compile(r"[*.+!_0-9a-z]+")
        if not allowed.fullmatch(v):
            v = v.replace("-", "_") if "_" not in v else v
            if not allowed.fullmatch(v):
                raise ValueError(f"{text}: a character that no version has")
        epoch, bang, rest = v.rpartition("!")
        if bang and not epoch.isdigit():
            raise ValueError(f"{text}: the epoch is no number")
        main, plus, local = rest.partition("+")
        if "+" in local or plus and not main:
            raise ValueError(f"{text}: more or less than a local version")
        self.main = _segments((epoch or "0"), main)
        self.local = _segments("", local, main=False) if local else []

    def __eq__(self, other: object) -> bool:
        return _compare(self.main, other.main) == 0 and _compare(self.local, other.local) == 0

    def __lt__(self, other: Version) -> bool:
        return (_compare(self.main, other.main) or _compare(self.local, other.local)) < 0

    __hash__ = None

    def startswith(self, other: Version) -> bool:
        if other.local:
            if _compare(self.main, other.main):
                return False
            a, b = self.local, other.local
        else:
            a, b = self.main, other.main
        n = len(b) - 1
        if _compare(a[:n], b[:n]):
            return False
        x, y = (a[n] if len(a) > n else []), b[n]
        k = len(y) - 1
        if _compare([x[:k]], [y[:k]]):
            return False
        last, want = (x[k] if len(x) > k else 0), y[k]
        if isinstance(want, str):
            return isinstance(last, str) and last.startswith(want)
        return last == want


def _segments(epoch: str, text: str, main: bool = True) -> list[list]:
    parts = text.replace("_", ".").split(".")
    if main and text.endswith("_"):
        parts = text[:-1].replace("_", ".").split(".")
        parts[-1] += "_"
    if any(not p for p in parts):
        raise ValueError(f"{text}: an empty segment")
    return ([[int(epoch)]] if epoch else []) + [_runs(p) for p in parts]


def _runs(segment: str) -> list:
    out: list = []
    for run in re.findall(r"[0-9]+|[*]+|[^0-9*]+", segment):
        out.append(int(run) if run.isdigit() else float("inf") if run == "post" else "DEV" if run == "dev" else run)
    return out if segment[0].isdigit() else [0, *out]


def _compare(a: list[list], b: list[list]) -> int:
    for x, y in itertools.zip_longest(a, b, fillvalue=[]):
        for c, d in itertools.zip_longest(x, y, fillvalue=0):
            if c == d:
                continue
            if isinstance(c, str) != isinstance(d, str):
                return -1 if isinstance(c, str) else 1
            return -1 if c < d else 1
    return 0


def matches(spec: str, version: str) -> bool:
    """A version spec of clauses joined by `,` and `|`, without parentheses, globs within, or regular expressions."""
    v = Version(version)
    # Every part is read before any is judged, because what does not parse is refused whatever the rest says.
    return any([all([_clause(c, v) for c in part.split(",")]) for part in spec.split("|")])


def _clause(text: str, v: Version) -> bool:
    operator, operand = re.fullmatch(r"(==|!=|>=|<=|=|<|>|)(.*)", text).groups()
    fuzzy = operand.endswith(".*")
    w = Version(operand.removesuffix(".*"))
    if operator in ("=", "") and (fuzzy or operator == "="):
        return v.startswith(w)
    if operator == "!=" and fuzzy:
        return not v.startswith(w)
    return {"": v == w, "==": v == w, "!=": v != w, ">=": v >= w, "<=": v <= w, ">": v > w, "<": v < w}[operator]
