"""The truth that answers are held against: a dict of items, and brute force in float64."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Id = int | str
FIRST_CAPACITY = 64

# Distances are computed in float32 by the server. l2 is off by a share of itself; cosine and dot by a share of the
# products summed up (about sqrt(d) roundings of 6e-8 each), so that theirs is absolute, dot's times both norms.
RELATIVE = 1e-5
ABSOLUTE = 4e-6


class Oracle:
    """Items by id, as a collection of this metric and dtype must keep them.

    Vectors are rounded to the dtype as the server does on storing; distances follow the contract's definitions.
    """

    def __init__(self, dimension: int, metric: str = "cosine", dtype: str = "float32") -> None:
        self.metric = metric
        self.dtype = np.dtype(dtype)
        self.metadata: dict[Id, Mapping[str, Any] | None] = {}
        self._slot: dict[Id, int] = {}
        self._ids: list[Id | None] = []
        self._free: list[int] = []
        self._rows = np.zeros((FIRST_CAPACITY, dimension), self.dtype)

    # -- writing

    def put(
        self, ids: Iterable[Id], vectors: NDArray[Any], metadata: Sequence[Mapping[str, Any] | None] | None = None
    ) -> None:
        for row, id in enumerate(ids):
            slot = self._slot.get(id)
            if slot is None:
                slot = self._new_slot(id)
            self._rows[slot] = vectors[row]
            self.metadata[id] = None if metadata is None else metadata[row]

    def remove(self, ids: Iterable[Id]) -> int:
        """Number of items that were there."""
        count = 0
        for id in ids:
            slot = self._slot.pop(id, None)
            if slot is not None:
                self._ids[slot] = None
                self._free.append(slot)
                del self.metadata[id]
                count += 1
        return count

    def _new_slot(self, id: Id) -> int:
        if self._free:
            slot = self._free.pop()
            self._ids[slot] = id
        else:
            slot = len(self._ids)
            self._ids.append(id)
            if slot == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._slot[id] = slot
        return slot

    # -- reading

    def __len__(self) -> int:
        return len(self._slot)

    def __contains__(self, id: object) -> bool:
        return id in self._slot

    def ids(self) -> list[Id]:
        return list(self._slot)

    def vector(self, id: Id) -> NDArray[Any]:
        row: NDArray[Any] = self._rows[self._slot[id]]
        return row

    def distances(self, query: NDArray[Any], without: Id | None = None) -> tuple[list[Id], NDArray[np.float64]]:
        """Every live id and its distance from `query` (d,), in no particular order."""
        wanted = [(id, slot) for id, slot in self._slot.items() if id != without]
        rows = self._rows[[slot for _, slot in wanted]].astype(np.float64)
        return [id for id, _ in wanted], distances(self.metric, query, rows)

    def nearest(self, query: NDArray[Any], k: int, without: Id | None = None) -> list[tuple[Id, float]]:
        """The k nearest, sorted by (distance, id)."""
        ids, all_distances = self.distances(query, without)
        return sorted(zip(ids, all_distances.tolist(), strict=True), key=lambda hit: (hit[1], hit[0]))[:k]

    # -- judging

    def judge(
        self,
        query: NDArray[Any],
        k: int,
        hits: Sequence[Mapping[str, Any]],
        *,
        exact: bool,
        without: Id | None = None,
    ) -> float:
        """Recall of `hits` (ties count as found). AssertionError for anything that the contract rules out.

        exact: the hits must be the nearest, but for swaps among distances that float32 cannot tell apart.
        """
        ids, all_distances = self.distances(query, without)
        known = dict(zip(ids, all_distances.tolist(), strict=True))
        slack = tolerance(self.metric, query, self._rows[: len(self._ids)])
        found = [hit["id"] for hit in hits]
        assert len(found) == min(k, len(ids)), f"{len(found)} hits of {len(ids)} live rows at k = {k}"
        assert len(set(found)) == len(found), f"an id twice: {found}"
        strangers = [id for id in found if id not in known]
        assert not strangers, f"hits that are not live: {strangers}"
        order = [(hit["distance"], hit["id"]) for hit in hits]
        assert order == sorted(order), f"not sorted by (distance, id): {order}"
        for distance, id in order:
            near = abs(distance - known[id]) <= slack + RELATIVE * abs(known[id])
            assert near, f"distance of {id!r} is {distance}, should be {known[id]}"
        if not found:
            return 1.0
        best = np.sort(all_distances)[: len(found)]
        mine = np.sort([known[id] for id in found])
        bound = slack + RELATIVE * np.abs(best)
        if exact:
            assert (mine <= best + 2 * bound).all(), f"not the nearest: {mine.tolist()}, nearest are {best.tolist()}"
        return float((mine <= best[-1] + 2 * bound[-1]).mean())

    def judge_stored(self, items: Mapping[Id, Mapping[str, Any]]) -> None:
        """`items` (id → item with vector and metadata) must be exactly what is here, bit for bit."""
        assert items.keys() == self._slot.keys(), (
            f"missing {sorted(map(repr, self._slot.keys() - items.keys()))[:10]}, "
            f"too many {sorted(map(repr, items.keys() - self._slot.keys()))[:10]}"
        )
        for id, item in items.items():
            got = np.array(item["vector"], np.float32).astype(self.dtype)
            assert got.tobytes() == self.vector(id).tobytes(), f"vector of {id!r}: {got}, stored {self.vector(id)}"
            assert (item["metadata"] or {}) == (self.metadata[id] or {}), f"metadata of {id!r}: {item['metadata']}"


def distances(metric: str, query: NDArray[Any], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """query (d,), rows (n, d) → (n,): the contract's definitions, in float64."""
    q = query.astype(np.float64)
    if metric == "l2":
        result: NDArray[np.float64] = np.sqrt(((rows - q) ** 2).sum(axis=1))
        return result
    products: NDArray[np.float64] = rows @ q
    if metric == "dot":
        return -products
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(q)
    cosine: NDArray[np.float64] = np.clip(1.0 - products / norms, 0.0, 2.0)
    return cosine


def tolerance(metric: str, query: NDArray[Any], rows: NDArray[Any]) -> float:
    """How far a float32 distance may lie from the true one, apart from its relative error."""
    if metric == "dot" and len(rows):
        longest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
        return ABSOLUTE * float(np.linalg.norm(query.astype(np.float64))) * longest
    return ABSOLUTE if metric == "cosine" else 1e-7
