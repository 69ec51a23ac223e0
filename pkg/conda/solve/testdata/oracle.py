"""Solves the problems on standard input with py-rattler, one JSON object a line, and prints the answers likewise."""

import asyncio
import json
import os
import resource
import sys

from rattler import Channel, GenericVirtualPackage, MatchSpec, PackageName, SparseRepoData, Version
from rattler import solve_with_sparse_repodata

# The text of an explanation can grow without bound: better no answer than no memory.
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

try:
    from rattler.package.build_string import BuildString
except ImportError:  # before 0.28
    BuildString = str


async def main():
    for line in sys.stdin:
        problem = json.loads(line)
        repodata = [SparseRepoData(Channel(problem["channel"]), "linux-64", problem["repodata"])]
        virtual = [
            GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
            for name, version, build in problem["virtual"]
        ]
        try:
            records = await solve_with_sparse_repodata(
                [MatchSpec(spec, strict=False) for spec in problem["specs"]],
                repodata,
                virtual_packages=virtual,
                strategy=problem["strategy"],
            )
            answer = {"packages": sorted(record.subdir + "/" + record.file_name for record in records)}
        except Exception as error:
            answer = {"error": str(error) or repr(error)}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
sys.stdout.flush()
os._exit(0)  # the extension's threads do not survive an orderly end
