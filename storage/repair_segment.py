"""Which rows of a segment its checksums prove whole."""

import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from seedvec import segment as fmt
from seedvec.segment import Extent, Segment, SegmentError, StrIds, map_segment, open_segment
from seedvec.sparse import SparseRows, offsets
from storage.catalogue import SegmentRow, Settings
from storage.hashing import BLOCK_BYTES, FileCut, hash_blocks, hash_rest, hex16
from storage.segment import layout_of
from storage.segment_vectors import Nonzeros


@dataclass(slots=True)
class Salvaged:
    """A segment file as far as it can be believed. keys: (n,) absolute, of all rows; whole: (n,) bool: vector, key and
    id are proven; known: (n,) bool: key and id are, whatever the vector. damage: in words; empty: none."""

    path: Path
    seq: int
    file: Segment
    keys: NDArray[np.int64]
    whole: NDArray[np.bool_]
    known: NDArray[np.bool_]
    damage: str = ""

    def ids(self) -> list[Any]:
        """Of all rows; those not `known` may be anything."""
        if isinstance(self.file.ids, StrIds):
            return self.file.ids.all() if self.file.ids.consistent() else [""] * self.file.rows
        found: list[Any] = self.file.ids.tolist()
        return found


def salvage(path: Path, seq: int, settings: Settings | None, row: SegmentRow | None, base: int) -> Salvaged | str:
    """row, settings: what the catalogue says, where it can be read; base: the key that /keys count from.

    Returns in words why nothing of it can be saved. Raises nothing.
    """
    try:
        file = _opened(path, settings, row)
        blocks, sum_is_right = _damaged_blocks(path, file, row)
    except (SegmentError, FileCut, OSError) as e:
        return f"{path.name} cannot be read: {e.strerror if isinstance(e, OSError) and e.strerror else e}"
    bad = [(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES) for block in blocks]
    known = ~(_harmed(file, fmt.KEYS, bad) | _harmed_ids(file, bad))
    whole = known & ~_harmed_vectors(file, bad)
    damage = "" if sum_is_right and not bad else f"{path.name}: {len(bad)} of its 1 MiB blocks are damaged"
    if not sum_is_right and not bad:
        damage = f"{path.name}: damaged where no vector, key or id is"
    return Salvaged(path, seq, file, file.keys_rel.astype(np.int64) + base, whole, known, damage)


def _opened(path: Path, settings: Settings | None, row: SegmentRow | None) -> Segment:
    """Where HDF5's own headers are damaged, the layout of such a segment is known all the same: always the same."""
    try:
        return open_segment(path)
    except SegmentError:
        if settings is None or row is None or settings.id_type == "auto":
            raise
        return _opened_by_layout(path, settings, row)


def _opened_by_layout(path: Path, settings: Settings, row: SegmentRow) -> Segment:
    if path.stat().st_size != row.bytes:
        raise SegmentError(f"{path.name} has {path.stat().st_size} bytes instead of {row.bytes}")
    nonzeros = _announced(path, settings, row) if settings.sparse else None
    total = None
    if settings.id_type == "str":
        # The ids come after their offsets, the last of which is their length; what lies before does not move.
        offsets = _layout(settings, row.rows, 1, nonzeros)[fmt.ID_OFFSETS]
        with path.open("rb") as file:
            (total,) = struct.unpack("<Q", os.pread(file.fileno(), 8, offsets.end - 8))
        if not row.rows <= total <= row.bytes:
            raise SegmentError(f"{path.name}: where its ids end cannot be read")
    layout = _layout(settings, row.rows, total, nonzeros)
    return map_segment(path, settings.metric, layout, dimension=settings.dimension)


def _announced(path: Path, settings: Settings, row: SegmentRow) -> Nonzeros:
    """How many numbers and terms there are stands in front of all else of a sparse segment."""
    sizes = _layout(settings, row.rows, None, Nonzeros(1, np.zeros(1, np.int32)))[fmt.SIZES]
    with path.open("rb") as file:
        stored, terms = struct.unpack("<QQ", os.pread(file.fileno(), 16, sizes.offset))
    if not terms <= stored <= row.bytes:
        raise SegmentError(f"{path.name}: how many numbers it has cannot be read")
    return Nonzeros(stored, np.zeros(terms, np.int32))


def _layout(settings: Settings, rows: int, id_bytes_total: int | None, nonzeros: Nonzeros | None) -> dict[str, Extent]:
    """Where the datasets of such a segment lie: HDF5 lays out an empty one (a few KB; the rest is a hole)."""
    with tempfile.TemporaryDirectory() as folder:
        s = settings
        path = Path(folder) / "layout.h5"
        return layout_of(path, rows, s.dimension, s.vector_dtype, s.metric, id_bytes_total, nonzeros)


