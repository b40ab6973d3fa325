"""Files of other programs, cut or with bits flipped: BadFile or rows, never anything else, never much memory."""

import random
import tracemalloc
from pathlib import Path

import pytest

from storage.files.contract import BadFile, ReadOptions
from storage.files.formats import FORMATS
from tests.files.tripping import Made, dense, sparse

MUTANTS = 40
"""Of each; tens of thousands were tried by hand, from other seeds."""
MEMORY_BYTES = 64 << 20
CASES: dict[str, tuple[str, Made]] = {
    "hdf5": ("hdf5", dense(120, "float32", "str", True)),
    "hdf5, gzip": ("hdf5", dense(120, "float32", "int", False, "gzip")),
    "hdf5, lzf": ("hdf5", dense(120, "float16", None, True, "lzf")),
    "hdf5, blosc": ("hdf5", dense(120, "float32", "str", False, "blosc")),
    "hdf5, sparse": ("hdf5", sparse(120, "int", True)),
    "parquet": ("parquet", dense(120, "float32", "str", True)),
    "parquet, sparse": ("parquet", sparse(120, "int", True, "zstd")),
    "arrow": ("arrow", dense(120, "float32", "str", True)),
    "arrow, lz4": ("arrow", sparse(120, "int", True, "lz4")),
    "pt": ("pt", dense(120, "float32", "str", True)),
    "csr": ("csr", sparse(120, "str", True, "deflate")),
}


def mutant(good: bytes, rng: random.Random) -> bytes:
    """Headers stand at the front and at the end: most of what is changed is there."""
    if rng.random() < 0.2:
        return good[: rng.randrange(len(good))]
    raw = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 5))):
        front, back = rng.randrange(min(len(raw), 3000)), len(raw) - 1 - rng.randrange(min(len(raw), 1500))
        at = rng.choice((rng.randrange(len(raw)), front, back))
        raw[at] = rng.choice((0, 127, 128, 255, raw[at] ^ 1 << rng.randrange(8)))
    return bytes(raw)


@pytest.mark.parametrize("name", CASES)
def test_flipped(name: str, tmp_path: Path) -> None:
    fmt, made = CASES[name]
    good = made.write(fmt, tmp_path / "good").read_bytes()
    path, rng, refused = tmp_path / "bad", random.Random(name), 0
    tracemalloc.start()
    try:
        for _ in range(MUTANTS):
            path.write_bytes(mutant(good, rng))
            try:
                reader = FORMATS[fmt].read([path], ReadOptions())
                try:
                    assert sum(batch.rows for batch in reader.batches(50)) == reader.outline.rows
                finally:
                    reader.close()
            except BadFile:
                refused += 1
        assert refused > MUTANTS // 5
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()
