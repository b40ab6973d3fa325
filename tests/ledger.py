"""What a server that was killed must still hold: a record of what it acknowledged and of what it may have done."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Id = int | str
State = bytes | None
"""Bytes of the stored vector; None: not there."""


class Ledger:
    """Writers announce, then acknowledge; whoever checks after a crash asks for every id what it may be.

    An id must have one writer at a time: only then is the order of its writes known. Safe to use from threads.
    """

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = np.dtype(dtype)
        self.acknowledged_writes = 0
        self._lock = threading.Lock()
        self._settled: dict[Id, State] = {}
        self._maybe: dict[Id, list[State]] = {}

    def announce(self, ids: Sequence[Id], vectors: NDArray[Any] | None) -> None:
        """Before the request is sent. vectors: (n, d), or None for a delete."""
        with self._lock:
            for row, id in enumerate(ids):
                self._maybe.setdefault(id, []).append(self._state(row, vectors))

    def acknowledge(self, ids: Sequence[Id], vectors: NDArray[Any] | None) -> None:
        with self._lock:
            self.acknowledged_writes += 1
            for row, id in enumerate(ids):
                self._settled[id] = self._state(row, vectors)
                self._maybe.pop(id, None)

    def refuse(self, ids: Sequence[Id]) -> None:
        """The server said that nothing was stored."""
        with self._lock:
            for id in ids:
                outstanding = self._maybe[id]
                outstanding.pop()
                if not outstanding:
                    del self._maybe[id]

    def live(self) -> list[Id]:
        """Ids that are surely there."""
        with self._lock:
            return [id for id, state in self._settled.items() if state is not None and id not in self._maybe]

    def settle(self, served: Mapping[Id, Mapping[str, Any]]) -> None:
        """AssertionError unless every acknowledged write is served and nothing but those in doubt besides.

        What is served then counts as acknowledged: a doubt is settled once and for ever.
        """
        found = {id: np.array(item["vector"], np.float32).astype(self.dtype).tobytes() for id, item in served.items()}
        with self._lock:
            faults = []
            for id in self._settled.keys() | self._maybe.keys() | found.keys():
                allowed = [self._settled.get(id), *self._maybe.get(id, [])]
                if found.get(id) not in allowed:
                    faults.append(f"{id!r} is {word(found.get(id))}, may be {[word(state) for state in allowed]}")
            assert not faults, f"{len(faults)} of {len(self._settled)} ids are wrong: {faults[:10]}"
            self._settled = dict(found)
            self._maybe.clear()

    def _state(self, row: int, vectors: NDArray[Any] | None) -> State:
        return None if vectors is None else vectors[row].astype(self.dtype).tobytes()


def word(state: State) -> str:
    return "absent" if state is None else f"vector {state[:4].hex()}…"
