"""lancedb in this process. Each search is a plan of its own that its runtime's threads carry out.

The index is a graph over the vectors themselves: what it answers needs no second look at the table for exact
distances, which takes as long again as the search. Columns and index are read into memory before anything is measured.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import BTree, HnswFlat
from numpy.typing import NDArray

from benchmarks.peers.peer import Ask, Floats, Hits, Ingested, Params, Peer, near_squared
from benchmarks.peers.protocol import serve

NAME = "compared"
INDEX = "vector_idx"
LINKS, EF_CONSTRUCTION = 20, 300
WIDTHS = (10, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400)
BUCKETS = 100


class Lance(Peer):
    threads = 2 * Peer.threads
    """They only wait for the runtime's, which answer what waits together at less processor time each: 2.8 ms with four
    waiting, 3.5 with two."""

    def __init__(self) -> None:
        self._database: Any = None
        self._table: Any = None

    def open(self, folder: Path, dimension: int) -> int:
        self._database = lancedb.connect(folder)
        if NAME not in self._database.list_tables().tables:
            return 0
        self._table = self._database.open_table(NAME)
        self._table.prewarm_index(INDEX)
        return int(self._table.count_rows())

    def ingest(self, vectors: Floats, bucket: bool) -> Ingested:
        begun = time.perf_counter()
        numbers = np.arange(len(vectors))
        columns = {"id": numbers, "bucket": numbers % BUCKETS if bucket else np.zeros_like(numbers)}
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        rows = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        self._table = self._database.create_table(NAME, pa.table(columns | {"vector": rows}))
        acknowledged_s = time.perf_counter() - begun
        graph = HnswFlat(distance_type="l2", num_partitions=1, m=LINKS, ef_construction=EF_CONSTRUCTION)
        self._table.create_index("vector", config=graph)
        for column in ("id", "bucket"):
            self._table.create_index(column, config=BTree())
        self._table.prewarm_index(INDEX)
        return Ingested(acknowledged_s, time.perf_counter() - begun)

    def ladders(self, buckets: int | None) -> list[list[Params]]:
        return [[{"ef": width} for width in WIDTHS]]

    def searches(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Ask]:
        return [self._search(query, k, params, buckets).to_arrow for query in np.asarray(queries, np.float32)]

    def _search(self, query: Any, k: int, params: Params, buckets: int | None) -> Any:
        search = self._table.search(query).distance_type("l2").limit(k).nprobes(1).ef(params["ef"])
        search = search.select(["id", "_distance"]).fast_search()
        return search if buckets is None else search.where(f"bucket < {buckets}")

    def hits(self, answer: Any) -> Hits:
        return near_squared(answer["id"].to_numpy(), answer["_distance"].to_numpy())

    def batch(self, queries: Floats, k: int, params: Params) -> Ask:
        together = self._search(list(np.asarray(queries, np.float32)), k, params, None)
        asked = len(queries)
        return lambda: (asked, together.to_arrow())

    def batch_hits(self, answer: Any) -> Sequence[Hits]:
        asked, found = answer
        if asked == 1:
            # Of a single query the answer has no numbers.
            return [self.hits(found)]
        of = found["query_index"].to_numpy()
        return [self.hits(found.filter(of == number)) for number in range(asked)]

    def fetches(self, ids: NDArray[np.int64]) -> list[Ask]:
        return [
            self._table.search().where(f"id = {row}").select(["id", "vector"]).limit(1).to_arrow for row in ids.tolist()
        ]


if __name__ == "__main__":
    serve(Lance())
