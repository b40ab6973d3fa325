"""Inverted lists of fast-scan codes searched where they lie: in the index file, mapped, one copy for all processes.

Faiss 1.15 reads such lists (fourcc "ilbl") into the private memory of every process, whatever flags it is given: at
10,000,000 × 128 that would be 400 MB a worker. Only its lists on disk (`OnDiskInvertedLists`) are mapped, and those
know another layout. But all that a search asks of them is where a list's codes and ids begin, and that is a table of
offsets which can just as well point into a file that `faiss.write_index` wrote: the file stays one that plain
`faiss.read_index` opens. Measured: the same answers, as fast.

    "ilbl" nlist code_size n_per_block block_size                           u64 each
    for each list:  n  ids (n × i64)  length  codes (length bytes, whole blocks)
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.contract import IndexFileError

FOURCC = b"ilbl"
HEADER = struct.Struct("<4s4Q")
COUNT = struct.Struct("<Q")
UNIT = 8
"""Bytes that capacities are counted in; ids and the lengths of blocks are multiples of it."""
WRAP = 2**64 // UNIT


def read(path: Path) -> Any | None:
    """The `IndexIVFPQFastScan` in the file with its lists mapped; None where the file holds no such lists.

    Raises IndexFileError: cut off, or not a Faiss file; FileNotFoundError.
    """
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin, table = _lists(data)
        if table is None:
            return None
        index = _without_lists(data, begin, len(table))
        size = len(data)
    lists = faiss.OnDiskInvertedLists()
    lists.nlist, lists.code_size = len(table), index.code_size
    lists.lists.resize(len(table))
    faiss.memcpy(lists.lists.data(), faiss.swig_ptr(table), table.nbytes)
    lists.filename, lists.totsize, lists.read_only = str(path), size, True
    lists.prefetch_nthread = 0  # it would start threads at every search: 30 times the search itself
    lists.do_mmap()
    index.replace_invlists(lists, True)
    lists.this.disown()
    lists.code_size = UNIT  # from here on the unit of capacities alone
    _verify(path, lists, table)
    return index


def _lists(data: mmap.mmap) -> tuple[int, NDArray[np.uint64] | None]:
    """Where the lists begin, and the table of them. The four letters may stand in a centroid by chance: only what is
    followed by lists up to the end of the file is their beginning."""
    begin = data.find(FOURCC)
    while begin >= 0:
        table = _table(data, begin)
        if table is not None:
            return begin, table
        begin = data.find(FOURCC, begin + 1)
    return -1, None


def _table(data: mmap.mmap, begin: int) -> NDArray[np.uint64] | None:
    """(nlist, 3): size, capacity and offset of each list, as Faiss keeps them.

    Faiss takes the ids to begin `capacity` units behind the codes. Here they lie before them, so that capacities are
    negative numbers, as unsigned ones have them."""
    end = len(data)
    if begin + HEADER.size > end:
        return None
    _, nlist, _, per_block, block = HEADER.unpack_from(data, begin)
    place = begin + HEADER.size
    if not 0 < nlist <= (end - place) // (2 * COUNT.size) or block % UNIT or not per_block:
        return None
    table = np.empty((nlist, 3), np.uint64)
    for i in range(nlist):
        (n,) = COUNT.unpack_from(data, place)
        codes = place + COUNT.size + n * 8
        if codes + COUNT.size > end:
            return None
        (length,) = COUNT.unpack_from(data, codes)
        if length != -(-n // per_block) * block:
            return None
        codes += COUNT.size
        table[i] = n, WRAP - 1 - n, codes
        place = codes + length
        if place + (2 * COUNT.size if i + 1 < nlist else 0) > end:
            return None
    return table if place == end else None


def _without_lists(data: mmap.mmap, begin: int, nlist: int) -> Any:
    """The index as if its lists were empty: everything before them is read as Faiss reads it."""
    source = _Bytes(data[: begin + HEADER.size] + bytes(2 * COUNT.size * nlist))
    try:
        return faiss.read_index(faiss.PyCallbackIOReader(source))
    except RuntimeError as e:
        raise IndexFileError(str(e).strip().splitlines()[-1]) from e


class _Bytes:
    """A file of bytes, as Faiss' reader wants to call it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def __call__(self, size: int) -> bytes:
        part = self._data[self._place : self._place + size]
        self._place += len(part)
        return part


def _verify(path: Path, lists: Any, table: NDArray[np.uint64]) -> None:
    """Faiss must find the ids where they are: if another version reckons otherwise, nothing may be searched."""
    number = int(np.argmax(table[:, 0]))
    size, offset = int(table[number, 0]), int(table[number, 2])
    if not size:
        return
    seen = faiss.rev_swig_ptr(lists.get_ids(number), size)
    there = np.fromfile(path, np.int64, size, offset=offset - COUNT.size - 8 * size)
    if lists.list_size(number) != size or not np.array_equal(seen, there):
        raise IndexFileError(f"{path.name}: this Faiss does not map inverted lists as 1.15 does")
