"""From an index file and its meta to an index that searches. Nothing here verifies a checksum: whoever calls did."""

from pathlib import Path
from typing import Any

from index import hnsw, ivf, persist
from index.approximate import Approximate
from index.calibration import Calibration
from index.contract import IndexFileError, Vectors

META_VERSION = 1


def load(path: Path, meta: dict[str, Any], vectors: Vectors) -> Approximate:
    """Opens an index of `vectors`, memory-mapped. Thread-safe from then on.

    Raises IndexFileError: the file, its meta and the vectors do not belong together, or it is damaged in a way that
    shows; FileNotFoundError.
    """
    n, d = vectors.rows.shape
    is_, asked = _identity(meta), (META_VERSION, n, d, vectors.metric, vectors.rows.dtype.name)
    if is_ != asked:
        raise IndexFileError(f"{path.name}: made for {is_}, not for {asked}")
    try:
        calibration = Calibration.from_json(meta["calibration"])
        kind = meta["kind"]
    except (KeyError, TypeError, ValueError) as e:
        raise IndexFileError(f"{path.name}: its calibration cannot be read") from e
    index = persist.read(path)
    if kind == "hnsw":
        return hnsw.opened(index, vectors, calibration)
    if kind == "ivf":
        return ivf.opened(index, vectors, calibration)
    raise IndexFileError(f"{path.name}: kind {kind!r} is unknown")


def _identity(meta: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(meta.get(name) for name in ("version", "rows", "dimension", "metric", "dtype"))


def private_bytes(meta: dict[str, Any]) -> int:
    """Memory that each process which opens this index has for itself; the rest is mapped and shared."""
    rows, dimension, params = int(meta["rows"]), int(meta["dimension"]), meta["params"]
    if meta["kind"] == "hnsw":
        # Level and offset of each node are read into vectors; a search keeps a byte a node of where it was, and so
        # does a walk under a filter.
        return rows * (4 + 8 + 1 + 1)
    # Codes are padded to blocks of 32 rows a list and held beside their ids; measured 13 MB for a file of 9.
    code_bytes = (int(params["pq_m"]) + 1) // 2
    # Under a filter each row's list has to be known.
    return round(1.45 * rows * (code_bytes + 8)) + 4 * rows + 4 * int(params["nlist"]) * dimension
