"""Packs the same environment with conda-pack and with `entrepot conda pack`, unpacks both elsewhere, runs both conda-unpack,
and compares; and makes an image of it twice.

The environment is installed by py-rattler, conda-pack packs that; ours is made of the lock alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import conda_pack
from rattler import install

import install_tree
from packages import PLACEHOLDER, index

BINARY = Path(__file__).resolve().parent.parent / "bin" / "entrepot"

# What each tool adds for itself, what py-rattler leaves that is of no package, and conda-meta, whose form is each tool's own.
ADDED = {"bin/activate", "bin/activate.fish", "bin/deactivate", "bin/conda-unpack", "bin/conda_unpack_progress.py", "CACHEDIR.TAG"}


def entrepot(work: Path, *args: str) -> dict:
    env = {**os.environ, "ENTREPOT_CACHE_DIR": str(work / "cache")}
    return json.loads(subprocess.run([BINARY, "conda", *args, "--json", "--quiet"], env=env, check=True, capture_output=True, text=True).stdout)


def unpack(archive: Path, into: Path) -> dict[str, tuple]:
    """Unpacks, and says of each file what it is."""
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="tar")
    found = {}
    for path in into.rglob("*"):
        name = str(path.relative_to(into))
        if name in ADDED or name.startswith("conda-meta"):
            continue
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file():
            found[name] = (oct(path.stat().st_mode & 0o777), hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def listed(into: Path) -> list[tuple]:
    """What conda-unpack has in its list."""
    text = (into / "bin" / "conda-unpack").read_text()
    return sorted(m for m in re.findall(r"^\s*\(u?'([^']*)', u?'([^']*)', u?'(text|binary)'\)", text, re.M) if m[0] not in ADDED)


def as_conda_pack(_: object) -> None:
    with tempfile.TemporaryDirectory(prefix="entrepot-pack-", dir="/var/tmp") as tmp:
        work = Path(tmp)
        channel = work / "channel"
        chosen = install_tree.generated()
        names = {"shebangs", "binaries", "links"}
        files = [p.write(channel) for p in chosen if p.name in names]
        index(channel)
        records = [r for r in install_tree.records_of(channel).values() if r.name.normalized in names]
        assert len(records) == len(files) == 3, records
        prefix = work / "env"
        asyncio.run(install(records, target_prefix=prefix, cache_dir=work / "rattler", show_progress=False))
        lock = work / "explicit.txt"
        lock.write_text("# platform: linux-64\n@EXPLICIT\n" + "".join(f"{r.url}#sha256:{r.sha256.hex()}\n" for r in records))
        conda_pack.pack(prefix=str(prefix), output=str(work / "theirs.tar.gz"))
        report = entrepot(work, "pack", "--lock", str(lock), "--platform", "linux-64", "-o", str(work / "ours.tar.gz"))
        theirs, ours = unpack(work / "theirs.tar.gz", work / "theirs"), unpack(work / "ours.tar.gz", work / "ours")
        assert theirs == ours, sorted(set(theirs.items()) ^ set(ours.items()))[:20]
        assert listed(work / "theirs") == listed(work / "ours") and report["relocated"] == len(listed(work / "ours")), report
        for where in ("theirs", "ours"):
            (work / where).rename(work / f"{where}-moved-away")
            subprocess.run([sys.executable, work / f"{where}-moved-away" / "bin" / "conda-unpack"], check=True)
        left = [p for p in (work / "ours-moved-away").rglob("*") if p.is_file() and PLACEHOLDER.encode() in p.read_bytes()]
        assert all(p.name == "conda-unpack" or p.parent.name == "conda-meta" for p in left), left
        again = entrepot(work, "pack", "--lock", str(lock), "--platform", "linux-64", "-j", "1", "--force", "-o", str(work / "ours.tar.gz"))
        assert again["sha256"] == report["sha256"], "another run, other bytes"
        images = [entrepot(work, "image", "--lock", str(lock), "--platform", "linux-64", "-o", str(work / out)) for out in ("layout", "image.tar")]
        assert images[0]["digest"] == images[1]["digest"] and len(images[0]["layers"]) == 4, images
        for layer in images[0]["layers"]:
            data = (work / "layout" / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")).read_bytes()
            assert "sha256:" + hashlib.sha256(data).hexdigest() == layer["digest"], layer
        print(f"      conda-pack: {len(ours)} files, {report['relocated']} of them rewritten where they are unpacked", flush=True)


CASES = [("conda: packs hold what conda-pack packs", as_conda_pack)]

if __name__ == "__main__":
    if len(sys.argv) > 1:
        BINARY = Path(sys.argv[1]).resolve()
    as_conda_pack(None)
