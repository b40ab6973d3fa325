"""From vectors to an index file, whatever the kind: choose, build, calibrate, write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from index import hnsw_build, ivf, persist, source
from index.contract import Metric, Vectors
from index.exact import exact_cost_us
from index.load import META_VERSION
from index.parameters import HIGH_RECALL, check_params, fitted
from index.threads import set_threads

FLAT_BELOW_US = 300.0
"""An exact search cheaper than this (one query, one thread) needs no index: HTTP around it costs as much."""
MIN_ROWS = 256
"""Fewer rows are never indexed, whatever was asked for: there would be nothing to calibrate on."""
IVF_FROM_DIMENSION = 16


def resolve(
    kind: str, params: dict[str, int], rows: int, dimension: int, metric: Metric, recall: float
) -> tuple[str, dict[str, int]]:
    """The kind to build for a collection's specification, and all its parameters. ("flat", {}): build nothing.

    `auto` goes by what was measured (docs/indexes.md). Raises ValueError for what `check_params` refuses.
    """
    faults = check_params(kind, params)
    if faults:
        raise ValueError("; ".join(f"{name}: {message}" for name, message in faults))
    if kind == "auto":
        if exact_cost_us(rows, dimension, half=False) < FLAT_BELOW_US:
            kind = "flat"
        else:
            lists = metric == "dot" or recall <= HIGH_RECALL
            kind = "ivf" if lists and dimension >= IVF_FROM_DIMENSION else "hnsw"
    if rows < MIN_ROWS:
        kind = "flat"
    return kind, fitted(kind, params, rows, dimension, recall)


def build(
    vectors: Vectors,
    spec: tuple[str, dict[str, int]],
    path: Path,
    *,
    recall: float = 0.95,
    threads: int = 2,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Builds what `resolve` said, writes it to `path` and syncs it (not its folder). → meta, JSON-able, for `load`.

    progress is called with the done share about once a second and may raise `Cancelled`; then there is no file.
    Raises OSError (disk full), ValueError for kind flat or too few rows.
    """
    kind, params = spec
    n, d = vectors.rows.shape
    if kind not in ("hnsw", "ivf") or n < MIN_ROWS:
        raise ValueError(f"no index to build: kind {kind}, {n} rows")
    params = fitted(kind, params, n, d, recall)
    set_threads(threads)
    graph = kind == "hnsw"
    index, calibration = hnsw_build.build(vectors, params, progress) if graph else ivf.build(vectors, params, progress)
    mapped_only = graph and not source.needs_copy(vectors)
    try:
        persist.write(index, path, skip_storage=mapped_only)
        progress(1.0)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {
        "version": META_VERSION,
        "kind": kind,
        "params": params,
        "rows": n,
        "dimension": d,
        "metric": vectors.metric,
        "dtype": vectors.rows.dtype.name,
        "calibration": calibration.to_json(),
    }
