"""Is each segment and index file what the catalogue says it is?"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from seedvec import segment as fmt
from seedvec.segment import Segment, SegmentError, StrIds, open_segment
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow, Settings
from storage.check_sparse import sparse_faults
from storage.hashing import BLOCK_BYTES, FileCut, hash_blocks, hash_rest, hex16
from storage.report import Report

RESTORE: Final = "restore the file from a copy of this data folder; until then the collection stays closed"
REBUILT: Final = "nothing is lost: the server builds it again, and searches exactly until then"
MAX_RUNS: Final = 5
"""Runs of damaged blocks described one by one."""


@dataclass(slots=True)
class OpenFile:
    """A file held open since the catalogue was read, so that no merge can take it away meanwhile."""

    path: Path
    fd: int
    segment: Segment | None = None
    refused: str = ""
    """Why `segment` is None."""

    def close(self) -> None:
        os.close(self.fd)


def hold(path: Path, *, as_segment: bool) -> OpenFile:
    """Raises FileNotFoundError where it is gone, OSError where it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    held = OpenFile(path, fd)
    if as_segment:
        try:
            held.segment = open_segment(path)
        except SegmentError as e:
            held.refused = str(e)
        except BaseException:
            os.close(fd)
            raise
    return held


def check_segment(held: OpenFile, row: SegmentRow, settings: Settings, where: str, report: Report) -> bool:
    """True where keys and ids of the segment can be believed."""
    try:
        size, digest, blocks = _hashes(held)
    except (OSError, FileCut) as e:
        report.add("error", where, f"the file cannot be read: {e}", RESTORE)
        return False
    report.bytes += size
    keys = f"its {row.rows:,} rows have keys {row.base_key} to {row.base_key + row.span - 1}"
    if size != row.bytes:
        report.add("error", where, f"the file has {size:,} bytes and should have {row.bytes:,}; {keys}", RESTORE)
        return False
    if held.segment is None:
        report.add("error", where, f"{held.refused}; {keys}", RESTORE)
        return False
    damaged = _damaged_blocks(held.segment, blocks)
    if hex16(digest) != row.xxh3 or len(damaged):
        return _describe_damage(held.segment, damaged, hex16(digest) == row.xxh3, where, report)
    return _check_content(held.segment, row, settings, where, report)


def kind_of(row: IndexRow | ColumnsRow) -> str:
    return "the index" if isinstance(row, IndexRow) else "the file of metadata columns"


def check_derived(held: OpenFile, row: IndexRow | ColumnsRow, where: str, report: Report) -> None:
    what = kind_of(row)
    try:
        whole = xxhash.xxh3_64()
        size = hash_rest(held.fd, 0, whole)
    except OSError as e:
        report.add("warning", where, f"{what} cannot be read: {e}", REBUILT)
        return
    report.bytes += size
    if size != row.bytes:
        report.add("warning", where, f"{what} has {size:,} bytes and should have {row.bytes:,}", REBUILT)
    elif hex16(whole.intdigest()) != row.xxh3:
        report.add("warning", where, f"{what} is damaged: its checksum differs from the catalogue's", REBUILT)


def _hashes(held: OpenFile) -> tuple[int, int, NDArray[np.uint64]]:
    """Length, xxh3 of the whole, and of the blocks up to /block_xxh3 (none where the file is no segment)."""
    end = 0 if held.segment is None else held.segment.extents[fmt.BLOCK_XXH3].offset
    whole = xxhash.xxh3_64()
    blocks = hash_blocks(held.fd, end, whole)
    return hash_rest(held.fd, end, whole), whole.intdigest(), blocks


def _damaged_blocks(segment: Segment, blocks: NDArray[np.uint64]) -> NDArray[np.int64]:
    if len(segment.block_xxh3) < len(blocks):
        return np.arange(len(segment.block_xxh3), len(blocks))
    return np.flatnonzero(segment.block_xxh3[: len(blocks)] != blocks)


def _describe_damage(
    segment: Segment, damaged: NDArray[np.int64], whole_is_right: bool, where: str, report: Report
) -> bool:
    if not len(damaged):
        what = "the checksum of the whole file differs, but that of no block: the damage is in the table of checksums"
        report.add("error", where, what, "no vector is harmed; " + RESTORE)
        return True
    runs = np.split(damaged, np.flatnonzero(np.diff(damaged) != 1) + 1)
    for run in runs[:MAX_RUNS]:
        covered = segment.extents[fmt.BLOCK_XXH3].offset
        start, end = int(run[0]) * BLOCK_BYTES, min((int(run[-1]) + 1) * BLOCK_BYTES, covered)
        blocks = f"block {run[0]}" if len(run) == 1 else f"blocks {run[0]} to {run[-1]}"
        hits = "; ".join(_what_lies_in(segment, start, end)) or "HDF5's own headers"
        report.add("error", where, f"damaged in {blocks} (bytes {start:,} to {end:,}): {hits}", RESTORE)
    if len(runs) > MAX_RUNS:
        report.add("error", where, f"{len(damaged)} blocks are damaged in all, in {len(runs)} places", RESTORE)
    if whole_is_right:
        report.add("error", where, "yet the whole file is as it was published: it was written wrong", RESTORE)
    rows_harmed = [e for n, e in segment.extents.items() if n in (fmt.KEYS, fmt.IDS, fmt.ID_BYTES, fmt.ID_OFFSETS)]
    starts = damaged * BLOCK_BYTES
    return not any(((starts < e.end) & (starts + BLOCK_BYTES > e.offset)).any() for e in rows_harmed)


def _what_lies_in(segment: Segment, start: int, end: int) -> list[str]:
    """`vectors of rows 10 to 99`, for each dataset that bytes [start, end) of the file touch."""
    found = []
    for name, extent in segment.extents.items():
        low, high = max(start, extent.offset) - extent.offset, min(end, extent.end) - extent.offset
        if low >= high:
            continue
        row_bytes = extent.nbytes // extent.shape[0]
        first, last = low // row_bytes, (high - 1) // row_bytes
        if name == fmt.ID_BYTES:
            found.append(f"ids (their bytes {first:,} to {last:,})")
        elif name in fmt.SPARSE and name != fmt.INDPTR:
            found.append(f"{name} {first:,} to {last:,}")
        else:
            found.append(f"{name} of rows {first:,} to {min(last, segment.rows - 1):,}")
    return found


def _check_content(segment: Segment, row: SegmentRow, settings: Settings, where: str, report: Report) -> bool:
    """The bytes are as they were published: do they agree with the catalogue?"""
    said: dict[str, tuple[Any, Any]] = {
        "rows": (segment.rows, row.rows),
        "dimension": (segment.dimension, settings.dimension),
        "metric": (segment.metric, settings.metric),
        "dtype": (segment.vectors.dtype.name, settings.dtype),
        "sparse": (segment.sparse, settings.sparse),
        "id type": (segment.id_type, settings.id_type),
    }
    faults = [f"{name} {here}, but {there} in the catalogue" for name, (here, there) in said.items() if here != there]
    keys = segment.keys_rel
    if not bool((keys[1:] > keys[:-1]).all()):
        faults.append("its keys do not ascend")
    elif int(keys[-1]) >= row.span:
        faults.append(f"its last key is {int(keys[-1])}, beyond its span of {row.span}")
    if isinstance(segment.ids, StrIds) and not segment.ids.consistent():
        faults.append("the offsets of its ids do not ascend, or do not end where the ids do")
    faults += sparse_faults(segment)
    for fault in faults:
        report.add("error", where, fault, "this is a fault of the program that wrote it: please report it")
    return not faults
