"""Collections for readers: rows of which everything follows from their number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seedvec import Client
from seedvec.collection import Collection

DIMENSION = 8


def vectors_of(numbers: Any) -> NDArray[np.float32]:
    """(n, DIMENSION)."""
    return (np.asarray(numbers, np.float32).reshape(-1, 1) % 2048 + np.arange(DIMENSION, dtype=np.float32) / 8) / 8


def metadata_of(number: int) -> dict[str, Any] | None:
    return None if number % 5 == 4 else {"n": number, "label": number % 3, "in": {"name": f"ä{number}"}}


def fill(client: Client, name: str, numbers: range, ids: str = "int", step: int = 150, **settings: Any) -> Collection:
    """Adds these rows, a request for each `step` of them: some are sealed, some pend."""
    collection = client.collection(name, DIMENSION, metric="l2", id_type=ids, **settings)
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        named = [n if ids == "int" else f"ü{n}" for n in part]
        collection.add(vectors_of(part), named, [metadata_of(n) for n in part])
    return collection
