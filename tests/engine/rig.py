"""One collection driven by hand, in one process: real files, and the real sealer and builder a step at a time.

Background work can be held between the moment when it has read and written its files and the transaction that makes
them real: that gap is where writes, and the other background process, come in between.
"""

import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine import planning, reading, search
from app.engine.background import Stop, Worked
from app.engine.building import Building
from app.engine.collection import Collection, Limits, Pools
from app.engine.files import write_sealed
from app.engine.merge_patch import merge_patch
from app.engine.policy import Grounds
from app.engine.sealing import Sealing
from app.engine.types import EXACTLY
from seedvec.pending_vectors import encode
from seedvec.sparse import SparseRows
from storage import catalogue
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow, Settings, State
from storage.check import check
from storage.database import Database
from storage.layout import SEGMENTS_NAME, WRITE_LOCK_NAME
from storage.publish import Publisher
from storage.registry import Registry
from storage.turns import Turns
from storage.writes import Batch, SealedRows, Turn, reserve_ids, reserve_seq

T = TypeVar("T")
WAIT_S = 30.0
MANY = 10**9


class Inline(Executor):
    """Runs at once, in the caller's thread: what is loading has been loaded."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as e:
            future.set_exception(e)
        return future


class Held(Executor):
    """Runs when it is told to: what is loading stays so as long as a test wants."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        future: Future[T] = Future()
        self.waiting.append((future, lambda: fn(*args, **kwargs)))
        return future

    def release(self) -> None:
        for future, act in self.waiting:
            future.set_result(act())
        self.waiting.clear()


def pools(loader: Executor | None = None) -> Pools:
    inline = Inline()
    return Pools(inline, loader or inline, inline, inline)


