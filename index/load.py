"""From an index file and its meta to an index that searches. Nothing here verifies a checksum: whoever calls did."""

from pathlib import Path
from typing import Any

from index import hnsw, ivf, persist
from index.approximate import Approximate
from index.calibration import Calibration
from index.contract import IndexFileError, Vectors

META_VERSION = 2
READABLE = (1, 2)


def load(path: Path, meta: dict[str, Any], vectors: Vectors) -> Approximate:
    """Opens an index of `vectors`, memory-mapped. Thread-safe from then on.

    Raises IndexFileError: the file, its meta and the vectors do not belong together, or it is damaged in a way that
    shows; FileNotFoundError.
    """
    n, d = vectors.rows.shape
    is_, asked = _identity(meta), (n, d, vectors.metric, vectors.rows.dtype.name)
    if meta.get("version") not in READABLE:
        raise IndexFileError(f"{path.name}: its version is {meta.get('version')}")
    if is_ != asked:
        raise IndexFileError(f"{path.name}: made for {is_}, not for {asked}")
    try:
        calibration = Calibration.from_json(meta["calibration"])
        kind = meta["kind"]
    except (KeyError, TypeError, ValueError) as e:
        raise IndexFileError(f"{path.name}: its calibration cannot be read") from e
    index = persist.read(path, kind)
    if kind == "hnsw":
        return hnsw.opened(index, vectors, calibration)
    if kind == "ivf":
        return ivf.opened(index, vectors, calibration)
    raise IndexFileError(f"{path.name}: kind {kind!r} is unknown")


def _identity(meta: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(meta.get(name) for name in ("rows", "dimension", "metric", "dtype"))
