"""Building a graph, calibrated and numbered by rows; and extending one.

The queries of the calibration must not be in the graph when it is calibrated, so they are added last; but slots have
to be row numbers, since the segment is the graph's storage. So the graph is built in another order and its nodes are
numbered anew at the end.

A graph of most of the rows is extended: nodes of dropped rows are taken out and their neighbours linked to each other
instead, and what is missing is added. Queries of the calibration that were in the old graph are hidden while it is
measured: to take them out and add them again wore the graph down, of 20,000 × 32 by 0.015 of recall each time. What
was linked with them in sight lacks links without them, so that a little less is found than will be.
"""

import math
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import links, threads
from index.approximate import Approximate
from index.compared import chosen
from index.contract import Vectors
from index.hnsw import Hnsw
from index.making import CannotExtend, Made, costs, made, queries_among
from index.pacing import Phases, Progress, pieces, slowing

LOST_TOO_MUCH = 0.5
"""A node that lost a larger share of its neighbours is linked anew, like a new row."""
COPIED_BYTES = 16 << 20
NODE_S, NUMBER_S, SWEEP_S = 8e-8, 1e-10, 1.5e-5
"""Seconds on one core: a node looked at while one is linked, a number of it; a query of the sweep (it grows with the
root of the rows). For progress alone."""


class _Making:
    """Satisfies `making.Making`."""

    def __init__(self, vectors: Vectors, params: dict[str, int]) -> None:
        self.compared = chosen(vectors)
        self._graph = self.compared.empty(params["m"])
        self._graph.hnsw.efConstruction = params["ef_construction"]
        self._order = np.empty(0, np.int64)
        """The row of each slot."""

    def add(self, rows: NDArray[np.int64], progress: Progress) -> None:
        threads.use(threads.batch_threads())
        told = slowing(progress, self._graph.ntotal, len(rows))
        for piece in pieces(len(rows), first=1000, largest=50_000):
            self._graph.add(self.compared.rows(rows[piece]))
            told(piece.stop / len(rows))
        self._order = np.concatenate([self._order, rows])

    def opened(self) -> Hnsw:
        return Hnsw(self.compared, self._graph, None, self._order)

    def finished(self) -> Any:
        """Where the segment is the graph's storage, it loses its own."""
        slots = np.empty_like(self._order)
        slots[self._order] = np.arange(len(slots))
        if self.compared.copied:
            self._graph.permute_entries(slots)
        else:
            faiss.downcast_index(self._graph.storage).codes.owned_data = faiss.UInt8Vector()  # gives the memory back
            self._graph.storage = None
            self._graph.hnsw.permute_entries(faiss.swig_ptr(slots))
        return self._graph


class _Extending(_Making):
    """hidden: rows that are in the old graph, and must not be found while it is calibrated."""

    def __init__(self, vectors: Vectors, params: dict[str, int], hidden: NDArray[np.int64]) -> None:
        super().__init__(vectors, params)
        self._hidden = hidden
        self._cut: links.Cut | None = None

    def take_over(self, old: links.Links, entry: int, rows: NDArray[np.int64], progress: Progress) -> None:
        """Links of nodes whose rows these are."""
        links.put(old, entry, self._graph.hnsw)
        storage = faiss.downcast_index(self._graph.storage)
        step = max(1, COPIED_BYTES // (4 * self._graph.d))
        for start in range(0, len(rows), step):
            storage.add(self.compared.rows(rows[start : start + step]))
            progress((start + step) / (len(rows) + step))
        self._graph.ntotal = storage.ntotal
        self._order = rows

    def add(self, rows: NDArray[np.int64], progress: Progress) -> None:
        """After `opened`: what was hidden is seen again, and stays so."""
        if self._cut is not None:
            self._cut.undo()
            self._cut, self._hidden = None, np.empty(0, np.int64)
        super().add(np.setdiff1d(rows, self._order), progress)

    def opened(self) -> Hnsw:
        if self._cut is None and len(self._hidden):
            self._cut = links.Cut(self._graph.hnsw, np.isin(self._order, self._hidden))
        return super().opened()


def build(vectors: Vectors, params: dict[str, int], queries: NDArray[np.float32] | None, progress: Progress) -> Made:
    """A graph whose slots are rows, and what it was measured at."""
    last = queries_among(vectors, queries)
    rows = np.setdiff1d(np.arange(len(vectors.rows)), last, assume_unique=True)
    phases = Phases(progress, _costs(vectors, params, len(rows), len(last), queries))
    return made(_Making(vectors, params), vectors, rows, last, queries, phases)


def extend(
    vectors: Vectors,
    old: Approximate,
    params: dict[str, int],
    rows: NDArray[np.int64],
    queries: NDArray[np.float32] | None,
    progress: Progress,
) -> Made:
    """old: an open graph of the same parameters; rows: (old rows,) the new row of each old one, -1: dropped. Costs a
    copy of the graph and adding what is new. Raises CannotExtend."""
    if not isinstance(old, Hnsw) or old.links.layers[1] != 2 * params["m"]:
        raise CannotExtend("not a graph of the same width")
    last = queries_among(vectors, queries)
    new = np.setdiff1d(np.arange(len(vectors.rows)), rows)
    measuring = _costs(vectors, params, len(new), len(last), queries)
    copying = len(rows) * (2e-5 if (rows < 0).any() else 3e-6)
    phases = Phases(progress, {"unlink": copying, "copy": len(rows) * 1e-6} | measuring)
    making = _Extending(vectors, params, np.intersect1d(last, rows))
    kept = _taken_over(making, old.links, rows, phases)
    missing = np.setdiff1d(np.arange(len(vectors.rows)), np.concatenate([kept, last]))
    return made(making, vectors, missing, last, queries, phases)


def _taken_over(making: _Extending, old: links.Links, rows: NDArray[np.int64], phases: Phases) -> NDArray[np.int64]:
    """Rows whose nodes the new graph has from the old one."""
    dropped = rows < 0
    out = dropped | (links.share_lost(old, dropped) > LOST_TOO_MUCH) if dropped.any() else dropped
    if out.all():
        raise CannotExtend("nothing of the old graph stays")
    told = phases.part("unlink")
    compared = making.compared
    left = links.without(old, out, dropped, lambda nodes: compared.rows(rows[nodes]), compared.width, told)
    making.take_over(left, int(np.argmax(left.levels)), rows[~out], phases.part("copy"))
    return rows[~out]


def _costs(
    vectors: Vectors, params: dict[str, int], add: int, last: int, queries: NDArray[np.float32] | None
) -> dict[str, float]:
    """Seconds that the phases of `made` take, about. add, last: rows that are added, and added last."""
    n, d = vectors.rows.shape
    asked = last if queries is None else len(queries)
    node = math.log(n) * (NODE_S + NUMBER_S * d) * params["ef_construction"] * math.sqrt(params["m"])
    sweep = SWEEP_S * asked * math.sqrt(n) * (1 + d / 512)
    return costs(vectors, add * node, sweep, last * node, asked)
