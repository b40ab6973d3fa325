"""Faiss indexes on disk: written whole and synced, read as a memory map. The checksum is the storage's affair.

`faiss.write_index` to a path never syncs, and on a full disk can leave half a file without raising; through a Python
file every short write is an OSError.
"""

import os
from pathlib import Path
from typing import Any

import faiss

from index import mapped_lists
from index.contract import IndexFileError


def write(index: Any, path: Path) -> None:
    """Writes and syncs the file (not its folder). An HNSW graph may have no storage. Raises OSError."""
    with open(path, "wb") as f:
        writer = faiss.PyCallbackIOWriter(f.write)
        faiss.write_index(index, writer)
        del writer  # it holds back what it has buffered until it goes
        f.flush()
        os.fsync(f.fileno())


def read(path: Path, kind: str) -> Any:
    """The index, its large arrays left in the page cache: a graph's by Faiss (IO_FLAG_MMAP_IFC), lists by us.

    Raises IndexFileError: not a Faiss file, or cut off; FileNotFoundError.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        lists = mapped_lists.read(path) if kind == "ivf" else None
        return lists if lists is not None else faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError, ValueError) as e:
        raise IndexFileError(f"{path.name}: {str(e).strip().splitlines()[-1] if str(e) else type(e).__name__}") from e
