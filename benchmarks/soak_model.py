"""What one client of the soak knows to be stored: its own rows of one collection, and what filters leave of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tests.oracle import RELATIVE, distances, tolerance

SPAN = 10**12
"""Ids of client c lie in [c × SPAN, (c+1) × SPAN)."""
NUMBERS, TAGS = 1000, 8
ABSENT = -1
"""Of the field `note`, which only patched items have."""
Mask = NDArray[np.bool_]


def digest(vector: NDArray[Any]) -> str:
    """Of a vector in the collection's dtype. It stands in the metadata, so that anybody can check a pair of both."""
    return xxhash.xxh3_64_hexdigest(vector.tobytes())


@dataclass(frozen=True, slots=True)
class Filter:
    """json: as it is sent. mask: the slots of the model that match, all of them live."""

    json: dict[str, Any]
    mask: Mask


class Model:
    """Rows by slot. One thread at a time."""

    def __init__(self, owner: int, metric: str, dtype: str, dimension: int, capacity: int) -> None:
        self.owner, self.metric, self.dtype = owner, metric, np.dtype(dtype)
        self.rows = np.zeros((capacity, dimension), self.dtype)
        self.ids = np.zeros(capacity, np.int64)
        self.n = np.zeros(capacity, np.int32)
        self.tag = np.zeros(capacity, np.int32)
        self.note = np.full(capacity, ABSENT, np.int32)
        self.live: Mask = np.zeros(capacity, np.bool_)
        self.slot: dict[int, int] = {}
        self._free = list(range(capacity))
        self._next_id = owner * SPAN

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def room(self) -> int:
        return len(self._free)

    def fresh_ids(self, n: int) -> list[int]:
        self._next_id += n
        return list(range(self._next_id - n, self._next_id))

    def some(self, rng: np.random.Generator, n: int) -> list[int]:
        """Up to n distinct ids that are there."""
        there = np.flatnonzero(self.live)
        return [int(i) for i in self.ids[rng.choice(there, min(n, len(there)), replace=False)]]

    # -- writing

    def put(self, ids: Sequence[int], rows: NDArray[Any], n: NDArray[Any], tag: NDArray[Any]) -> None:
        """Add or replace: all of the metadata with the vector."""
        slots = []
        for id in ids:
            if id not in self.slot:
                self.slot[id] = self._free.pop()
            slots.append(self.slot[id])
        self.rows[slots], self.ids[slots], self.n[slots], self.tag[slots] = rows, ids, n, tag
        self.note[slots] = ABSENT
        self.live[slots] = True

    def remove(self, slots: Sequence[int]) -> None:
        for slot in slots:
            del self.slot[int(self.ids[slot])]
            self._free.append(int(slot))
        self.live[slots] = False

    # -- what must be answered

    def metadata(self, slot: int) -> dict[str, Any]:
        given = self.described(self.rows[slot], int(self.n[slot]), int(self.tag[slot]))
        return given if self.note[slot] == ABSENT else given | {"note": int(self.note[slot])}

    def described(self, row: NDArray[Any], n: int, tag: int) -> dict[str, Any]:
        """The metadata that an item is written with. row: in the collection's dtype."""
        return {"owner": self.owner, "n": n, "tag": f"t{tag}", "digest": digest(row)}

    def filter(self, rng: np.random.Generator) -> Filter:
        """A random one that only own rows match; from a thousandth of them to all."""
        low = int(rng.integers(0, NUMBERS))
        high = low + int(rng.choice([1, 10, 100, NUMBERS]))
        tag = int(rng.integers(0, TAGS))
        two = np.isin(self.tag, [tag, 0])
        mine: dict[str, Any] = {"owner": self.owner}
        shapes: list[tuple[dict[str, Any], Mask]] = [
            (mine, self.live),
            (mine | {"n": {"$gte": low, "$lt": high}}, (self.n >= low) & (self.n < high)),
            (mine | {"tag": f"t{tag}"}, self.tag == tag),
            (
                mine | {"tag": {"$in": [f"t{tag}", "t0"]}, "n": {"$lt": low}},
                two & (self.n < low),
            ),
            (mine | {"tag": {"$ne": f"t{tag}"}, "note": {"$exists": True}}, (self.tag != tag) & (self.note != ABSENT)),
            (mine | {"$or": [{"note": {"$gte": low}}, {"n": low}]}, (self.note >= low) | (self.n == low)),
            ({"$and": [mine, {"$not": {"tag": f"t{tag}"}}]}, self.tag != tag),
        ]
        json, mask = shapes[int(rng.integers(len(shapes)))]
        return Filter(json, mask & self.live)

    # -- judging

    def judge_item(self, item: Mapping[str, Any]) -> None:
        """An item with both its parts: its own pair belongs together; and if it is ours, it is what we stored."""
        stored = np.array(item["vector"], np.float32).astype(self.dtype)
        metadata = item["metadata"]
        assert metadata["digest"] == digest(stored), f"vector of one version, metadata of another: {item}"
        assert metadata["owner"] == item["id"] // SPAN, f"metadata of another item: {item}"
        if metadata["owner"] == self.owner:
            assert item["id"] in self.slot, f"not there (any more): {item}"
            slot = self.slot[item["id"]]
            assert stored.tobytes() == self.rows[slot].tobytes(), f"not the last vector: {item}"
            assert metadata == self.metadata(slot), f"metadata is not {self.metadata(slot)}: {item}"

    def judge_page(self, items: Sequence[Mapping[str, Any]], wanted: Mask) -> None:
        """Exactly these rows, each once."""
        found = sorted(item["id"] for item in items)
        assert found == sorted(self.ids[wanted].tolist()), f"{len(found)} items, {int(wanted.sum())} match"
        for item in items:
            self.judge_item(item)

    def judge_hits(
        self, query: NDArray[Any], k: int, hits: Sequence[Mapping[str, Any]], exact: bool, wanted: Mask | None = None
    ) -> float:
        """The share found of our rows that belong among the hits (1.0 where none does).

        wanted: the rows that the search was restricted to; None: it went over everybody's, of which we know ours.
        AssertionError for whatever the contract rules out: too few, twice, not sorted, a wrong distance or item, and
        with `exact` a nearer row left out.
        """
        slack = tolerance(self.metric, query, np.zeros((0, 0)))
        order = [(hit["distance"], hit["id"]) for hit in hits]
        assert order == sorted(order), f"not sorted by (distance, id): {order}"
        assert len({id for _, id in order}) == len(order), f"an id twice: {order}"
        for hit in hits:
            self.judge_item(hit)
            row = np.array(hit["vector"], np.float32).astype(self.dtype)
            true = float(distances(self.metric, query, row.astype(np.float64)[None])[0])
            assert abs(hit["distance"] - true) <= slack + RELATIVE * abs(true), f"should be {true}: {hit}"
            assert wanted is None or (hit["id"] in self.slot and wanted[self.slot[hit["id"]]]), f"does not match: {hit}"
        count = k if wanted is None else min(k, int(wanted.sum()))
        assert len(hits) == count, f"{len(hits)} hits of {count}"
        if not hits:
            return 1.0
        slots = np.flatnonzero(self.live if wanted is None else wanted)
        near = distances(self.metric, query, self.rows[slots].astype(np.float64))
        bound = float(order[-1][0] if wanted is None else np.sort(near)[count - 1])
        found = {id for _, id in order}
        margin = 2 * (slack + RELATIVE * abs(bound))
        surely = slots[near < bound - margin]
        missed = [int(id) for id in self.ids[surely] if int(id) not in found]
        assert not (exact and missed), f"nearer than the last hit and left out: {missed}"
        if wanted is None:
            return 1.0 - len(missed) / len(surely) if len(surely) else 1.0
        return float(np.mean([distance <= bound + margin for distance, _ in order]))