def _damaged_blocks(path: Path, file: Segment, row: SegmentRow | None) -> tuple[list[int], bool]:
    """Numbers of the blocks that differ from /block_xxh3, and whether the whole is as the catalogue says.

    Raises FileCut, OSError.
    """
    end = file.extents[fmt.BLOCK_XXH3].offset
    whole = xxhash.xxh3_64()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = hash_blocks(fd, end, whole)
        size = hash_rest(fd, end, whole)
    finally:
        os.close(fd)
    if row is not None and size == row.bytes and hex16(whole.intdigest()) == row.xxh3:
        return [], True
    said = np.zeros(len(found), np.uint64)
    said[: len(file.block_xxh3)] = file.block_xxh3[: len(found)]
    bad = np.flatnonzero(said != found).tolist()
    if not bad and row is not None:
        _require_same(path, file, row, len(found))
    return bad, row is None and not bad


def _require_same(path: Path, file: Segment, row: SegmentRow, blocks: int) -> None:
    """Every block is what the file itself says: then either its table has taken harm behind them, or it is another
    file altogether, as whole as ours. Raises SegmentError."""
    table = file.extents[fmt.BLOCK_XXH3]
    raw = bytearray(path.read_bytes()[: row.bytes])
    unused = slice(table.offset + blocks * table.dtype.itemsize, table.end)
    raw[unused] = bytes(len(raw[unused]))
    if hex16(xxhash.xxh3_64_intdigest(raw)) != row.xxh3:
        raise SegmentError(f"{path.name} is another file")


def _harmed_vectors(file: Segment, bad: list[tuple[int, int]]) -> NDArray[np.bool_]:
    if not isinstance(file.vectors, SparseRows):
        return _harmed(file, fmt.VECTORS, bad)
    rebuilt = _from_postings(file, bad)
    if rebuilt is not None:
        file.vectors = rebuilt
        return np.zeros(file.rows, bool)
    edges = _harmed(file, fmt.INDPTR, bad)
    # Where an edge cannot be believed, what lies between may be anywhere: those rows are lost whatever is found here.
    harmed = edges[:-1] | edges[1:]
    for name in (fmt.INDICES, fmt.VALUES):
        extent = file.extents[name]
        at = file.vectors.indptr * extent.dtype.itemsize + extent.offset
        for start, end in bad:
            harmed |= (at[:-1] < end) & (at[1:] > start)
    return harmed


def _from_postings(file: Segment, bad: list[tuple[int, int]]) -> SparseRows | None:
    """A sparse segment holds every number twice: where its postings are whole, so are its rows. None: they are not, or
    the rows themselves are."""
    rows, posted = file.vectors, file.postings
    assert isinstance(rows, SparseRows) and posted is not None
    if not _touched(file, (fmt.INDPTR, fmt.INDICES, fmt.VALUES), bad):
        return None
    if _touched(file, (fmt.TERMS, fmt.TERM_STARTS, fmt.TERM_ROWS, fmt.TERM_VALUES), bad):
        return None
    # Stable: within a row the terms stay in their order.
    order = np.argsort(posted.rows, kind="stable")
    indptr = offsets(np.bincount(posted.rows, minlength=file.rows))
    terms = np.repeat(posted.terms, np.diff(posted.starts))
    return SparseRows(indptr, terms[order], posted.values[order], rows.dimension)


def _touched(file: Segment, names: tuple[str, ...], bad: list[tuple[int, int]]) -> bool:
    extents = [file.extents[name] for name in names]
    return any(max(start, e.offset) < min(end, e.end) for e in extents for start, end in bad)


def _harmed(file: Segment, name: str, bad: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """Entries of this dataset that touch a damaged range of bytes."""
    extent = file.extents[name]
    harmed = np.zeros(extent.shape[0], bool)
    row_bytes = extent.nbytes // extent.shape[0]
    for start, end in bad:
        low, high = max(start, extent.offset) - extent.offset, min(end, extent.end) - extent.offset
        if low < high:
            harmed[low // row_bytes : -(-high // row_bytes)] = True
    return harmed


def _harmed_ids(file: Segment, bad: list[tuple[int, int]]) -> NDArray[np.bool_]:
    if not isinstance(file.ids, StrIds):
        return _harmed(file, fmt.IDS, bad)
    table = file.extents[fmt.ID_OFFSETS]
    if any(max(start, table.offset) < min(end, table.end) for start, end in bad):
        return np.ones(file.rows, bool)  # where an id ends is where the next begins: nothing is certain any more
    ends = np.cumsum(file.ids.byte_lengths())
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    at = file.extents[fmt.ID_BYTES].offset
    harmed = np.zeros(file.rows, bool)
    for start, end in bad:
        harmed |= (starts + at < end) & (ends + at > start)
    return harmed
