"""Installs packages with py-rattler: one JSON request a line on standard input, one answer a line.

{"prefix": dir, "alt": text or null, "platform": "linux-64", "cache": dir, "packages": [{"file": path, "record": {…}}]}
{"sort": [{…record…}]} answers with the names in the order of installation.
"""

import asyncio
import json
import os
import sys
import tempfile

import rattler
from rattler import PackageRecord, RepoDataRecord


def record(r, tmp):
    path = os.path.join(tmp, "index.json")
    with open(path, "w") as f:
        json.dump(r, f)
    return PackageRecord.from_index_json(path, size=r.get("size"), sha256=r.get("sha256"), md5=r.get("md5"))


async def answer(q, tmp):
    if "sort" in q:
        return {"names": [r.name.normalized for r in PackageRecord.sort_topologically([record(r, tmp) for r in q["sort"]])]}
    records = []
    for p in q["packages"]:
        f = p["file"]
        records.append(RepoDataRecord(package_record=record(p["record"], tmp), file_name=os.path.basename(f), url="file://" + f, channel="file:///channel"))
    try:
        await rattler.install(
            records, target_prefix=q["prefix"], cache_dir=q["cache"], platform=rattler.Subdir(q["platform"]),
            show_progress=False, alternative_target_prefix=q.get("alt"))
    except Exception as e:  # the answer is no
        return {"error": str(e)}
    return {}


async def main():
    with tempfile.TemporaryDirectory() as tmp:
        for line in sys.stdin:
            print(json.dumps(await answer(json.loads(line), tmp)), flush=True)


asyncio.run(main())
