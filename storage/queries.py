"""c/<uuid>/queries/<worker>.npz: the queries each worker was asked of late, a sample to measure and calibrate on.

Derived and expendable: a file that cannot be read is passed over, one that cannot be written is written later,
nothing is synced and no catalogue names it. So there is no failpoint here either: a kill at any place leaves the file
as it was, or none, or one whose checksums (the zip's own) differ, and no answer depends on which.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.atomic import TMP_SUFFIX, temporary
from storage.layout import QUERIES_NAME

MAX_GIVEN: Final = 5000
"""Queries of a client that are kept to calibrate on."""
MAX_BYTES: Final = 16 << 20
"""Of vectors, given or sampled."""
SUFFIX: Final = ".npz"
MAX_FILE_BYTES: Final = MAX_BYTES + (1 << 20)


class Unreadable(Exception):
    """The file is no sample, or damaged."""


@dataclass(frozen=True, slots=True)
class Sample:
    """vectors: (q, d) float32; times: (q,) float64, seconds since 1970, when each was asked, ascending."""

    vectors: NDArray[np.float32]
    times: NDArray[np.float64]


def most_of(dimension: int, wanted: int) -> int:
    """How many of the wanted queries fit into MAX_BYTES."""
    return min(wanted, MAX_BYTES // (4 * dimension))


def spread(queries: NDArray[Any], most: int) -> NDArray[Any]:
    """Rows (q, d), or of too many an even spread: the first, the last, and others between."""
    if len(queries) <= most:
        return queries
    return queries[np.linspace(0, len(queries) - 1, most).round().astype(np.int64)]


def write_sample(folder: Path, worker: str, sample: Sample) -> None:
    """folder: the collection's. Raises OSError; then the file that was there still is. Where the collection has been
    dropped meanwhile, FileNotFoundError: its folder is not made again."""
    home = folder / QUERIES_NAME
    with suppress(FileExistsError):
        home.mkdir()
    final = home / (worker + SUFFIX)
    tmp = temporary(final)
    try:
        with tmp.open("wb") as file:
            np.savez(file, vectors=sample.vectors.astype("<f4"), times=sample.times.astype("<f8"))
        os.rename(tmp, final)
    except BaseException:
        with suppress(OSError):
            tmp.unlink()
        raise


def read_file(path: Path) -> Sample:
    """Raises Unreadable, OSError."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Unreadable(f"{path.name} is too large for a sample")
    raw = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(raw) as archive:
            # Read to the end each, so that the checksum is compared.
            vectors, times = (_array(archive.read(f"{name}.npy")) for name in ("vectors", "times"))
    except Exception as e:  # flipped bits find a dozen ways out of the readers of zip, deflate and npy
        raise Unreadable(f"{path.name} is damaged: {e}") from e
    fits = vectors.ndim == 2 and times.shape == vectors.shape[:1]
    if not (fits and vectors.dtype == np.dtype("<f4") and times.dtype == np.dtype("<f8")):
        raise Unreadable(f"{path.name} does not hold what a sample holds")
    return Sample(vectors, times)


def _array(raw: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    return array


def files(folder: Path) -> list[Path]:
    """Of the sample, in order of their names. folder: the collection's."""
    return sorted((folder / QUERIES_NAME).glob(f"*{SUFFIX}"))


def merged(samples: list[Sample]) -> NDArray[np.float32]:
    """All their queries, (q, d), newest first; (0, 0) of none. A collection's queries have one d: others are left
    out."""
    filled = [s for s in samples if len(s.times)]
    if not filled:
        return np.empty((0, 0), np.float32)
    dimension = max(filled, key=lambda s: float(s.times[-1])).vectors.shape[1]
    filled = [s for s in filled if s.vectors.shape[1] == dimension]
    newest = np.argsort(-np.concatenate([s.times for s in filled]), kind="stable")
    return np.concatenate([s.vectors for s in filled])[newest]


def read_sample(folder: Path) -> NDArray[np.float32]:
    """What all workers have kept, (q, d), newest first; (0, 0) where there is none. folder: the collection's."""
    return merged(list(_readable(files(folder))))


def _readable(paths: list[Path]) -> Iterator[Sample]:
    for path in paths:
        with suppress(Unreadable, OSError):
            yield read_file(path)


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Differs whenever the sample has changed; empty where there is none. Some microseconds."""
    found = []
    for path in files(folder):
        with suppress(FileNotFoundError):
            there = path.stat()
            found.append((path.name, there.st_mtime_ns, there.st_ino))
    return tuple(found)


def forget_sample(folder: Path, *, leftovers: bool = False) -> None:
    """Unlinks all that is kept of queries; leftovers: only what was not written to the end."""
    for path in (folder / QUERIES_NAME).glob(f"*{TMP_SUFFIX}" if leftovers else "*"):
        with suppress(OSError):
            path.unlink()
