"""What a search and a fetch answer: as the server's JSON, and as arrays where NumPy is installed."""

from collections.abc import Mapping, Sequence
from typing import Any

from seedvec.arrays import filled, stacked


class Hits:
    """The nearest of one query, nearest first. hits: as the API says them: `id`, `distance` and what was included."""

    def __init__(self, hits: list[dict[str, Any]]) -> None:
        self.hits = hits

    def __len__(self) -> int:
        return len(self.hits)

    def __repr__(self) -> str:
        return f"Hits({self.hits})"

    @property
    def ids(self) -> list[Any]:
        return [hit["id"] for hit in self.hits]

    @property
    def distances(self) -> list[float]:
        return [hit["distance"] for hit in self.hits]


class Results(Sequence[Hits]):
    """One `Hits` a query, in the order asked. answers: what the server said of each request that the queries took."""

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        self.answers = answers
        self._hits = [Hits(one["hits"]) for answer in answers for one in answer.get("results", [answer])]

    def __len__(self) -> int:
        return len(self._hits)

    def __getitem__(self, query: Any) -> Any:
        return self._hits[query]

    @property
    def exact(self) -> bool:
        """The hits of every query are the true nearest."""
        return all(answer["exact"] for answer in self.answers)

    @property
    def expected_recall(self) -> float | None:
        """The least of what the calibration promises; None where that is not known."""
        known = [answer["expected_recall"] for answer in self.answers]
        return None if not known or None in known else min(known)

    @property
    def ids(self) -> Any:
        """(q, k): int64 with −1, or str with None, where a query has fewer hits. Without NumPy lists."""
        return filled([hits.ids for hits in self._hits], -1 if self._int_ids() else None)

    @property
    def distances(self) -> Any:
        """(q, k) float32, +inf where a query has fewer hits. Without NumPy lists."""
        return filled([hits.distances for hits in self._hits], float("inf"), "float32")

    def _int_ids(self) -> bool:
        return not any(isinstance(hit["id"], str) for hits in self._hits for hit in hits.hits[:1])


class Items(Sequence[dict[str, Any]]):
    """Stored items in the order asked (`id`, and `vector` and `metadata` as included), and the ids that are missing."""

    def __init__(self, items: list[dict[str, Any]], missing: list[Any]) -> None:
        self.items = items
        self.missing = missing

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: Any) -> Any:
        return self.items[i]

    @property
    def ids(self) -> list[Any]:
        return [item["id"] for item in self.items]

    @property
    def vectors(self) -> Any:
        """(n, d) float32, without NumPy lists. float16 vectors are the same numbers."""
        return stacked([item["vector"] for item in self.items])

    @property
    def metadata(self) -> list[dict[str, Any] | None]:
        return [item["metadata"] for item in self.items]
