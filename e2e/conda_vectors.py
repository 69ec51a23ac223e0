"""Versions and version specs beside @conda-org/rattler and py-rattler, live: on made pairs, through the commands.

The vectors of pkg/conda/version are real; these are the odd ones between them. What differs on purpose is in
docs/conda-conformance.md and named below.
"""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import rattler

import cepversion
from conda_solve import BINARY, FULL, MODULES, node
from solvers import Lines

PIECES = ["0", "1", "2", "9", "10", "00", "01", "2024", "a", "b", "rc", "alpha", "beta", "post", "dev", "g", "x86"]


def version(rnd: random.Random) -> str:
    out = "".join(rnd.choice(PIECES) + rnd.choice([".", ".", "_", "", ""]) for _ in range(rnd.randint(1, 5))).rstrip("._") or "1"
    if rnd.random() < 0.1:
        out = f"{rnd.randint(0, 2)}!{out}"
    if rnd.random() < 0.1:
        out += "+" + rnd.choice(["1", "a", "1.2", "local.1"])
    return out


def near(rnd: random.Random, v: str) -> str:
    """A version that differs in little, because far ones are easily told apart."""
    change = rnd.randrange(4)
    if change == 0:
        return v + rnd.choice([".0", ".1", "a", "post1", ".dev1", "rc1"])
    if change == 1:
        return v.replace("1", "2", 1)
    if change == 2:
        return v.replace(".", "_", 1)
    return version(rnd)


def spec(rnd: random.Random, v: str) -> str:
    def clause() -> str:
        w = rnd.choice([v, near(rnd, v)])
        return rnd.choice([f">={w}", f"<{w}", f"<={w}", f">{w}", f"=={w}", f"!={w}", f"{w}.*", f"={w}", f"!={w}.*", w])

    return rnd.choice([",", "|"]).join(clause() for _ in range(rnd.randint(1, 3)))


def lines(command: list[str], pairs: list[tuple[str, str]]) -> list[str]:
    text = "".join(f"{a}\t{b}\n" for a, b in pairs)
    done = subprocess.run([BINARY, "conda", *command], input=text, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def attempt(f, *args):
    try:
        return f(*args)
    except ValueError:
        return None


def by_cep(a: str, b: str) -> int:
    x, y = cepversion.Version(a), cepversion.Version(b)
    return 0 if x == y else -1 if x < y else 1


# rattler takes `dev` and `post` for themselves where they only begin a word, as in `deva`.
LONG_WORDS = re.compile(r"(dev|post)[a-z_]")
# And it wants the last segment of a prefix whole: for it `1.2rc1` and `1.2g` are not in `1.2.*`, for conda they are.
FUZZY = re.compile(r"\.\*|(^|[,|])=[^=]")


def versions_as_rattler(_: object) -> None:
    rnd = random.Random(11)
    pairs = []
    for _ in range(50_000 if FULL else 5_000):
        v = version(rnd)
        pairs.append((v, near(rnd, v)))
    ours = [None if a.startswith("!ERR") else int(a) for a in lines(["version", "compare"], pairs)]
    equal("CEP 33", pairs, ours, [attempt(by_cep, *p) for p in pairs])
    with Lines([node(), Path(__file__).with_name("node") / "oracle.cjs", MODULES]) as oracle:
        equal("rattler", pairs, ours, oracle.ask({"compare": pairs})["answers"], lambda a, b: LONG_WORDS.search(a + " " + b))
    assert {-1, 0, 1} <= set(ours), "the pairs are all alike"


def specs_as_rattler(_: object) -> None:
    rnd = random.Random(12)
    pairs = []
    for _ in range(50_000 if FULL else 5_000):
        v = version(rnd)
        pairs.append((spec(rnd, v), near(rnd, v)))
    ours = [None if a.startswith("!ERR") else a == "1" for a in lines(["version", "match"], pairs)]
    equal("CEP 29", pairs, ours, [attempt(cepversion.matches, *p) for p in pairs])
    with Lines([node(), Path(__file__).with_name("node") / "oracle.cjs", MODULES]) as oracle:
        equal("rattler", pairs, ours, oracle.ask({"match": pairs})["answers"], lambda a, b: LONG_WORDS.search(a + " " + b) or FUZZY.search(a))
    assert {True, False} <= set(ours), "the pairs are all alike"


def equal(whose: str, pairs: list, ours: list, theirs: list, known=lambda a, b: False) -> None:
    """Fails on a difference without a known cause, and if known ones are more than a few."""
    differing = [(p, a, b) for p, a, b in zip(pairs, ours, theirs, strict=True) if a != b]
    new = [d for d in differing if not known(*d[0])]
    assert not new, f"{whose}: {len(new)} of {len(pairs)} differ: {new[:10]}"
    assert len(differing) < len(pairs) // 20, f"{whose}: {len(differing)} of {len(pairs)} differ"
    print(f"      {whose}: {len(pairs)} pairs, {len(differing)} differ, all by a known cause", flush=True)


def canonical_forms_mean_the_same(_: object) -> None:
    """What `spec canonical` prints must select, for py-rattler, what the spec itself selects."""
    rnd = random.Random(13)
    specs = [f"pkg {spec(rnd, version(rnd))}" + rnd.choice(["", "", " py3*", "[build_number='>1']"]) for _ in range(3_000)]
    done = subprocess.run([BINARY, "conda", "spec", "canonical"], input="".join(s + "\n" for s in specs), capture_output=True, text=True, check=True)
    for text, canonical in zip(specs, done.stdout.splitlines(), strict=True):
        if canonical.startswith("!ERR"):
            continue
        a, b = rattler.MatchSpec(text), rattler.MatchSpec(canonical)
        for _ in range(4):
            v = near(rnd, rnd.choice(text.split()[1].replace("|", ",").split(",")).lstrip("<>=!").removesuffix(".*") or "1")
            try:
                record = rattler.PackageRecord("pkg", v, "py310_0", 1, "noarch")
            except Exception:
                continue  # no version
            assert a.matches(record) == b.matches(record), f"{text} and {canonical} on {v}"


CASES = [
    ("conda: versions compare as with @conda-org/rattler", versions_as_rattler),
    ("conda: version specs select as with @conda-org/rattler", specs_as_rattler),
    ("conda: canonical specs mean for py-rattler what they were", canonical_forms_mean_the_same),
]
