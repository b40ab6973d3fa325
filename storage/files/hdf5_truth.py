"""Queries and ground truth as ann-benchmarks keeps them: `test`, `neighbors`, `distances`, attribute `distance`."""

from typing import Any, Final

import h5py
import numpy as np

from storage.files.contract import BadFile, GroundTruth, Outline
from storage.files.hdf5_open import Hdf5, told
from storage.files.hdf5_rows import open_rows

TRAIN: Final = "train"
"""The vectors."""
TEST: Final = "test"
NEIGHBORS: Final = "neighbors"
DISTANCES: Final = "distances"
DISTANCE: Final = "distance"
METRICS: Final = {"euclidean": "l2", "angular": "cosine", "dot": "dot", "ip": "dot"}
"""What its files call ours."""
QUERIES_MAX: Final = 10_000
"""The first so many are kept; no more are asked in one request."""
BYTES_MAX: Final = 256 << 20


def read_truth(file: Hdf5, root: dict[str, Any], outline: Outline) -> GroundTruth | None:
    """None where the file has none. Raises BadFile where it does not fit the vectors."""
    if not isinstance(root.get(TEST), h5py.Dataset) or not isinstance(root.get(NEIGHBORS), h5py.Dataset):
        return None
    test, neighbors = (open_rows(file, file.dataset(name)) for name in (TEST, NEIGHBORS))
    distances = open_rows(file, file.dataset(DISTANCES)) if isinstance(root.get(DISTANCES), h5py.Dataset) else None
    for name, found, kinds in ((TEST, test, "f"), (NEIGHBORS, neighbors, "iu"), (DISTANCES, distances, "f")):
        if found is not None and (len(found.shape) != 2 or found.dtype.kind not in kinds):
            raise BadFile(f"{name} is {found.dtype} {found.shape}, which ann-benchmarks does not write")
    if test.shape[1] != outline.dimension or neighbors.shape[0] != test.shape[0]:
        raise BadFile(f"{TEST} is {test.shape} and {NEIGHBORS} {neighbors.shape}: they do not belong to the vectors")
    if distances is not None and distances.shape != neighbors.shape:
        raise BadFile(f"{DISTANCES} is {distances.shape} and {NEIGHBORS} {neighbors.shape}")
    count = min(test.shape[0], QUERIES_MAX)
    if count * (4 * test.shape[1] + 12 * neighbors.shape[1]) > BYTES_MAX:
        raise BadFile(f"queries and ground truth take more than {BYTES_MAX:,} bytes")
    nearest = neighbors.rows(0, count).astype(np.int64)
    if nearest.size and not 0 <= nearest.min() <= nearest.max() < (outline.rows or 0):
        raise BadFile(f"{NEIGHBORS} names rows that are not there")
    return GroundTruth(
        test.rows(0, count).astype(np.float32),
        nearest,
        distances.rows(0, count).astype(np.float32) if distances is not None else None,
        _metric(file),
    )


def _metric(file: Hdf5) -> Any:
    with told("the attribute distance"):
        attributes = file.root.attrs
        if DISTANCE not in attributes or attributes.get_id(DISTANCE).shape != ():
            return None
        # Text of variable length lies in a heap that HDF5 itself would have to read; ann-benchmarks writes it so.
        said = attributes[DISTANCE]
        return METRICS.get(said.decode("ascii", "replace") if isinstance(said, bytes) else str(said))
