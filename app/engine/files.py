"""Sealed segments on their way to disk: written, synced and named, but in no catalogue yet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.norms import Rows, norms
from storage import atomic
from storage.hashing import hex16
from storage.layout import SEGMENTS_NAME, segment_name
from storage.segment import write_segment


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A segment file under its final name; xxh3 as the catalogue keeps it."""

    file: str
    bytes: int
    xxh3: str


def write_sealed(
    folder: Path,
    seq: int,
    *,
    keys_rel: NDArray[np.uint64],
    ids: Any,
    vectors: Rows,
    metric: str,
    base_key: int | None = None,
) -> SealedFile:
    """folder: the collection's; base_key: what keys_rel count from, where that is known.

    Raises OSError; then no file is left."""
    final = folder / SEGMENTS_NAME / segment_name(seq)
    tmp = atomic.temporary(final)
    lengths = norms(vectors)
    written = write_segment(
        tmp, vectors=vectors, keys_rel=keys_rel, ids=ids, norms=lengths, metric=metric, base_key=base_key
    )
    atomic.publish(tmp, final, "segment")
    return SealedFile(final.name, written.bytes, hex16(written.xxh3))
