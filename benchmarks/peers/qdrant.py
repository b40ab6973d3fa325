"""qdrant-edge: Qdrant's own shard inside this process, without its server. It gives up the lock of the interpreter
while it searches.

One segment with one HNSW graph, and 8-bit codes beside the vectors: tuning takes whichever is quicker at the recall,
searching the codes and re-ranking by the vectors, or the vectors alone.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from benchmarks.peers.peer import Ask, Floats, Hits, Ingested, Params, Peer, near
from benchmarks.peers.protocol import serve

ROWS_A_WRITE = 5_000
LINKS, EF_CONSTRUCT = 16, 100
ONE_SEGMENT_KB = 100_000_000
INDEXED_KB = 1_000
"""Segments above are given a graph. Its own default would leave small collections without one."""
WIDTHS = (10, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 320, 400, 512)
AT_ONCE = 50
"""Queries of one piece of a batch."""
OVERSAMPLED = (1.0, 2.0, 4.0)
"""Times k candidates found by their codes whose vectors are compared."""
BUCKETS = 100


class Qdrant(Peer):
    def __init__(self) -> None:
        self._shard: Any = None

    def open(self, folder: Path, dimension: int) -> int:
        if (folder / "segments").exists():
            self._shard = edge.EdgeShard.load(str(folder))
            return int(self._shard.info().points_count)
        folder.mkdir(parents=True, exist_ok=True)
        codes = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=edge.Memory.Pinned)
        vectors = edge.EdgeVectorParams(dimension, edge.Distance.Euclid, quantization_config=codes)
        config = edge.EdgeConfig(
            vectors=vectors,
            hnsw_config=edge.HnswIndexConfig(LINKS, EF_CONSTRUCT, INDEXED_KB),
            optimizers=edge.EdgeOptimizersConfig(
                default_segment_number=1, max_segment_size=ONE_SEGMENT_KB, indexing_threshold=INDEXED_KB
            ),
        )
        self._shard = edge.EdgeShard.create(str(folder), config)
        return 0

    def ingest(self, vectors: Floats, bucket: bool) -> Ingested:
        """Acknowledged: in its write-ahead log. Indexed: once its optimizer has nothing left to do."""
        if bucket:
            integer = edge.PayloadSchemaType.Integer
            self._shard.update(edge.UpdateOperation.create_field_index("bucket", integer))
        begun = time.perf_counter()
        for start in range(0, len(vectors), ROWS_A_WRITE):
            rows = vectors[start : start + ROWS_A_WRITE].tolist()
            points = [
                edge.Point(number, row, {"bucket": number % BUCKETS} if bucket else None)
                for number, row in enumerate(rows, start)
            ]
            self._shard.update(edge.UpdateOperation.upsert_points(points))
        acknowledged_s = time.perf_counter() - begun
        while self._shard.optimize():
            pass
        self._shard.flush()
        return Ingested(acknowledged_s, time.perf_counter() - begun)

    def ladders(self, buckets: int | None) -> list[list[Params]]:
        found: list[list[Params]] = [[{"ef": width, "oversampled": times} for width in WIDTHS] for times in OVERSAMPLED]
        return [*found, [{"ef": width} for width in WIDTHS]]

    def searches(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Ask]:
        return [_call(self._shard.query, asked) for asked in self._requests(queries, k, params, buckets)]

    def _requests(self, queries: Floats, k: int, params: Params, buckets: int | None) -> list[Any]:
        times = params.get("oversampled")
        codes = edge.QuantizationSearchParams(ignore=times is None, rescore=True, oversampling=times)
        how = edge.SearchParams(hnsw_ef=params["ef"], quantization=codes)
        only = None
        if buckets is not None:
            only = edge.Filter(must=[edge.FieldCondition("bucket", range=edge.RangeFloat(lt=buckets))])
        return [
            edge.QueryRequest(k, query=edge.Query.Nearest(query), filter=only, params=how) for query in queries.tolist()
        ]

    def hits(self, answer: Any) -> Hits:
        return near([hit.id for hit in answer], [hit.score for hit in answer])

    def batch(self, queries: Floats, k: int, params: Params) -> Ask:
        """Its own call for many stays in one thread: pieces of the batch, dealt out to as many as cores."""
        asked = self._requests(queries, k, params, None)
        pieces = [edge.QueryBatchRequest(asked[at : at + AT_ONCE]) for at in range(0, len(asked), AT_ONCE)]
        pool = ThreadPoolExecutor(self.threads)
        return lambda: list(pool.map(self._shard.query_batch, pieces))

    def batch_hits(self, answer: Any) -> Sequence[Hits]:
        return [self.hits(one) for piece in answer for one in piece]

    def fetches(self, ids: NDArray[np.int64]) -> list[Ask]:
        return [
            lambda row=row: self._shard.retrieve([row], with_payload=False, with_vector=True) for row in ids.tolist()
        ]

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None


def _call(method: Callable[[Any], Any], asked: Any) -> Ask:
    return lambda: method(asked)


if __name__ == "__main__":
    serve(Qdrant())
