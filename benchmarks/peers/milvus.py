"""milvus-lite in this process, by its own Python classes: its gRPC server on a socket calls the same ones.

One HNSW graph a segment, which is what its AUTOINDEX makes too. Each call walks over all rows in Python, to see which
are live; a batch does so once, so its recall is measured by a batch.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from milvus_lite import CollectionSchema, DataType, FieldSchema, MilvusLite
from numpy.typing import NDArray

from benchmarks.peers.clients import Timed
from benchmarks.peers.peer import Ask, Floats, Hits, Ingested, Params, Peer, near_squared
from benchmarks.peers.protocol import serve

NAME = "compared"
ROWS_A_WRITE = 5_000
LINKS, EF_CONSTRUCTION = 16, 200
SETTLED_POLL_S = 0.05
WIDTHS = (10, 16, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 256, 320, 400, 512, 800)
BUCKETS = 100


class Milvus(Peer):
    def __init__(self) -> None:
        self._database: Any = None
        self._collection: Any = None

    def open(self, folder: Path, dimension: int) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        self._database = MilvusLite(str(folder))
        if self._database.has_collection(NAME):
            self._collection = self._database.get_collection(NAME)
            self._collection.load()
            return int(self._collection.num_entities)
        fields = [
            FieldSchema(name="id", dtype=DataType.INT64, is_primary=True),
            FieldSchema(name="vector", dtype=DataType.FLOAT_VECTOR, dim=dimension),
            FieldSchema(name="bucket", dtype=DataType.INT64),
        ]
        self._collection = self._database.create_collection(NAME, CollectionSchema(fields=fields))
        return 0

    def ingest(self, vectors: Floats, bucket: bool) -> Ingested:
        """Acknowledged: in its write-ahead log. Loading is what builds the indexes."""
        begun = time.perf_counter()
        for start in range(0, len(vectors), ROWS_A_WRITE):
            rows = vectors[start : start + ROWS_A_WRITE].tolist()
            self._collection.insert(
                [{"id": n, "vector": row, "bucket": n % BUCKETS if bucket else 0} for n, row in enumerate(rows, start)]
            )
        acknowledged_s = time.perf_counter() - begun
        self._collection.flush()
        built = {"M": LINKS, "efConstruction": EF_CONSTRUCTION}
        index = {"index_type": "HNSW", "metric_type": "L2", "params": built}
        self._collection.create_index("vector", index)
        if bucket:
            self._collection.create_index("bucket", {"index_type": "INVERTED"})
        self._collection.load()
        return Ingested(acknowledged_s, time.perf_counter() - begun)

    def ladders(self, buckets: int | None) -> list[list[Params]]:
        return [[{"ef": width} for width in WIDTHS]]

    def probe(self, queries: Floats, k: int, params: Params, buckets: int | None) -> Timed:
        asked = self._call(queries, k, params, buckets)
        begun = time.perf_counter()
        answer = asked()
        elapsed_s = time.perf_counter() - begun
        return Timed(elapsed_s, [elapsed_s / len(queries)], {number: [one] for number, one in enumerate(answer)})

    def searches(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Ask]:
        return [self._call(query[None], k, params, buckets) for query in queries]

    def _call(self, queries: Floats, k: int, params: Params, buckets: int | None) -> Ask:
        asked = list(np.ascontiguousarray(queries, np.float32))
        only = None if buckets is None else f"bucket < {buckets}"
        return lambda: self._collection.search(
            asked, top_k=k, metric_type="L2", expr=only, output_fields=["id"], search_params=params
        )

    def hits(self, answer: Any) -> Hits:
        return self.batch_hits(answer)[0]

    def batch(self, queries: Floats, k: int, params: Params) -> Ask:
        return self._call(queries, k, params, None)

    def batch_hits(self, answer: Any) -> Sequence[Hits]:
        return [near_squared([hit["id"] for hit in hits], [hit["distance"] for hit in hits]) for hits in answer]

    def fetches(self, ids: NDArray[np.int64]) -> list[Ask]:
        return [lambda row=row: self._collection.get([row], output_fields=["id", "vector"]) for row in ids.tolist()]

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


if __name__ == "__main__":
    serve(Milvus())
