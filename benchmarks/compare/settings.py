"""What is asked in each round: one setting after the other, each of every system that can be asked it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PARTS = ("ingest", "search", "binary", "filtered", "batch", "fetch", "bare", "cold")
BUCKETS = (10, 1)
"""Of filtered searches: percent of the rows that pass."""
BESIDE = 8
"""Clients of what is measured with one number of them."""


@dataclass(frozen=True, slots=True)
class Setting:
    """part: of PARTS. What does not concern it is None. body: what vectors travel as, where there is a
    choice; of `bare` the route."""

    part: str
    recall: float | None = None
    clients: int | None = None
    buckets: int | None = None
    body: str | None = None

    @property
    def ours_alone(self) -> bool:
        """A body that nobody else takes, to be compared with what the others take; and HTTP by itself."""
        return self.part in ("binary", "bare") or (self.part == "ingest" and self.body != "npy")

    def __str__(self) -> str:
        parts = [self.part]
        parts += [f"{self.buckets} %"] if self.buckets is not None else []
        parts += [f"recall ≥ {self.recall:g}"] if self.recall is not None else []
        parts += [f"{self.clients} client{'s'[: self.clients > 1]}"] if self.clients is not None else []
        return ", ".join(parts + ([self.body] if self.body else []))

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def asked(recalls: Sequence[float], clients: Sequence[int], skip: Collection[str]) -> list[Setting]:
    """In the order of asking. recalls, clients: ascending."""
    return [setting for setting in _all(recalls, clients) if setting.part not in skip]


def _all(recalls: Sequence[float], clients: Sequence[int]) -> Iterator[Setting]:
    beside = BESIDE if BESIDE in clients else clients[-1]
    yield Setting("ingest", body="npy")
    yield Setting("ingest", body="json")
    for recall in recalls:
        for n in clients:
            yield Setting("search", recall, n)
    for n in dict.fromkeys((clients[0], beside)):
        yield Setting("binary", recalls[0], n)
    for buckets in BUCKETS:
        yield Setting("filtered", recalls[0], beside, buckets)
    for recall in recalls:
        yield Setting("batch", recall)
    yield Setting("fetch", clients=beside)
    for n in clients:
        yield Setting("bare", clients=n, body="asgi")
    yield Setting("bare", clients=beside, body="search")
    yield Setting("bare", clients=beside, body="fetch")


def of(record: dict[str, Any]) -> Setting:
    """The setting of a record that was written by `fields`."""
    return Setting(**{name: record[name] for name in Setting.__dataclass_fields__})
