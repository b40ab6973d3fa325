"""The script's plan: what is done when. The same for the same seed."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.types import CollectionSettings, IndexSpec, Vectors
from seedvec.sparse import SparseRows, offsets

DIMENSION = 8
OPERATIONS = 240
LARGE = 280
"""Rows of a write that gets a segment of its own, and an index."""
KINDS: dict[str, CollectionSettings] = {
    "ints": CollectionSettings(DIMENSION, "l2", "float32", "int", IndexSpec("hnsw", {"m": 8})),
    "strs": CollectionSettings(DIMENSION, "cosine", "float16", "str", IndexSpec("ivf", {"nlist": 4})),
    "autos": CollectionSettings(DIMENSION, "dot", "float32", "auto", IndexSpec("flat")),
    "brief": CollectionSettings(DIMENSION, "l2", "float16", "auto", IndexSpec("flat")),
    "names": CollectionSettings(DIMENSION, "cosine", "float32", "str", IndexSpec("flat"), sparse=True),
}
"""Collections by name. In `autos` and `names` the server assigns ids."""


def of_kind(settings: CollectionSettings, vectors: NDArray[Any]) -> Vectors:
    """(n, d) as such a collection takes them."""
    if not settings.sparse:
        return vectors
    rows, places = np.nonzero(vectors)
    lengths = np.bincount(rows, minlength=len(vectors))
    return SparseRows(offsets(lengths), places.astype(np.int32), vectors[rows, places], vectors.shape[1])


def as_matrix(vectors: Vectors) -> NDArray[Any]:
    """What it gave, as (n, d)."""
    return vectors.dense() if isinstance(vectors, SparseRows) else vectors


@dataclass(frozen=True, slots=True)
class Planned:
    """kind: see `operations._MAKERS`; rows: how many; again: the operation that this one repeats by its key."""

    kind: str
    collection: str = ""
    rows: int = 0
    options: dict[str, Any] = field(default_factory=dict)


TOUR = [
    *(Planned("create", name) for name in ("ints", "strs", "autos", "names")),
    Planned("add", "ints", 30, {"key": True}),
    Planned("repeat", "ints", 30, {"of": 4}),
    Planned("add", "strs", 20),
    Planned("assign", "autos", 12),
    Planned("assign", "names", 1),
    Planned("read", "ints"),
    Planned("upsert", "ints", 10),
    Planned("delete", "ints", 6, {"key": True}),
    Planned("patch", "strs"),
    Planned("patch_vector", "strs"),
    Planned("seal"),
    Planned("upsert", "ints", 8),
    Planned("delete", "strs", 5),
    Planned("patch", "ints"),
    Planned("patch_vector", "ints"),
    Planned("seal"),
    Planned("tidy"),
    Planned("build"),
    Planned("add", "ints", LARGE, {"key": True}),
    Planned("repeat", "ints", LARGE, {"of": 22}),
    Planned("upsert", "strs", LARGE),
    Planned("assign", "names", LARGE),
    Planned("build"),
    Planned("read", "ints"),
    Planned("read", "strs"),
    Planned("delete", "ints", 90),
    Planned("build"),
    Planned("tidy"),
    Planned("create", "brief"),
    Planned("add", "brief", 5),
    Planned("drop", "brief"),
    Planned("rebuild", "ints", 0, {"spec": IndexSpec("flat")}),
    Planned("build"),
    Planned("delete_all", "autos", 0, {"key": True}),
    Planned("recall", "strs"),
    Planned("rebuild", "ints", 0, {"spec": IndexSpec("hnsw", {"m": 6})}),
    Planned("build"),
    Planned("tidy"),
    Planned("patch_where", "ints"),
    Planned("patch_ids", "strs", 7),
    Planned("delete_where", "strs", 0, {"key": True}),
    Planned("give", "ints"),
    Planned("build"),
]
"""Everything that can happen, once, quickly: it comes before the random mix."""
MIX = {
    "add": 10,
    "upsert": 12,
    "assign": 6,
    "delete": 10,
    "patch": 8,
    "patch_vector": 6,
    "patch_where": 3,
    "patch_ids": 3,
    "delete_where": 2,
    "keyed": 4,
    "repeat": 4,
    "large": 2,
    "delete_all": 1,
    "rebuild": 1,
    "recall": 1,
    "give": 1,
    "brief": 4,
    "read": 5,
    "seal": 9,
    "build": 4,
    "tidy": 3,
}
"""Kind → weight in the mix."""


def plan(seed: int, count: int = OPERATIONS) -> list[Planned]:
    """The same for the same seed."""
    rng = np.random.default_rng(seed)
    names, weights = list(MIX), np.array(list(MIX.values()), float)
    made = list(TOUR)
    keyed = 22
    brief = False
    while len(made) < count:
        kind = str(rng.choice(names, p=weights / weights.sum()))
        collection = str(rng.choice(["ints", "strs"]))
        some = int(rng.integers(1, 25))
        if kind == "keyed":
            keyed = len(made)
            made.append(Planned("add", collection, some, {"key": True}))
        elif kind == "repeat":
            made.append(Planned("repeat", made[keyed].collection, made[keyed].rows, {"of": keyed}))
        elif kind == "large":
            made.append(Planned(str(rng.choice(["add", "upsert"])), collection, 80 + some))
        elif kind == "assign":
            made.append(Planned("assign", "autos", some) if some % 2 else Planned("assign", "names", 1))
        elif kind == "delete_all":
            made.append(Planned("delete_all", str(rng.choice(["strs", "autos", "names"]))))
        elif kind == "rebuild":
            spec = IndexSpec("hnsw", {"m": 4 + some % 4}) if some % 3 else IndexSpec("ivf", {"nlist": 2 + some % 4})
            made.append(Planned("rebuild", collection, 0, {"spec": spec}))
        elif kind == "brief":
            made.append(Planned("drop" if brief else "create", "brief"))
            brief = not brief
        elif kind in ("seal", "build", "tidy"):
            made.append(Planned(kind))
        else:
            made.append(Planned(kind, collection, some))
    return made
