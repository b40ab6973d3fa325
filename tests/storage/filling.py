"""A data folder made with the real catalogue code, a step at a time, without a server."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.norms import norms
from seedvec.sparse import SparseRows
from storage import atomic, catalogue
from storage.catalogue import IndexRow, SegmentRow, Settings
from storage.hashing import file_xxh3, hex16
from storage.layout import WRITE_LOCK_NAME, CollectionFolder, DataFolder, index_name, segment_name
from storage.publish import Publisher
from storage.registry import Registry
from storage.segment import write_segment
from storage.turns import Turns
from storage.writes import Batch, Turn
from tests.index.sparse_data import drawn

SPARSE_NUMBERS = 60
"""Of a sparse row, on average."""


class Collection:
    """One collection, written to by this process alone. Vectors are drawn from a fixed seed."""

    def __init__(
        self, data: Path, name: str = "words", dimension: int = 8, dtype: str = "float32", sparse: bool = False
    ) -> None:
        data.mkdir(exist_ok=True)
        registry = Registry(data, create=True)
        metric, spec = "dot" if sparse else "l2", {"kind": "auto", "params": {}}
        settings = Settings(dimension, metric, dtype, "auto", 0.95, spec, catalogue.now(), sparse)
        self.data = DataFolder(data)
        self.folder: CollectionFolder = self.data.collection(registry.create(name, settings))
        registry.close()
        self.db = catalogue.connect(self.folder.root)
        self.publisher = Publisher(self.db, Turns(self.folder.root / WRITE_LOCK_NAME))
        self.random = np.random.default_rng(7)

    def _vectors(self, n: int) -> NDArray[Any] | SparseRows:
        s = catalogue.read_settings(self.db)
        if s.sparse:
            return drawn(int(self.random.integers(1 << 30)), n, s.dimension, 2 * SPARSE_NUMBERS, s.vector_dtype)
        return self.random.standard_normal((n, s.dimension)).astype(s.vector_dtype)

    def upsert(self, ids: list[Any], metadata: bool = False) -> None:
        rows = [b'{"n":%d}' % i for i in range(len(ids))] if metadata else None
        with self.db.writing():
            turn = Turn(self.db, 10**9, 10**12)
            turn.upsert(Batch(self._vectors(len(ids)), ids, rows))
            turn.finish()
        self.publisher.turns.remember(turn.state)

    def delete(self, ids: list[Any]) -> None:
        with self.db.writing():
            turn = Turn(self.db, 10**9, 10**12)
            turn.delete(ids)
            turn.finish()
        self.publisher.turns.remember(turn.state)

    def seal(self) -> SegmentRow:
        with self.db.reading():
            settings, state = catalogue.read_settings(self.db), catalogue.read_state(self.db)
            pending = catalogue.read_pending(self.db, settings)
        seq, base = self.publisher.reserve_seq(), int(pending.keys[0])
        span = int(pending.keys[-1]) - base + 1
        final = self.folder.segments / segment_name(seq)
        tmp = atomic.temporary(final)
        written = write_segment(
            tmp,
            vectors=pending.vectors,
            keys_rel=(pending.keys - base).astype(np.uint64),
            ids=pending.ids,
            norms=norms(pending.vectors.astype(np.float32)),
            metric=settings.metric,
        )
        atomic.publish(tmp, final, "segment")
        new = SegmentRow(seq, final.name, written.rows, base, span, written.bytes, hex16(written.xxh3))
        self.publisher.seal(new, int(pending.keys[-1]), state.log_pos)
        return next(s for s in catalogue.read_segments(self.db) if s.seq == seq)

    def add_index(self, segment: SegmentRow, content: bytes) -> Path:
        path = self.folder.segments / index_name(segment.file, "hnsw")
        path.write_bytes(content)
        size, digest = file_xxh3(path)
        self.publisher.add_index(IndexRow(segment.seq, path.name, "hnsw", 1, size, hex16(digest), {"version": 1}))
        return path

    def sql(self, text: str, *bindings: Any) -> None:
        """Damage done by hand."""
        self.db.execute(text, bindings)

    def close(self) -> None:
        self.publisher.turns.close()
        self.db.close()
