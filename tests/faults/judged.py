"""One collection of a running server on a failing disk: every answer is held against what was acknowledged."""

import numpy as np
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import Answer, Collection, Id, plain

DIMENSION = 32


def drawn(n: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


class Judged:
    """rows: what was acknowledged."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self.rows: dict[Id, NDArray[np.float32]] = {}
        self.use(server)

    def use(self, server: Server) -> None:
        """A connection; to the other worker than the last one's, most likely."""
        self.there: Collection = server.collection(self.name)

    def try_add(self, ids: list[int], seed: int) -> Answer:
        vectors = drawn(len(ids), seed)
        body = {"ids": ids, "vectors": plain(vectors)}
        answer = self.there.wire.call("POST", f"{self.there.path}/vectors", body)
        if answer.status == 201:
            self.rows.update(zip(ids, vectors, strict=True))
        return answer

    def delete(self, ids: list[int]) -> None:
        assert self.there.delete(ids) == len(ids)
        for id in ids:
            del self.rows[id]

    def judge(self) -> int:
        found = self.there.everything()
        assert found.keys() == self.rows.keys()
        for id, item in found.items():
            assert np.array(item["vector"], np.float32).tobytes() == self.rows[id].tobytes(), id
        if self.rows:
            id, vector = next(iter(self.rows.items()))
            hit = self.there.search(vector, k=1, exact=True)["hits"][0]
            assert hit["id"] == id and hit["distance"] < 1e-6
        return len(found)


def refused(answer: Answer) -> str:
    problem = answer.json()
    assert answer.status in (503, 507), answer.body
    return str(problem["type"]).rpartition("/")[2]