class NeverStops(Stop):
    """Without the signal handler of a real background process, and without its patience after a failure."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        return False


class HeldPublisher(Publisher):
    """Stops right before the transaction that makes its work real, while `hold` is set."""

    def __init__(self, db: Database, turns: Turns) -> None:
        super().__init__(db, turns)
        self.hold = False
        self.reached = threading.Event()
        self.go = threading.Event()

    def _gap(self) -> None:
        if self.hold:
            self.reached.set()
            assert self.go.wait(WAIT_S)

    def seal(self, segment: SegmentRow | None, last_key: int, snapshot_pos: int) -> None:
        self._gap()
        super().seal(segment, last_key, snapshot_pos)

    def merge(self, inputs: list[SegmentRow], output: SegmentRow | None, snapshot_pos: int) -> list[str]:
        self._gap()
        return super().merge(inputs, output, snapshot_pos)

    def add_columns(self, columns: ColumnsRow) -> str | None:
        self._gap()
        return super().add_columns(columns)

    def add_index(self, index: IndexRow) -> str | None:
        self._gap()
        return super().add_index(index)


class UnderWay:
    """A step of background work, in a thread, that has come to the gap before its publication (or to its end)."""

    def __init__(self, act: Callable[[], object], publisher: HeldPublisher) -> None:
        self._publisher = publisher
        self._error: BaseException | None = None
        self._act = act
        publisher.reached.clear()
        publisher.go.clear()
        publisher.hold = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert publisher.reached.wait(WAIT_S)
        self.at_the_gap = not self._ended

    _ended = False

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as e:  # carried to the test's own thread
            self._error = e
        self._ended = True
        self._publisher.reached.set()

    def publish(self) -> None:
        self._publisher.go.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self._publisher.hold = False
        if self._error is not None:
            raise self._error


class Rig:
    """A data folder with one collection, and every hand that can be laid on it."""

    def __init__(
        self,
        data: Path,
        *,
        dimension: int = 4,
        metric: str = "l2",
        id_type: str = "auto",
        index: str = "flat",
        index_min_rows: int = MANY,
        memory_bytes: int = MANY**2,
        seal_rows: int = MANY,
        durable: bool = True,
        sparse: bool = False,
        copied_from: "Rig | None" = None,
    ) -> None:
        """seal_rows: as many are sealed at once; durable: False where no test asks what a power cut would leave;
        copied_from: `data` is a copy of another's folder.
        """
        self.data = data
        self.dimension = dimension
        data.mkdir(parents=True, exist_ok=True)
        self.registry = Registry(data, create=True)
        spec = {"kind": index, "params": {}}
        self.sparse = sparse
        metric = "dot" if sparse and metric == "l2" else metric
        settings = Settings(dimension, metric, "float32", id_type, 0.9, spec, catalogue.now(), sparse)
        self.uuid = self.registry.create("c", settings) if copied_from is None else copied_from.uuid
        self.folder = self.registry.folder(self.uuid)
        self._closing: list[Callable[[], None]] = [self.registry.close]
        self.db = catalogue.connect(self.folder)
        self.turns = Turns(self.folder / WRITE_LOCK_NAME)
        self._closing += [self.db.close, self.turns.close]
        self._durable = durable
        self._hasten(self.db)
        self.sealing_work, self.sealing_publisher = self._worked()
        self.sealing = Sealing(self.sealing_work, seal_rows, MANY, 0.0)
        self.building_work, self.building_publisher = self._worked()
        self.building = Building(self.building_work, Grounds(index_min_rows, memory_bytes, 1), 0.0, 1, NeverStops())
        self.model: dict[Any, tuple[bytes, bytes | None]] = {} if copied_from is None else dict(copied_from.model)
        """id → (vector, metadata): what was acknowledged."""
        self.describe: Callable[[], bytes | None] | None = None
        """Draws the metadata of the rows that are written; None: numbers, and nothing in every third row."""
        self._drawn = 0 if copied_from is None else copied_from._drawn

    def _hasten(self, db: Database) -> None:
        """Where no test of durability is made, hundreds of histories should not wait for the disk."""
        if not self._durable:
            db.connection.pragma("synchronous", 0)

    def _worked(self) -> tuple[Worked, HeldPublisher]:
        worked = Worked("c", self.folder)
        self._hasten(worked.db)
        publisher = HeldPublisher(worked.db, worked.turns)
        worked.publisher = publisher
        self._closing.append(worked.close)
        return worked, publisher

    def worker(self, loader: Executor | None = None, limits: Limits | None = None) -> Collection:
        """One more worker's view of the collection."""
        c = Collection("c", self.folder, limits or Limits(MANY, MANY), pools(loader))
        self._closing.append(c.close)
        return c

    def close(self) -> None:
        for close in reversed(self._closing):
            close()

    # ---------------------------------------------------------------- writing

    @contextmanager
    def turn(self, max_rows: int = MANY) -> Iterator[Turn]:
        with self.turns.turn(), self.db.writing():
            turn = Turn(self.db, max_rows, 10**12)
            yield turn
            turn.finish()

    def write(self, act: Callable[[Turn], T]) -> T:
        with self.turn() as turn, turn.request():
            return act(turn)

    def vectors(self, n: int) -> Any:
        """No two alike, ever: a row that rises again shows."""
        first, self._drawn = self._drawn, self._drawn + n
        if self.sparse:
            return self._sparse(np.arange(first, first + n))
        rows = np.arange(first, first + n, dtype=np.float32)[:, None] * np.ones(self.dimension, np.float32)
        rows[:, 0] = 1.0
        return np.ascontiguousarray(rows)

    def _sparse(self, numbers: NDArray[np.int64]) -> SparseRows:
        """1 at place 0, and a row's own number (which may be 0, and is stored) at another place."""
        places = np.stack([np.zeros(len(numbers)), 1 + numbers % (self.dimension - 1)], axis=1)
        values = np.stack([np.ones(len(numbers)), numbers], axis=1)
        indptr = 2 * np.arange(len(numbers) + 1)
        return SparseRows(indptr, places.ravel().astype(np.int32), values.ravel().astype(np.float32), self.dimension)

    def query(self) -> Any:
        """One, with a number at every place."""
        if self.sparse:
            d = self.dimension
            return SparseRows(np.array([0, d]), np.arange(d, dtype=np.int32), np.ones(d, np.float32), d)
        return np.ones((1, self.dimension), np.float32)

    def batch(self, ids: list[Any] | None, n: int | None = None, metadata: bool = True) -> Batch:
        count = len(ids) if ids is not None else n or 1
        first = self._drawn
        vectors = self.vectors(count)
        if not metadata:
            return Batch(vectors, ids, None)
        if self.describe is not None:
            return Batch(vectors, ids, [self.describe() for _ in range(count)])
        return Batch(vectors, ids, [None if i % 3 == 2 else b'{"n":%d}' % (first + i) for i in range(count)])

    def _learn(self, batch: Batch, ids: list[Any]) -> None:
        for row, (id_, vector) in enumerate(zip(ids, bits(batch.vectors), strict=True)):
            self.model[id_] = (vector, None if batch.metadata is None else batch.metadata[row])

    def add(self, ids: list[Any]) -> None:
        batch = self.batch(ids)
        self.write(lambda turn: turn.add(batch))
        self._learn(batch, ids)

    def upsert(self, ids: list[Any]) -> None:
        batch = self.batch(ids)
        self.write(lambda turn: turn.upsert(batch))
        self._learn(batch, ids)

    def upsert_directly(self, ids: list[Any]) -> None:
        """A write too large to pend: its own segment, then one transaction."""
        batch = self.batch(ids)
        seq = self.write(reserve_seq)
        keys = np.arange(len(batch), dtype=np.uint64)
        metric = catalogue.read_settings(self.db).metric
        file = write_sealed(self.folder, seq, keys_rel=keys, ids=ids, vectors=batch.vectors, metric=metric)
        self.write(lambda turn: turn.upsert(batch, SealedRows(seq, file.file, file.bytes, file.xxh3)))
        self._learn(batch, ids)

    def delete(self, ids: list[Any]) -> int:
        for id_ in ids:
            self.model.pop(id_, None)
        return self.write(lambda turn: turn.delete(ids))

    def delete_all(self) -> None:
        _, files = self.write(lambda turn: turn.delete_all())
        for file in files:
            (self.folder / SEGMENTS_NAME / file).unlink()
        self.model.clear()

    def patch(self, id_: Any, metadata: dict[str, Any] | None, vector: bool = False) -> bool:
        merge = None if metadata is None else merge_patch(json.dumps(metadata).encode())
        stored = self.vectors(1) if vector else None
        found = self.write(lambda turn: turn.patch(id_, merge, stored))
        if found:
            old_vector, old = self.model[id_]
            self.model[id_] = (
                old_vector if stored is None else bits(stored)[0],
                old if merge is None else merge(old),
            )
        return found

    def assign(self, n: int) -> list[Any]:
        return self.write(lambda turn: reserve_ids(turn, n))

    # ---------------------------------------------------------------- background

    def seal(self) -> None:
        while self.sealing.step():
            pass

    def merge(self) -> None:
        while self.building.step():
            pass

    def seal_under_way(self) -> UnderWay:
        return UnderWay(self.sealing.step, self.sealing_publisher)

    def build_under_way(self) -> UnderWay:
        return UnderWay(self.building.step, self.building_publisher)

    # ---------------------------------------------------------------- reading and judging

    def state(self) -> State:
        return catalogue.read_state(self.db)

    def segments(self) -> list[SegmentRow]:
        return catalogue.read_segments(self.db)

    def files(self) -> list[str]:
        return sorted(p.name for p in (self.folder / SEGMENTS_NAME).iterdir())

    def assert_sound(self, *, notes: bool = True) -> None:
        """Every live id has its vector exactly once, every file is what the catalogue says."""
        report = check(self.data)
        assert report.sound, str(report)
        assert report.live == len(self.model)
        if not notes:
            assert report.findings == [], str(report)

    def assert_seen(self, worker: Collection) -> None:
        """This worker answers with what was acknowledged, bit for bit and with nothing else."""
        assert listed(worker) == self.model
        view = worker.view()
        assert sum(part.live for part in view.parts) + view.pending.live == len(self.model) == view.state.live
        ids = list(self.model)
        items, missing = reading.fetch(worker, ids, frozenset({"vector"}))
        assert missing == [] and items.ids == ids
        if not ids:
            return
        assert items.vectors is not None
        assert bits(items.vectors) == [self.model[i][0] for i in ids]
        plan = planning.plan(view, len(ids) + 3, EXACTLY)
        found = search.run(view, plan, self.query(), len(ids) + 3).hits.ids
        assert sorted(found) == sorted(ids)


def bits(vectors: Any) -> list[bytes]:
    """Each vector's, whatever its kind."""
    return [bytes(vector) for vector in encode(vectors)]


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise AssertionError("it waits")


def listed(worker: Collection, limit: int = 5) -> dict[Any, tuple[bytes, bytes | None]]:
    """All items by pages; an id that comes twice is an error."""
    found: dict[Any, tuple[bytes, bytes | None]] = {}
    cursor: str | None = None
    while True:
        page = at_once(reading.walk(worker, limit, cursor, frozenset({"vector", "metadata"})))
        items = page.items
        assert items.vectors is not None and items.metadata is not None
        for id_, vector, metadata in zip(items.ids, bits(items.vectors), items.metadata, strict=True):
            assert id_ not in found, f"{id_} came twice"
            found[id_] = (vector, metadata)
        cursor = page.next
        if cursor is None:
            return found
