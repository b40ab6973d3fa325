"""Queries that an imported file brings (ann-benchmarks): kept as real ones are, so that recall is measured on them.

Their true nearest are not kept: they hold for the file alone, and recall compares with an exact search, which finds the
same, and what is right after the next write as well.
"""

import logging
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from storage.catalogue import Settings
from storage.files.contract import GroundTruth
from storage.queries import Sample, most_of, spread, write_sample

NAME: Final = "import"
"""Of the sample's file, where workers write under their own names. The next file that brings some takes its place."""
log = logging.getLogger(__name__)


def usable(truth: GroundTruth | None, settings: Settings, most: int) -> NDArray[np.float32] | None:
    """Those that can be searched for, `most` at most; None where there are none."""
    if truth is None or settings.sparse or truth.queries.shape[1] != settings.dimension:
        return None
    sound = np.isfinite(truth.queries).all(axis=1) & truth.queries.any(axis=1)
    queries = spread(truth.queries[sound], most_of(settings.dimension, most))
    return queries if len(queries) else None


def note(queries: NDArray[np.float32], truth: GroundTruth, settings: Settings) -> str:
    said = f"{len(queries)} queries of the file are kept, and POST …/recall measures on them"
    if truth.metric in (None, settings.metric):
        return said
    return f"{said}; the file's nearest are those by {truth.metric}, the collection's by {settings.metric}"


def keep(folder: Path, queries: NDArray[np.float32]) -> None:
    """folder: the collection's. Raises nothing: like every sample they can be done without."""
    try:
        write_sample(folder, NAME, Sample(queries, np.full(len(queries), time.time())))
    except OSError as e:
        log.warning("%s: the queries of the imported file cannot be written: %s", folder, e)
