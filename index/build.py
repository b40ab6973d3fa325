"""From vectors to an index file, whatever the kind: choose, build or extend, calibrate, check, write."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index import hnsw_build, ivf_build, persist
from index.approximate import Approximate
from index.contract import Metric, Rejected, Vectors
from index.exact import exact_cost_us
from index.load import META_VERSION
from index.making import CannotExtend, Made
from index.memory import Budget, TooLittleMemory, building_bytes, first_that_fits, give_back
from index.pacing import Progress
from index.parameters import HIGH_RECALL, check_params, fitted
from index.recalibration import FEWEST, distinct
from index.threads import set_threads

FLAT_BELOW_US = 300.0
"""An exact search cheaper than this (one query, one thread) needs no index: HTTP around it costs as much."""
MIN_ROWS = 256
"""Fewer rows are never indexed, whatever was asked for: there would be nothing to calibrate on."""
IVF_FROM_DIMENSION = 16
LEAST_PARTS = 8
"""Codes are not made smaller than this for want of memory: re-ranking could not make up for it."""
MAX_DROPPED = 0.2
"""Of the old rows; with more of them gone, what is left of the old index is not worth its holes."""
MAX_GROWTH = 2.0
"""Times the rows of the last build from scratch: lists that were placed on fewer no longer fit."""
MAX_LISTS_OFF = 1.5
"""Times the lists that the rows now ask for, or so many times fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """An index of most of the rows, to be extended instead of built anew.

    index: open, over the old segment; path, meta: its file; rows: (old rows,) int64, the new row of each old one,
    -1: dropped.
    """

    index: Approximate
    path: Path
    meta: dict[str, Any]
    rows: NDArray[np.int64]


def extendable(base_meta: dict[str, Any], spec: tuple[str, dict[str, int]], kept: int, new: int) -> bool:
    """Whether extending the index of that meta beats building `spec` anew. kept: old rows that are still there; new:
    rows that come in. A wish that was changed is to be built anew, whatever this says."""
    kind, params = spec
    old = base_meta["params"]
    if base_meta["kind"] != kind or kept < (1 - MAX_DROPPED) * base_meta["rows"]:
        return False
    if kept + new > MAX_GROWTH * _built_rows(base_meta):
        return False
    if kind == "ivf":
        lists_off = max(old["nlist"], params["nlist"]) / min(old["nlist"], params["nlist"])
        return bool(old["pq_m"] == params["pq_m"] and lists_off <= MAX_LISTS_OFF)
    return bool(old == params)


def _built_rows(meta: dict[str, Any]) -> int:
    return int(meta.get("built_rows", meta["rows"]))


def resolve(
    kind: str,
    params: dict[str, int],
    rows: int,
    dimension: int,
    metric: Metric,
    recall: float,
    budget: Budget | None = None,
    dtype: str = "float32",
) -> tuple[str, dict[str, int]]:
    """The kind to build for a collection's specification, and all its parameters. ("flat", {}): build nothing.

    `auto` goes by what was measured (docs/indexes.md). budget None: memory is no object; where it is, `auto` takes
    lists for a graph that does not fit, and lists get smaller codes unless `pq_m` was asked for. Raises ValueError
    for what `check_params` refuses; TooLittleMemory where nothing of this kind fits.
    """
    faults = check_params(kind, params)
    if faults:
        raise ValueError("; ".join(f"{name}: {message}" for name, message in faults))
    kinds = [kind]
    if kind == "auto":
        kinds = _by_measurement(rows, dimension, metric, recall)
    if rows < MIN_ROWS or kinds == ["flat"]:
        return "flat", {}
    specs = [(each, fitted(each, params, rows, dimension, recall)) for each in kinds]
    if budget is None:
        return specs[0]
    if "pq_m" not in params and specs[-1][0] == "ivf":
        specs += [("ivf", fitted("ivf", {**params, "pq_m": m}, rows, dimension, recall)) for m in _smaller(specs[-1])]
    return first_that_fits(specs, rows, dimension, dtype, metric, budget)


def _by_measurement(rows: int, dimension: int, metric: Metric, recall: float) -> list[str]:
    """The kind that is best, and what else would do."""
    if exact_cost_us(rows, dimension, half=False) < FLAT_BELOW_US:
        return ["flat"]
    lists = dimension >= IVF_FROM_DIMENSION and (metric == "dot" or recall <= HIGH_RECALL)
    return ["ivf"] if lists else ["hnsw", "ivf"]


def _smaller(spec: tuple[str, dict[str, int]]) -> list[int]:
    """Parts of smaller codes: half as many, and half of that."""
    parts = spec[1]["pq_m"]
    return [parts // 2, parts // 4] if parts >= 4 * LEAST_PARTS else []


def build(
    vectors: Vectors,
    spec: tuple[str, dict[str, int]],
    path: Path,
    *,
    recall: float = 0.95,
    threads: int = 2,
    queries: NDArray[np.float32] | None = None,
    base: Base | None = None,
    memory: int | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Builds what `resolve` said, writes it to `path` and syncs it (not its folder). → meta, JSON-able, for `load`.

    queries: (q, d) real ones, to be calibrated on instead of rows held out, where they are enough; base: an index to
    extend, which the caller found `extendable` (if it fails there, all is built anew); memory: bytes that the build
    may take beside the page cache. progress is called with the done share of the time about once a second and may
    raise `Cancelled`; then there is no file. Raises OSError (disk full), TooLittleMemory, Rejected (the index would
    not find what is there), ValueError for kind flat or too few rows.
    """
    kind, params = spec
    n, d = vectors.rows.shape
    if kind not in ("hnsw", "ivf") or n < MIN_ROWS:
        raise ValueError(f"no index to build: kind {kind}, {n} rows")
    params = fitted(kind, params, n, d, recall)
    estimate = building_bytes(kind, params, n, d, vectors.rows.dtype.name, vectors.metric)
    if memory is not None and estimate > memory:
        raise TooLittleMemory(estimate, memory)
    set_threads(threads)
    if queries is not None and len(distinct(queries)) < FEWEST:
        queries = None
    made = None if base is None else _extended(vectors, kind, base, queries, progress)
    built_rows = n
    if made is not None and base is not None:
        params, built_rows = base.meta["params"], _built_rows(base.meta)
    else:
        made = _anew(vectors, kind, params, queries, progress)
    try:
        persist.write(made.index, path)
        progress(1.0)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        give_back()
    return {
        "version": META_VERSION,
        "kind": kind,
        "params": params,
        "rows": n,
        "built_rows": built_rows,
        "dimension": d,
        "metric": vectors.metric,
        "dtype": vectors.rows.dtype.name,
        "calibration": made.calibration.to_json(),
        "checked": made.checked,
    }


def _anew(
    vectors: Vectors, kind: str, params: dict[str, int], queries: NDArray[np.float32] | None, progress: Progress
) -> Made:
    if kind == "ivf":
        return ivf_build.build(vectors, params, queries, progress)
    return hnsw_build.build(vectors, params, queries, progress)


def _extended(
    vectors: Vectors, kind: str, base: Base, queries: NDArray[np.float32] | None, progress: Progress
) -> Made | None:
    """None: it has to be built anew."""
    try:
        if kind == "ivf":
            return ivf_build.extend(vectors, base.path, base.rows, queries, progress)
        return hnsw_build.extend(vectors, base.index, base.meta["params"], base.rows, queries, progress)
    except (CannotExtend, Rejected):
        return None
