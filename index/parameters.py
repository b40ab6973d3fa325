"""What can be set when an index is built, each with its range.

`check_params` is asked before a wish is stored: a builder that met a bad one later could only fail.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

KINDS = ("auto", "flat", "hnsw", "ivf")


@dataclass(frozen=True, slots=True)
class Parameter:
    """default None: chosen by rows and dimension when the index is built."""

    name: str
    minimum: int
    default: int | None
    maximum: int
    help: str


M = Parameter(
    "m", 4, None, 96, "links of a node in the graph, 2·m on the lowest level; default: 16, or 32 above recall 0.97"
)
EF_CONSTRUCTION_DEFAULT = 80
EF_CONSTRUCTION = Parameter(
    "ef_construction", 16, EF_CONSTRUCTION_DEFAULT, 1000, "nodes kept in sight while a node is linked"
)
NLIST = Parameter("nlist", 1, None, 65_536, "lists the vectors are sorted into; default: the root of their number")
PQ_M = Parameter("pq_m", 1, None, 8_192, "parts of 4 bits each in a vector's code; default: d/2 to d/8")

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "auto": (),
    "flat": (),
    "hnsw": (M, EF_CONSTRUCTION),
    "ivf": (NLIST, PQ_M),
}

SEARCH_PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "flat": (),
    "hnsw": (Parameter("ef_search", 1, None, 16_384, "nodes kept in sight while the graph is walked; at least k"),),
    "ivf": (
        Parameter("nprobe", 1, None, 65_536, "lists that are looked into"),
        Parameter("rerank", 1, None, 1024, "times k candidates whose distance is computed from the stored vectors"),
    ),
}
"""How a search is done; a request may give them in place of a recall. Default: by calibration."""

POINTS_A_LIST = 39
"""Faiss wants 39 training points a list; with fewer than one it refuses."""


def check_params(kind: str, params: dict[str, int]) -> list[tuple[str, str]]:
    """Faults as (name of the parameter or "kind", message); empty: fine."""
    if kind not in PARAMETERS:
        return [("kind", f"{kind!r} is no kind of index: use one of {', '.join(KINDS)}")]
    return _faults(f"kind {kind}", {p.name: p for p in PARAMETERS[kind]}, params)


def check_search_params(kinds: Collection[str], params: Mapping[str, int]) -> list[tuple[str, str]]:
    """Faults of a search's own settings as (name, message), where its segments have indexes of these kinds."""
    known = {p.name: p for kind in sorted(kinds) for p in SEARCH_PARAMETERS.get(kind, ())}
    return _faults(f"an index of kind {' or '.join(sorted(kinds))}", known, params)


def _faults(of: str, known: Mapping[str, Parameter], params: Mapping[str, int]) -> list[tuple[str, str]]:
    faults = []
    for name, value in params.items():
        parameter = known.get(name)
        if parameter is None:
            allowed = f"it takes {' and '.join(known)}" if known else "it takes none"
            faults.append((name, f"is no parameter of {of}: {allowed}"))
        elif isinstance(value, bool) or not isinstance(value, int):
            faults.append((name, "must be an integer"))
        elif not parameter.minimum <= value <= parameter.maximum:
            faults.append((name, f"must be between {parameter.minimum} and {parameter.maximum}"))
    return faults


HIGH_RECALL = 0.97
"""Above it the graph wants more links, and beats the lists (docs/indexes.md)."""


def fitted(kind: str, params: dict[str, int], rows: int, dimension: int, recall: float) -> dict[str, int]:
    """Every parameter of the kind, defaults filled in and brought to what these rows allow."""
    if kind == "hnsw":
        m = params.get("m", 16 if recall <= HIGH_RECALL else 32)
        ef = params.get("ef_construction", EF_CONSTRUCTION_DEFAULT)
        return {"m": m, "ef_construction": max(ef, m)}
    if kind == "ivf":
        lists = params.get("nlist", round(math.sqrt(rows)))
        return {
            "nlist": max(1, min(lists, rows // POINTS_A_LIST, NLIST.maximum)),
            "pq_m": _parts(params.get("pq_m"), dimension),
        }
    return {}


def _parts(wanted: int | None, dimension: int) -> int:
    """Parts of equal width; the last is padded with zeros where the dimension does not divide."""
    if wanted is None:
        # Measured at equal recall: 784-d d/4 beats d/8 by 1.4 times; 384-d d/4 beats d/2 by 1.3; 128-d wants d/2.
        # Below 16 dimensions a part is one number, which 4 bits and the re-ranking serve well enough.
        width = 1 if dimension < 16 else 2 if dimension <= 256 else 4 if dimension <= 2048 else 8
    else:
        width = math.ceil(dimension / min(wanted, dimension))
    return math.ceil(dimension / width)


def part_width(dimension: int, pq_m: int) -> int:
    return math.ceil(dimension / pq_m)
