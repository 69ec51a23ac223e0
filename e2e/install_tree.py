"""Installs the same locks with py-rattler and with `entrepot conda install`, and compares what is then in the prefix:
paths, types, modes, link texts, contents, and the fields of every record in conda-meta.

Both install into the same path, one after the other, so that files which hold the prefix must agree to the byte. Locks
are written by py-rattler. Packages are those of packages.py, and all real ones of ../shared/data where that is present.
What may differ is in allowed() and CONTRADICTORY, and explained in docs/conda-conformance.md, "Installing".

    python e2e/install_tree.py bin/entrepot [DIR]
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from pathlib import Path

import zstandard
from rattler import Channel, LockChannel, LockFile, LockPlatform, RepoData, RepoDataRecord, install
from rattler.index import index_fs

from packages import PLACEHOLDER, File, Package, write_channel

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "03-packages"
PLATFORM = "linux-64"

# Fields of a record that name a place on this machine.
PLACES = ("extracted_package_dir", "package_tarball_full_path")


def prefix_file(path: str, text: str, **more) -> File:
    return File(path, text.replace("@", PLACEHOLDER).encode(), prefix="text", **more)


def generated() -> list[Package]:
    """Packages for what the real ones do not have, or do not have together."""
    long = "x" * 100
    return [
        Package("shebangs", "1.0", [
            prefix_file("bin/plain", "#!@/bin/python3.11\nprint()\n", mode=0o755),
            prefix_file("bin/flags", "#! @/bin/perl -w\n# @\n", mode=0o775),
            prefix_file("bin/deep", f"#!@/{long}/bin/python -E -s\nprint()\n", mode=0o755),
            prefix_file("bin/deeper", f"#!@/{long}/bin/ruby --disable-gems\n", mode=0o700),
            prefix_file("bin/no-newline", f"#!@/{long}/tool", mode=0o755),
            prefix_file("etc/twice", "@:@\n@", mode=0o444),
        ], format=".conda"),
        Package("binaries", "1.0", [
            File("lib/two.so", b"\x00" + PLACEHOLDER.encode() + b"/a:" + PLACEHOLDER.encode() + b"/b\x00tail\x00", 0o755, prefix="binary"),
            File("lib/end.so", b"head\x00" + PLACEHOLDER.encode() + b"/to-the-end", 0o644, prefix="binary"),
            File("lib/none.so", b"\x7fELF nothing here \x00", 0o755, prefix="binary"),
        ]),
        Package("links", "1.0", [
            File("lib/real/data.txt", b"data\n", 0o664), File("lib/dir", link="real"), File("lib/chain", link="dir/data.txt"),
        ]),
        # "a" depends on "b", so it is linked later and wins; of equals the first name wins.
        Package("a-wins", "1.0", [File("share/contested", b"a\n"), File("share/a", b"a\n")], depends=["b-loses"]),
        Package("b-loses", "1.0", [File("share/contested", b"b\n"), File("share/b", b"b\n"), File("share/equal", b"b\n")]),
        Package("c-loses", "1.0", [File("share/contested", b"c\n"), File("share/equal", b"c\n")]),
        Package("file-there", "1.0", [File("opt/thing", b"a file\n")]),
        Package("directory-there", "1.0", [File("opt/thing/inside", b"in a directory\n")]),
        Package("commands", "1.0", [File("site-packages/commands/__init__.py", b"def main(): pass\n"), File("python-scripts/run-it", b"#!/bin/sh\n", 0o755)],
                subdir="noarch", noarch="python", depends=["python"], entry_points=["cmd = commands:main", "deep-cmd=commands.sub:Class.main"]),
    ]


def index_of(path: Path) -> dict:
    """Reads info/index.json without the code under test."""
    if path.name.endswith(".tar.bz2"):
        with tarfile.open(path, "r:bz2") as tar:
            for m in tar:
                if m.name.removeprefix("./") == "info/index.json":
                    return json.load(tar.extractfile(m))
        raise AssertionError(f"{path} has no index.json")
    with zipfile.ZipFile(path) as z:
        member = next(n for n in z.namelist() if n.startswith("info-"))
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(z.read(member))).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for m in tar:
            if m.name.removeprefix("./") == "info/index.json":
                return json.load(tar.extractfile(m))
    raise AssertionError(f"{path} has no index.json")


# Real packages that cannot be installed, by py-rattler nor by anyone; each with the reason.
UNUSABLE = {
    "info-only-1.0.0-0.conda": "it has no files, only metadata",
    "ca-certificates-2024.7.4-hbcca054_0.conda": "its members lie in a directory of somebody's disk",
}


def real_packages() -> dict[str, list[Path]]:
    """The packages of ../shared/data for Linux and for everything, by the directory that they stand below."""
    groups: dict[str, list[Path]] = defaultdict(list)
    if not DATA.is_dir():
        return groups
    for path in sorted(DATA.rglob("*")):
        if path.suffix != ".conda" and not path.name.endswith(".tar.bz2") or "/corrupt/" in str(path):
            continue
        if path.name.startswith(("repodata", "current_repodata")) or path.name in UNUSABLE:
            continue
        index = index_of(path)
        if index.get("subdir", PLATFORM) in (PLATFORM, "noarch"):
            parts = path.relative_to(DATA).parts
            groups["/".join(parts[:2])].append(path)
    return groups


def make_channel(root: Path, files: list[Path]) -> dict[str, RepoDataRecord]:
    """Makes a channel of package files and returns its records by file name."""
    packages: dict[str, dict[str, dict]] = defaultdict(dict)
    for f in files:
        index = index_of(f)
        index.setdefault("subdir", PLATFORM)
        data = f.read_bytes()
        index.update(sha256=hashlib.sha256(data).hexdigest(), md5=hashlib.md5(data).hexdigest(), size=len(data))
        (root / index["subdir"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(f, root / index["subdir"] / f.name)
        packages[index["subdir"]][f.name] = index
    for subdir, records in packages.items():
        parts = {"packages": {n: r for n, r in records.items() if n.endswith(".tar.bz2")},
                 "packages.conda": {n: r for n, r in records.items() if n.endswith(".conda")}}
        (root / subdir / "repodata.json").write_text(json.dumps({"info": {"subdir": subdir}, **parts}))
    return records_of(root)


def records_of(root: Path) -> dict[str, RepoDataRecord]:
    records = {}
    for subdir in (PLATFORM, "noarch"):
        repodata = root / subdir / "repodata.json"
        if repodata.exists():
            for r in RepoData.from_path(repodata).into_repo_data(Channel(root.as_uri())):
                records[r.file_name] = r
    return records


def write_lock(path: Path, channel: Path, records: list[RepoDataRecord]) -> list[RepoDataRecord]:
    """Writes a pixi.lock and returns the records as py-rattler reads them from it."""
    platform = LockPlatform(PLATFORM)
    lock = LockFile([platform])
    lock.set_channels("default", [LockChannel(channel.as_uri())])
    for r in records:
        lock.add_conda_package("default", platform, r)
    lock.to_path(path)
    env = LockFile.from_path(path).default_environment()
    return env.conda_repodata_records_for_platform(env.platforms()[0])


def tree(prefix: Path) -> dict[str, tuple]:
    """Everything below a prefix: path → type, mode, link text or digest."""
    out = {}
    for path in sorted(prefix.rglob("*")):
        name = str(path.relative_to(prefix))
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            out[name] = ("link", os.readlink(path))
        elif path.is_dir():
            out[name] = ("directory", oct(mode))
        else:
            out[name] = ("file", oct(mode), hashlib.sha256(path.read_bytes()).hexdigest())
    return out


def meta(prefix: Path) -> dict[str, dict]:
    return {p.name: json.loads(p.read_bytes()) for p in sorted((prefix / "conda-meta").glob("*.json"))}


def allowed(name: str, theirs: tuple | None, ours: tuple | None, tree: dict[str, tuple]) -> bool:
    """Differences that are meant; docs/conda-conformance.md explains each."""
    if name == "CACHEDIR.TAG" or name == "conda-meta/history":
        return True  # who made it, and what was done
    if name.startswith("conda-meta/") and name.endswith(".json"):
        return ours is not None and ours[1] == "0o644" and theirs is not None and theirs[1] == "0o600"  # contents are compared by field
    if name.split("/")[0] == "__clobbers__" and ours is None and theirs[0] == "directory":
        return not any(n.startswith(name + "/") and t[0] != "directory" for n, t in tree.items())  # a directory with nothing in it
    return False


def compare(ours_tree, ours_meta, theirs_tree, theirs_meta) -> list[str]:
    problems = []
    for name in sorted(theirs_tree.keys() | ours_tree.keys()):
        a, b = theirs_tree.get(name), ours_tree.get(name)
        if a != b and not allowed(name, a, b, theirs_tree):
            problems.append(f"{name}: py-rattler {a}, entrepot {b}")
    for name in sorted(theirs_meta.keys() | ours_meta.keys()):
        a, b = theirs_meta.get(name), ours_meta.get(name)
        if a is None or b is None:
            continue  # said already
        for key in sorted(a.keys() | b.keys()):
            x, y = a.get(key), b.get(key)
            if key in PLACES and (x is None) == (y is None):
                continue
            if key == "link":
                x, y = x.get("type"), y.get("type")
            if key in ("files", "paths_data") and any("original_path" in e for r in theirs_meta.values() for e in r["paths_data"]["paths"]):
                x, y = by_path(x), by_path(y)  # where packages clobber each other py-rattler's order is another every time
            if x != y:
                problems.append(f"conda-meta/{name}: {key}: py-rattler {short(x, y)}, entrepot {short(y, x)}")
        if [k for k in a if k in b] != [k for k in b if k in a]:
            problems.append(f"conda-meta/{name}: the order of keys: py-rattler {list(a)}, entrepot {list(b)}")
    return problems


def contradictions(tree: dict[str, tuple], records: dict[str, dict]) -> list[str]:
    """Files that a record lists and that are not there, or are something else."""
    out = []
    for name, record in records.items():
        for entry in record["paths_data"]["paths"]:
            have = tree.get(entry["_path"])
            if entry["path_type"] in ("directory", "softlink"):
                right = have is not None and have[0] == {"directory": "directory", "softlink": "link"}[entry["path_type"]]
            else:
                digest = entry.get("sha256_in_prefix") or entry.get("sha256")
                right = have is not None and have[0] == "file" and (digest is None or have[2] == digest)
            if not right:
                out.append(f"{name}: {entry['_path']}: {have}")
    return out


def by_path(value: list | dict) -> list:
    return sorted(value) if isinstance(value, list) else sorted(value["paths"], key=lambda e: e["_path"])


def short(value: object, other: object) -> str:
    if isinstance(value, dict) and isinstance(other, dict) and "paths" in value:
        mine, yours = value["paths"], other["paths"]
        return str([p for i, p in enumerate(mine) if i >= len(yours) or yours[i] != p][:2])
    return str(value)[:300]


class Comparison:
    def __init__(self, binary: Path, work: Path) -> None:
        self.binary, self.work = binary, work
        self.prefix = work / "prefix" / "env"
        self.installed = 0
        self.problems: list[str] = []

    def ours(self, lock: Path, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.binary, "conda", "install", "--prefix", self.prefix, "--lock", lock, "--platform", PLATFORM,
             "--package-cache", self.work / "our-cache", "--no-sync", "--json", *more], capture_output=True, text=True, timeout=600)

    def theirs(self, records: list[RepoDataRecord]) -> None:
        asyncio.run(install(records, self.prefix, cache_dir=self.work / "their-cache", show_progress=False))

    def state(self):
        return tree(self.prefix), meta(self.prefix)

    def clear(self) -> None:
        # Moved, not removed: an installation of py-rattler that failed may still be writing.
        if self.prefix.parent.exists():
            self.prefix.parent.rename(self.work / f"was-{time.monotonic_ns()}")
        self.prefix.parent.mkdir()

    def run(self, title: str, channel: Path, *steps: list[RepoDataRecord]) -> None:
        """Installs one set of packages after the other into one prefix, and compares after each of them."""
        locks = []
        for i, records in enumerate(steps):
            lock = self.work / f"{len(locks)}.lock"
            locks.append((lock, write_lock(lock, channel, records)))
        self.clear()
        theirs, refused = [], ""
        for i, (_, records) in enumerate(locks):
            try:
                self.theirs(records)
            except Exception as e:  # rattler's own; there is no common base
                refused = str(e)
                break
            theirs.append(self.state())
            if i > 0 and contradictions(*theirs[i]):
                # After an update py-rattler's records may contradict its files where packages clobber each other: it looks
                # at the packages that change, and not at those that stay. What it makes of the same set anew is right.
                self.clear()
                self.theirs(records)
                theirs[i] = self.state()
        self.clear()
        for i, (lock, records) in enumerate(locks):
            done = self.ours(lock)
            if i == len(theirs):
                if done.returncode == 0:
                    self.problems.append(f"{title}: py-rattler refused it ({refused}), entrepot did not")
                return
            if done.returncode != 0:
                self.problems.append(f"{title}, step {i + 1}: entrepot failed: {done.stderr.strip()}")
                return
            ours = self.state()
            if wrong := contradictions(*ours):
                self.problems.append(f"{title}, step {i + 1}: records of entrepot that contradict its files: {wrong}")
            found = compare(*ours, *theirs[i]) if not contradictions(*theirs[i]) else []
            if contradictions(*theirs[i]) and title not in CONTRADICTORY:
                found.append(f"py-rattler's records contradict its files, and nobody said so: {contradictions(*theirs[i])}")
            self.problems += [f"{title}, step {i + 1}: {p}" for p in found]
            self.installed += len(records)
        if len(locks) > 1 and title in INTERCHANGED:
            self.interchanged(title, locks, theirs[-1])
        # A second run does nothing; nor does a check find anything.
        again = json.loads(self.ours(locks[-1][0]).stdout)
        if again["status"] != "unchanged":
            self.problems.append(f"{title}: a second run did something: {again}")
        checked = subprocess.run([self.binary, "conda", "verify", "--prefix", self.prefix], capture_output=True, text=True, timeout=600)
        if checked.returncode != 0:
            self.problems.append(f"{title}: verify says {checked.stdout}{checked.stderr}")


    def interchanged(self, title: str, locks, want) -> None:
        """Each updates an environment that the other one made."""
        for who in ("entrepot after py-rattler", "py-rattler after entrepot"):
            self.clear()
            for i, (lock, records) in enumerate(locks):
                if (i == len(locks) - 1) == who.startswith("entrepot"):
                    done = self.ours(lock)
                    if done.returncode != 0:
                        self.problems.append(f"{title}, {who}: {done.stderr.strip()}")
                        return
                else:
                    self.theirs(records)
            tree, records = self.state()
            # Records of packages that stayed are those of who installed them.
            tree = {n: ("file", "0o644") if n.startswith("conda-meta/") and t[0] == "file" else t for n, t in tree.items()}
            self.problems += [f"{title}, {who}: {p}" for p in compare(tree, records, *want)]


def batches(records: list[RepoDataRecord], python: RepoDataRecord) -> list[list[RepoDataRecord]]:
    """Sets in which each name is there once. A noarch python package gets a python, if there is none."""
    out: list[dict[str, RepoDataRecord]] = []
    for r in sorted(records, key=lambda r: r.file_name):
        name = r.name.normalized
        for b in out:
            if name not in b:
                b[name] = r
                break
        else:
            out.append({name: r})
    for b in out:
        if any("python" in str(r.noarch) for r in b.values()):
            b.setdefault("python", python)
    return [list(b.values()) for b in out]


# Sets in which one updates what the other one installed.
INTERCHANGED = {"update", "clobbers go"}

# Sets of the clobber fixtures, by the beginnings of file names without "clobber-". They are made to be installed in these.
CLOBBERS = {
    "three": [["1-0.1", "2-0.1", "3-0.1"]],
    "three, updated": [["1-0.1", "2-0.1", "3-0.1"], ["1-0.2", "2-0.2", "3-0.2"]],
    "three, one updated": [["1-0.1", "2-0.1", "3-0.1"], ["1-0.1", "2-0.2", "3-0.1"]],
    "three, the winner goes": [["1-0.1", "2-0.1", "3-0.1"], ["2-0.1", "3-0.1"], ["3-0.1"]],
    "three, a loser goes": [["1-0.1", "2-0.1", "3-0.1"], ["1-0.1", "3-0.1"]],
    "one after the other": [["3-0.1"], ["3-0.1", "2-0.1"], ["3-0.1", "2-0.1", "1-0.1"]],
    "file and directories": [["fd-1", "fd-2-0", "fd-3"]],
    "file and directories, conflicting": [["fd-1", "fd-2-conf", "fd-3"]],
    "directories and file": [["fd-rev-1", "fd-rev-2", "fd-rev-3"]],
    "nested": [["nested-1", "nested-2", "nested-3"]],
    "symbolic links": [["with-symlink-a", "with-symlink-b"]],
    "empty directory": [["with-dir", "without-dir"], ["without-dir"]],
    "directory upgrade": [["directory-upgrade-0.1"], ["directory-upgrade-0.2"]],
    "noarch python": [["python-0.1.0-cpython", "pynoarch-1", "pynoarch-2"], ["python-0.1.0-pypy", "pynoarch-1", "pynoarch-2", "pypy"]],
}


# Where what py-rattler makes of a set, anew, contradicts its own records; then there is nothing to compare with. It keeps a
# directory in which all files lost to a file, and that file, which has won, nowhere.
CONTRADICTORY = {"clobber: file and directories", "clobber: file and directories, conflicting"}


def clobbers(c: Comparison, channel: Path, records: dict[str, RepoDataRecord]) -> None:
    used = set()
    for title, steps in CLOBBERS.items():
        sets = []
        for stems in steps:
            names = [next(n for n in sorted(records) if n.startswith("clobber-" + s)) for s in stems]
            used.update(names)
            sets.append([records[n] for n in names])
        c.run("clobber: " + title, channel, *sets)
    if rest := records.keys() - used:
        c.problems.append(f"clobber fixtures that no set has: {sorted(rest)}")


def run(binary: Path, work: Path) -> Comparison:
    c = Comparison(binary, work)
    channel = work / "generated"
    write_channel(channel, "made to be installed")
    for p in generated():
        p.write(channel)
    asyncio.run(index_fs(channel, write_zst=False, write_shards=False, force=True))
    made = records_of(channel)

    def pick(*stems: str) -> list[RepoDataRecord]:
        return [next(r for f, r in made.items() if f.startswith(s + ".")) for s in stems]

    python = pick("python-3.11.9-0")[0]
    c.run("generated", channel, pick("python-3.11.9-0", "hello-e2e-1.2.0-0", "libtiny-1.10-0", "shebangs-1.0-0", "binaries-1.0-0", "links-1.0-0", "commands-1.0-0"))
    c.run("update", channel, pick("python-3.11.9-0", "hello-e2e-1.1.0-0", "libtiny-1.0-0"), pick("python-3.11.9-0", "hello-e2e-1.2.0-0", "libtiny-1.10-0"),
          pick("libtiny-2.0-0"))
    c.run("clobbers come", channel, pick("b-loses-1.0-0"), pick("a-wins-1.0-0", "b-loses-1.0-0", "c-loses-1.0-0"))
    c.run("clobbers go", channel, pick("a-wins-1.0-0", "b-loses-1.0-0", "c-loses-1.0-0"), pick("c-loses-1.0-0"))
    c.run("file and directory", channel, pick("file-there-1.0-0", "directory-there-1.0-0"))
    c.run("noarch python without python", channel, pick("commands-1.0-0"))
    for group, files in real_packages().items():
        root = work / group.replace("/", "-")
        records = make_channel(root, files)
        if group == "rattler-test-data/clobber":
            clobbers(c, root, records)
            continue
        for i, batch in enumerate(batches(list(records.values()), python)):
            c.run(f"{group} {i + 1}", root, batch)
    return c


def as_py_rattler(_: object) -> None:
    binary = Path(__file__).resolve().parent.parent / "bin" / "entrepot"
    with tempfile.TemporaryDirectory(prefix="entrepot-install-", dir="/var/tmp") as work:
        c = run(binary, Path(work))
    assert not c.problems, "\n".join(c.problems)
    assert c.installed >= 25, c.installed  # the generated packages alone are so many
    print(f"  {c.installed} packages installed by both")


CASES = [("conda: environments are installed as py-rattler installs them", as_py_rattler)]


def main() -> int:
    binary = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as work:
        c = run(binary, Path(work))
    for p in c.problems:
        print(p)
    print(f"{c.installed} packages installed by both, {len(c.problems)} differences that are not meant")
    return 1 if c.problems else 0


if __name__ == "__main__":
    sys.exit(main())
