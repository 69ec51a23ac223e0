"""Small conda packages in both formats, and an upstream channel made of them.

The packages are written with the standard library and zstandard, not with the code under test, and the upstream is
indexed by rattler's own indexer: what the server reads was made by strangers. Together the packages use what an
installer has to get right: a prefix in a text file and in a binary, a symlink, a noarch Python package with an entry
point, and versions among which the solver must choose.
"""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from rattler.index import index_fs
from rattler.platform import Subdir

# Long enough for any prefix: what conda-build puts into packages has 255 bytes too.
PLACEHOLDER = ("/opt/e2e_placehold" + "_placehold" * 30)[:255]
TIMESTAMP = 1_700_000_000_000  # milliseconds; fixed, so equal input makes equal bytes
SUBDIR = str(Subdir.current())


@dataclass
class File:
    path: str
    data: bytes = b""
    mode: int = 0o644
    link: str = ""  # a symlink's text
    prefix: str = ""  # "text" or "binary" if the installer must replace the placeholder


@dataclass
class Package:
    name: str
    version: str
    files: list[File]
    format: str = ".conda"
    subdir: str = SUBDIR
    depends: list[str] = field(default_factory=list)
    noarch: str = ""
    entry_points: list[str] = field(default_factory=list)
    build: str = "0"
    summary: str = "made for a test"

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def filename(self) -> str:
        return self.stem + self.format

    def write(self, root: Path) -> Path:
        """Writes the package below root/<subdir> and returns its path."""
        path = root / self.subdir / self.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        info, payload = self._info(), self.files
        if self.format == ".tar.bz2":
            path.write_bytes(bz2.compress(_tar(info + payload)))
            return path
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
            z.writestr(_member("metadata.json"), b'{"conda_pkg_format_version": 2}')
            z.writestr(_member(f"pkg-{self.stem}.tar.zst"), _zstd(_tar(payload)))
            z.writestr(_member(f"info-{self.stem}.tar.zst"), _zstd(_tar(info)))
        return path

    def _info(self) -> list[File]:
        index = {
            "name": self.name, "version": self.version, "build": self.build, "build_number": 0,
            "depends": self.depends, "subdir": self.subdir, "license": "MIT", "timestamp": TIMESTAMP,
        }
        if self.noarch:
            index["noarch"] = self.noarch
        else:
            platform, _, arch = self.subdir.partition("-")
            index.update(platform=platform, arch={"64": "x86_64"}.get(arch, arch))
        by_path = {f.path: f for f in self.files}
        paths = []
        for f in self.files:
            entry = {"_path": f.path, "path_type": "softlink" if f.link else "hardlink"}
            # A symlink is described by what it points to, or by its text if that is no file.
            target = by_path.get(str(Path(f.path).parent / f.link)) if f.link else f
            content = target.data if target else f.link.encode()
            entry.update(sha256=hashlib.sha256(content).hexdigest(), size_in_bytes=len(content))
            if f.prefix:
                entry.update(file_mode=f.prefix, prefix_placeholder=PLACEHOLDER)
            paths.append(entry)
        info = [
            File("info/index.json", _json(index)),
            File("info/paths.json", _json({"paths": paths, "paths_version": 1})),
            File("info/about.json", _json({"summary": self.summary, "license": "MIT"})),
            File("info/files", "".join(f.path + "\n" for f in self.files).encode()),
        ]
        if self.noarch == "python":
            link = {"noarch": {"type": "python", "entry_points": self.entry_points}, "package_metadata_version": 1}
            info.append(File("info/link.json", _json(link)))
        return info


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (2023, 11, 14, 22, 13, 20))


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


def _tar(files: list[File]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for f in files:
            member = tarfile.TarInfo(f.path)
            member.mode, member.mtime = f.mode, TIMESTAMP // 1000
            if f.link:
                member.type, member.linkname = tarfile.SYMTYPE, f.link
                tar.addfile(member)
            else:
                member.size = len(f.data)
                tar.addfile(member, io.BytesIO(f.data))
    return out.getvalue()


# The interpreter of the fixture channel: a script, so that entry points really run without a real Python package.
INTERPRETER = f"""#!/bin/sh
PYTHONPATH="{PLACEHOLDER}/lib/python3.11/site-packages" exec python3 "$@"
"""


def python() -> Package:
    return Package("python", "3.11.9", [
        File("bin/python3.11", INTERPRETER.encode(), 0o755, prefix="text"),
        File("bin/python", link="python3.11"),
    ])


def libtiny(version: str, format: str = ".tar.bz2") -> Package:
    # Two C strings hold the placeholder; the file's length must survive the replacement.
    binary = b"\x7fELF-like\x00" + f"{PLACEHOLDER}/share/tiny\x00".encode() + bytes(range(256)) + f"-L{PLACEHOLDER}/lib\x00".encode() + b"end"
    return Package("libtiny", version, [
        File("etc/tiny.conf", f"version={version}\nroot={PLACEHOLDER}/share/tiny\n".encode(), prefix="text"),
        File("lib/libtiny.so", link="libtiny.so.1"),
        File("lib/libtiny.so.1", binary, 0o755, prefix="binary"),
        File("share/tiny/readme.txt", f"libtiny {version}\n".encode()),
    ], format=format)


def hello(version: str, format: str = ".conda", name: str = "hello-e2e") -> Package:
    source = f"def main():\n    import sys\n    print('hello {version}', *sys.argv[1:])\n"
    return Package(name, version, [
        File("site-packages/hello_e2e/__init__.py", source.encode()),
        File(f"site-packages/hello_e2e-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: hello-e2e\nVersion: {version}\n".encode()),
    ], format=format, subdir="noarch", depends=["python >=3.11", "libtiny >=1.0,<2"], noarch="python",
        entry_points=["hello-e2e = hello_e2e:main"])


def channel_packages() -> list[Package]:
    """What every channel of the test holds: both formats, both kinds of subdir."""
    return [python(), libtiny("1.0"), libtiny("1.1"), libtiny("1.10"), libtiny("2.0", ".conda"), hello("1.2.0"), hello("1.1.0", ".tar.bz2")]


# What a solver must choose for the spec `hello-e2e`.
SOLUTION = {"hello-e2e": "1.2.0", "libtiny": "1.10", "python": "3.11.9"}


def write_channel(root: Path, summary: str) -> dict[str, Path]:
    """Writes and indexes an upstream channel, and returns its files by name.

    Another summary makes other bytes with the same content: a server that stores by digest has seen none of them.
    """
    files = {}
    for p in channel_packages():
        p.summary = summary
        files[p.filename] = p.write(root)
    index(root)
    return files


def index(root: Path) -> None:
    """Writes the index of what stands below root, as rattler's indexer does it."""
    asyncio.run(index_fs(root, write_zst=True, write_shards=True, force=True))
