"""Random histories of collections against a dict with a brute-force search, over a real server."""

import itertools
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from numpy.typing import NDArray

from tests.harness import Server
from tests.oracle import Oracle
from tests.wire import Collection, Id, plain

DIMENSION = 5
EXAMPLES = 20
STEPS = 25
MOST_RESTARTS = 1
"""Of one example. A start takes seconds, and Hypothesis likes to repeat one rule."""
_numbers = itertools.count()
"""Examples share the server: each gets collections of its own."""

int_ids = st.integers(0, 60) | st.sampled_from([2**63 - 2, 10**9])
str_ids = st.sampled_from([f"s{i}" for i in range(50)]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8
).filter(lambda id: id not in (".", ".."))
# Few distinct values, so that equal vectors and equal distances happen all the time. None is zero: cosine has no
# direction for it.
vectors = st.lists(st.sampled_from([-1.0, -0.5, 0.25, 1.0, 2.0]), min_size=DIMENSION, max_size=DIMENSION)
metadata = st.none() | st.dictionaries(
    st.sampled_from(["a", "b", "é"]), st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.booleans(), max_size=3
)


class Store:
    """A collection and its oracle."""

    def __init__(self, name: str, metric: str, dtype: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.oracle = Oracle(DIMENSION, metric, dtype)

    def id(self, data: st.DataObject) -> Id:
        """One of those that are there, more often than not."""
        there = self.oracle.ids()
        fresh = int_ids if self.kind == "int" else str_ids
        drawn: Any = data.draw(st.sampled_from(there) | fresh if there else fresh, label="id")
        return drawn if isinstance(drawn, int) else str(drawn)


class Machine(RuleBasedStateMachine):
    stores = Bundle("stores")
    server: Server

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.open: dict[str, Store] = {}
        self.written: Store | None = None
        self.restarts = 0

    def collection(self, store: Store) -> Collection:
        """Through another connection each time: the supervisor deals them to both workers."""
        return self.server.collection(store.name)

    @rule(
        target=stores,
        metric=st.sampled_from(["l2", "cosine", "dot"]),
        dtype=st.sampled_from(["float32", "float16"]),
        kind=st.sampled_from(["int", "str"]),
    )
    def create(self, metric: str, dtype: str, kind: str) -> Any:
        if len(self.open) >= 3:
            return multiple()
        store = Store(f"machine-{next(_numbers)}", metric, dtype, kind)
        self.collection(store).create(DIMENSION, metric=metric, dtype=dtype, id_type=kind)
        self.open[store.name] = store
        return store

    @rule(store=stores, data=st.data(), n=st.integers(1, 8))
    def add(self, store: Store, data: st.DataObject, n: int) -> None:
        if store.name not in self.open:
            return
        ids = [store.id(data) for _ in range(n)]
        rows = self.rows(data, n)
        extra = [data.draw(metadata) for _ in range(n)]
        clash = len(set(ids)) < n or any(id in store.oracle for id in ids)
        words = self.collection(store)
        body = {"items": items(ids, rows, extra)}
        answer = words.wire.call("POST", f"{words.path}/vectors", body)
        assert answer.status == (409 if clash else 201), answer
        if not clash:
            store.oracle.put(ids, rows, extra)
        self.written = store

    @rule(store=stores, seed=st.integers(0, 2**32 - 1), n=st.sampled_from([60, 250, 1100]))
    def add_many(self, store: Store, seed: int, n: int) -> None:
        """Enough to be sealed, merged and indexed; ids of a range of their own."""
        if store.name not in self.open or len(store.oracle) > 4000:
            return
        rng = np.random.default_rng(seed)
        first = 1000 + 2000 * int(rng.integers(0, 10**6))
        numbers = range(first, first + n)
        ids: list[Id] = [f"m{i}" for i in numbers] if store.kind == "str" else list(numbers)
        if any(id in store.oracle for id in ids):
            return
        rows = rng.standard_normal((n, DIMENSION)).astype(np.float32)
        self.collection(store).add(ids, rows)
        store.oracle.put(ids, rows)
        self.written = store

    @rule(store=stores, data=st.data(), n=st.integers(1, 8))
    def upsert(self, store: Store, data: st.DataObject, n: int) -> None:
        if store.name not in self.open:
            return
        ids = [store.id(data) for _ in range(n)]
        rows = self.rows(data, n)
        extra = [data.draw(metadata) for _ in range(n)]
        words = self.collection(store)
        words.wire.ok(200, "PUT", f"{words.path}/vectors", {"items": items(ids, rows, extra)})
        store.oracle.put(ids, rows, extra)  # in order: the last of one id wins
        self.written = store

    @rule(store=stores, data=st.data(), n=st.integers(1, 8))
    def delete(self, store: Store, data: st.DataObject, n: int) -> None:
        if store.name not in self.open:
            return
        ids = [store.id(data) for _ in range(n)]
        assert self.collection(store).delete(ids) == store.oracle.remove(ids)
        self.written = store

    @rule(store=stores)
    def delete_all(self, store: Store) -> None:
        if store.name not in self.open:
            return
        words = self.collection(store)
        answer = words.wire.ok(200, "POST", f"{words.path}/vectors/delete", {"filter": {}, "all": True})
        assert answer["deleted"] == store.oracle.remove(store.oracle.ids())
        self.written = store

    @rule(store=stores, data=st.data(), change=metadata, move=st.booleans())
    def patch(self, store: Store, data: st.DataObject, change: dict[str, Any] | None, move: bool) -> None:
        if store.name not in self.open or (change is None and not move):
            return
        id, words = store.id(data), self.collection(store)
        row = self.rows(data, 1)
        body = ({} if change is None else {"metadata": change}) | ({"vector": plain(row[0])} if move else {})
        answer = words.wire.call("PATCH", words.item(id), body)
        assert answer.status == (200 if id in store.oracle else 404) or answer.status == 204, answer
        if id in store.oracle:
            old = store.oracle.metadata[id]
            kept = store.oracle.vector(id).copy().reshape(1, -1)
            store.oracle.put([id], row if move else kept, [merged(old, change)])
        self.written = store

    @rule(store=stores)
    def settle(self, store: Store) -> None:
        """Sealed, merged and indexed before the next step."""
        if store.name in self.open:
            self.collection(store).wait_ready()
            self.written = store

    @rule(store=stores)
    def drop(self, store: Store) -> None:
        if store.name in self.open:
            self.collection(store).drop()
            del self.open[store.name]
            words = self.collection(store)
            assert words.wire.call("GET", words.path).status == 404

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        if self.restarts == MOST_RESTARTS or not self.open:
            return
        self.restarts += 1
        self.server.kill() if killed else self.server.stop()
        self.server.start()
        for store in self.open.values():
            store.oracle.judge_stored(self.collection(store).everything())

    @rule(store=stores, data=st.data(), k=st.sampled_from([1, 3, 10, 5000]))
    def search(self, store: Store, data: st.DataObject, k: int) -> None:
        if store.name not in self.open:
            return
        words, query = self.collection(store), self.rows(data, 1)[0]
        for exact in (True, False):
            answer = words.search(query, k, exact=exact)
            store.oracle.judge(query, k, answer["hits"], exact=answer["exact"])
            assert answer["exact"] or not exact
        there = store.oracle.ids()
        if there:
            id = data.draw(st.sampled_from(there))
            near = words.neighbors(id, k)
            store.oracle.judge(store.oracle.vector(id), k, near["hits"], exact=near["exact"], without=id)

    @invariant()
    def what_was_written_is_there(self) -> None:
        store, self.written = self.written, None
        if store is not None and store.name in self.open:
            words = self.collection(store)
            assert words.describe()["count"] == len(store.oracle)
            store.oracle.judge_stored(words.everything())

    def rows(self, data: st.DataObject, n: int) -> NDArray[np.float32]:
        return np.array([data.draw(vectors) for _ in range(n)], np.float32)

    def teardown(self) -> None:
        for store in list(self.open.values()):
            store.oracle.judge_stored(self.collection(store).everything())
            self.collection(store).drop()


def items(ids: list[Id], rows: NDArray[np.float32], extra: list[dict[str, Any] | None]) -> list[dict[str, Any]]:
    return [
        {"id": id, "vector": plain(row)} | ({} if some is None else {"metadata": some})
        for id, row, some in zip(ids, rows, extra, strict=True)
    ]


def merged(old: Any, change: dict[str, Any] | None) -> Any:
    """RFC 7396 for the flat objects used here."""
    if change is None:
        return old
    both = {**(old or {}), **change}
    return {name: value for name, value in both.items() if value is not None or name not in change}


def test_histories(server: Server) -> None:
    class OnServer(Machine):
        def __init__(self) -> None:
            super().__init__(server)

    run_state_machine_as_test(
        OnServer,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # Shrinking runs hundreds of histories against a real server: the first failure is reported as it is.
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
