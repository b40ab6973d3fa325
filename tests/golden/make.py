"""Makes what `test_golden.py` opens for ever: once for each version of the formats on disk, by that version's program.

`python -m tests.golden.make VERSION` writes `VERSION.tar.gz` and `VERSION.json` beside this file. Of versions that had
snapshots the tar is one; of those before, it is the data folder itself. It speaks HTTP alone, so that it runs in any
checkout: to make one of an old version, run it there.
"""

import argparse
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import Collection

HERE = Path(__file__).parent
SETTINGS = {"SEEDVEC_SEAL_QUIET_S": "1.5", "SEEDVEC_INDEX_MIN_ROWS": "200", "SEEDVEC_PENDING_ROWS": "400"}
FIRST_WITH_SNAPSHOTS = 4
FIRST_WITH_SPARSE = 4
DIMENSION = 8
SNAPSHOT = "golden"


def drawn(n: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def fill(server: Server, version: int) -> list[str]:
    """What each kind of row looks like: sealed and indexed, dead, replaced, patched, pending. Returns the names."""
    names = ["ints", "strs"]
    if version >= FIRST_WITH_SPARSE:
        fill_sparse(server.collection("sparse"))  # first, so that it is sealed
        names.append("sparse")
    ints = server.collection("ints")
    ints.create(DIMENSION, metric="l2", id_type="int", index={"kind": "hnsw", "m": 4})
    ints.add(range(300), drawn(300, 1), [{"n": i, "even": i % 2 == 0, "tags": ["a", f"t{i % 7}"]} for i in range(300)])
    ints.wait_ready()
    ints.delete(range(10))
    ints.upsert(range(10, 20), drawn(10, 2), [None] * 10)
    ints.patch(50, metadata={"n": None, "patched": {"deep": [1, "ä"]}})
    strs = server.collection("strs")
    strs.create(DIMENSION, metric="cosine", dtype="float16", id_type="str")
    strs.add([f"ä/{i}" for i in range(60)], drawn(60, 3), [{"name": f"n{i}"} for i in range(60)])
    strs.delete(["ä/3"])
    return names


def fill_sparse(sparse: Collection) -> None:
    sparse.create(1000, sparse=True, metric="dot", id_type="int")
    items = [{"id": i, "vector": {"indices": [i, i + 7, 900], "values": [1.0, 0.5, float(i + 1)]}} for i in range(40)]
    sparse.wire.ok(201, "POST", f"{sparse.path}/vectors", {"items": items})


def everything(server: Server, names: list[str]) -> dict[str, Any]:
    """All items of each collection, by id as text."""
    return {name: {str(id_): item for id_, item in server.collection(name).everything().items()} for name in names}


def packed(folder: Path) -> bytes:
    """The data folder of a server that has stopped."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.name not in ("LOCK", "ballast") and path.suffix != ".db-shm":
                archive.add(path, str(path.relative_to(folder)), recursive=False)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", type=int, help="of the catalogue's format in this checkout")
    version = parser.parse_args().version
    with tempfile.TemporaryDirectory() as tmp:
        with Server(Path(tmp) / "data", workers=1, env=SETTINGS) as server:
            names = fill(server, version)
            expected = everything(server, names)
            if version >= FIRST_WITH_SNAPSHOTS:
                server.client.post("/v1/snapshots", json={"name": SNAPSHOT}).raise_for_status()
                tar = server.client.get(f"/v1/snapshots/{SNAPSHOT}.tar").content
        if version < FIRST_WITH_SNAPSHOTS:
            tar = packed(Path(tmp) / "data")
    (HERE / f"{version}.tar.gz").write_bytes(gzip.compress(tar, 9, mtime=0))
    (HERE / f"{version}.json").write_text(json.dumps(expected, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{HERE / f'{version}.tar.gz'}: {(HERE / f'{version}.tar.gz').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
