"""One client of the soak, in a process of its own: writes its own rows, asks for everything, judges every answer.

It writes through one connection and reads through another, which the server deals to different workers as it
likes, and opens both anew now and then.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.datasets import Clustered
from benchmarks.soak_model import NUMBERS, TAGS, Model
from tests.wire import Answer, Wire

K = 10
RECONNECT_EVERY = 500
"""Requests."""
LARGE_ROWS = 700
"""A write above a quarter of the pending bound becomes a segment at once (see PENDING_ROWS of the soak)."""
PAGE = 500
REPORT_S = 1.0
WRITE_SHARE = 0.4
PERIOD_S, PAUSE_S = 60.0, 15.0
"""In each period there is no write for the length of a pause."""

Act = Callable[["Kept", Model], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A collection of the soak."""

    name: str
    metric: str
    dtype: str
    kind: str


@dataclass(frozen=True, slots=True)
class Order:
    """What a client is told: `rows` are those that it keeps in each collection, `rate` requests a second at most."""

    port: int
    owner: int
    dimension: int
    rows: int
    rate: float
    end: float
    """time.monotonic() of the end."""
    collections: tuple[Kept, ...]


@dataclass(slots=True)
class Report:
    """What a client did lately. latencies_s: of reads and of writes that were answered."""

    owner: int
    reads_s: list[float] = field(default_factory=list)
    writes_s: list[float] = field(default_factory=list)
    rows_written: int = 0
    refusals: int = 0
    """429, and 503 that say that nothing was stored: asked again."""
    recalls: list[float] = field(default_factory=list)
    """Of approximate searches within own rows."""
    shares: list[float] = field(default_factory=list)
    """Of approximate searches over all rows: the share of own rows found that are nearer than the last hit."""
    ready: bool = False
    """The rows to begin with are there."""
    done: bool = False
    fault: str = ""
    """Why it ended early: a wrong answer, with the request."""


def run(order: Order, reports: "Queue[Report]") -> None:
    """The process. Ends with a report that is `done` or has a fault."""
    client = Client(order, reports)
    try:
        client.fill()
        while time.monotonic() < order.end:
            client.step()
        client.judge_everything()
        client.report.done = True
    except Exception:
        client.report.fault = f"client {order.owner}, {client.last}:\n{traceback.format_exc()[-3000:]}"
    reports.put(client.report)


class Acts:
    """What a client may do next, each by its odds."""

    def __init__(self, *acts: tuple[Act, float]) -> None:
        self._acts = [act for act, _ in acts]
        weights = np.array([weight for _, weight in acts])
        self._odds = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Act:
        return self._acts[int(rng.choice(len(self._acts), p=self._odds))]


class Client:
    def __init__(self, order: Order, reports: "Queue[Report]") -> None:
        self.order, self.reports = order, reports
        self.rng = np.random.default_rng([order.owner, 8])
        self.report, self.reported_at = Report(order.owner), time.monotonic()
        self.due = time.monotonic()
        self.requests = 0
        self.last = ""
        self.dropped = 0
        self.models = [
            # A write may come on top of the rows that are kept.
            Model(order.owner, c.metric, c.dtype, order.dimension, order.rows + 2 * LARGE_ROWS)
            for c in order.collections
        ]
        self.source = Clustered(order.dimension)
        self.stream = order.owner * 10**6
        self.writer, self.reader = self._wire(), self._wire()
        self.writes = Acts(
            (self.add, 14), (self.add_large, 0.08), (self.upsert, 8), (self.patch, 6), (self.patch_where, 1.5),
            (self.delete, 4), (self.delete_where, 2), (self.come_and_go, 0.15),
        )  # fmt: skip
        self.reads = Acts(
            (self.search, 28), (self.search_all, 14), (self.neighbors, 4), (self.fetch, 8), (self.count, 6),
            (self.walk, 1),
        )  # fmt: skip

    # -- the course of it

    def fill(self) -> None:
        """Most of the rows that are kept, before anything is measured."""
        for kept, model in zip(self.order.collections, self.models, strict=True):
            while len(model) < 0.9 * self.order.rows:
                self.add_rows(kept, model, LARGE_ROWS)
        self.report.ready = True

    def step(self) -> None:
        self.due = max(self.due + 1 / self.order.rate, time.monotonic() - 1)
        time.sleep(max(0.0, self.due - time.monotonic()))
        which = int(self.rng.integers(len(self.models)))
        # All clients pause together: only then is what is large merged and indexed at once.
        writing = (self.order.end - time.monotonic()) % PERIOD_S > PAUSE_S and self.rng.random() < WRITE_SHARE
        kept, model = self.order.collections[which], self.models[which]
        (self.writes if writing else self.reads).draw(self.rng)(kept, model)
        if len(model) > self.order.rows:
            self.delete_some(kept, model, len(model) - int(0.97 * self.order.rows))
        if time.monotonic() - self.reported_at >= REPORT_S:
            self.reports.put(self.report)
            self.report, self.reported_at = Report(self.order.owner), time.monotonic()

    def judge_everything(self) -> None:
        for kept, model in zip(self.order.collections, self.models, strict=True):
            self.pages(kept, model, {"owner": self.order.owner}, model.live)

    # -- requests

    def call(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """The answer's JSON. A refusal that stored nothing is repeated until it is not; any other is a fault."""
        write = method != "GET" and not path.endswith(("/search", "/fetch", "/list", "/count"))
        sent = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        self.last = f"{method} {path} {(sent or b'')[:500].decode(errors='replace')}"
        if sent is not None:
            headers["Content_Type"] = "application/json"
        while True:
            begun = time.perf_counter()
            answer = self._sent(write, method, f"/v1/collections{path}", sent, headers)
            if not busy(answer):
                break
            self.report.refusals += 1
            time.sleep(0.2)
        elapsed = time.perf_counter() - begun
        (self.report.writes_s if write else self.report.reads_s).append(elapsed)
        assert answer.status == status, f"{answer.status}, wanted {status}: {answer.body[:2000]!r}"
        return orjson.loads(answer.body) if answer.body else None

    def _sent(self, write: bool, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        self.requests += 1
        if self.requests % RECONNECT_EVERY == 0:
            self.writer.close()
            self.reader.close()
            self.writer, self.reader = self._wire(), self._wire()
        return (self.writer if write else self.reader).call(method, path, body, **headers)

    def _wire(self) -> Wire:
        return Wire("127.0.0.1", self.order.port)

    def drawn(self, n: int, model: Model) -> NDArray[Any]:
        """(n, d) in the collection's dtype: sent so, nothing is rounded on the way."""
        self.stream += 1
        return self.source.rows(n, self.stream).astype(model.dtype)

    def query(self, model: Model) -> NDArray[np.float32]:
        return self.drawn(1, model)[0].astype(np.float32)

    # -- writes

    def add(self, kept: Kept, model: Model) -> None:
        self.add_rows(kept, model, int(self.rng.integers(1, 8)))

    def add_large(self, kept: Kept, model: Model) -> None:
        self.add_rows(kept, model, LARGE_ROWS)

    def add_rows(self, kept: Kept, model: Model, n: int) -> None:
        ids = model.fresh_ids(n)
        body, put = self.made(model, ids)
        key = f"{self.order.owner}-{ids[0]}"
        # Now and then repeated, as by a client that did not hear the answer.
        for _ in range(1 + int(self.rng.random() < 0.05)):
            answer = self.call("POST", f"/{kept.name}/vectors", body, 201, Idempotency_Key=key)
            assert answer == {"count": n}, answer
        put()
        self.report.rows_written += n

    def upsert(self, kept: Kept, model: Model) -> None:
        ids = model.some(self.rng, int(self.rng.integers(1, 5)))
        body, put = self.made(model, ids)
        answer = self.call("PUT", f"/{kept.name}/vectors", body)
        assert answer == {"count": len(ids)}, answer
        put()
        self.report.rows_written += len(ids)

    def made(self, model: Model, ids: list[int]) -> tuple[dict[str, Any], Callable[[], None]]:
        """The body of a write, and what it makes of the model."""
        rows = self.drawn(len(ids), model)
        n, tag = self.rng.integers(0, NUMBERS, len(ids)), self.rng.integers(0, TAGS, len(ids))
        metadata = [model.described(rows[i], int(n[i]), int(tag[i])) for i in range(len(ids))]
        body = {"ids": ids, "vectors": rows.astype(np.float32), "metadata": metadata}
        return body, lambda: model.put(ids, rows, n, tag)

    def patch(self, kept: Kept, model: Model) -> None:
        """Metadata alone, or the vector with its digest."""
        [id] = model.some(self.rng, 1)
        slot, n = model.slot[id], int(self.rng.integers(0, NUMBERS))
        body: dict[str, Any] = {"metadata": {"n": n}}
        if self.rng.random() < 0.3:
            row = self.drawn(1, model)[0]
            body = {"vector": row.astype(np.float32), "metadata": model.described(row, n, int(model.tag[slot]))}
        self.call("PATCH", f"/{kept.name}/vectors/{id}", body)
        model.n[slot] = n
        if "vector" in body:
            model.rows[slot] = row

    def patch_where(self, kept: Kept, model: Model) -> None:
        wanted, note = self.narrow(model), int(self.rng.integers(0, NUMBERS))
        gone = self.rng.random() < 0.4
        body = {"filter": wanted[0], "metadata": {"note": None if gone else note}}
        answer = self.call("POST", f"/{kept.name}/vectors/patch", body)
        assert answer == {"patched": int(wanted[1].sum())}, f"{answer}, {int(wanted[1].sum())} match"
        model.note[wanted[1]] = -1 if gone else note

    def delete(self, kept: Kept, model: Model) -> None:
        self.delete_some(kept, model, int(self.rng.integers(1, 4)))

    def delete_some(self, kept: Kept, model: Model, n: int) -> None:
        ids = model.some(self.rng, n)
        answer = self.call("POST", f"/{kept.name}/vectors/delete", {"ids": ids})
        assert answer == {"deleted": len(ids)}, answer
        model.remove([model.slot[id] for id in ids])

    def delete_where(self, kept: Kept, model: Model) -> None:
        json, mask = self.narrow(model)
        answer = self.call("POST", f"/{kept.name}/vectors/delete", {"filter": json})
        assert answer == {"deleted": int(mask.sum())}, f"{answer}, {int(mask.sum())} match"
        model.remove(np.flatnonzero(mask).tolist())

    def narrow(self, model: Model) -> tuple[dict[str, Any], NDArray[np.bool_]]:
        """A filter that about a 300th of our rows match."""
        low = int(self.rng.integers(0, NUMBERS - 3))
        json = {"owner": self.order.owner, "n": {"$gte": low, "$lt": low + 3}}
        return json, model.live & (model.n >= low) & (model.n < low + 3)

    def come_and_go(self, kept: Kept, model: Model) -> None:
        """A collection of its own, created, filled, searched and dropped: nothing of it may stay."""
        self.dropped += 1
        path, other = f"/brief-{self.order.owner}-{self.dropped}", Model(9, "dot", "float32", self.order.dimension, 600)
        settings = {"dimension": self.order.dimension, "metric": "dot", "id_type": "int", "index": {"kind": "ivf"}}
        self.call("PUT", path, settings, 201)
        body, put = self.made(other, other.fresh_ids(600))
        self.call("POST", f"{path}/vectors", body, 201)
        put()
        query = self.query(other)
        answer = self.call("POST", f"{path}/search", {"vector": query, "k": 1, "include": ["metadata", "vector"]})
        # Under dot the allowed error goes with the norms: what counts here is that it is the right item.
        other.judge_item(answer["hits"][0])
        self.call("DELETE", path, status=204)
        self.call("GET", path, status=404)

    # -- reads

    def search(self, kept: Kept, model: Model) -> None:
        """Within our own rows, of which we know everything."""
        wanted, query, exact = model.filter(self.rng), self.query(model), self.rng.random() < 0.4
        body = {"vector": query, "k": K, "exact": exact, "filter": wanted.json, "include": ["metadata", "vector"]}
        answer = self.call("POST", f"/{kept.name}/search", body)
        assert answer["exact"] or not exact
        share = model.judge_hits(query, K, answer["hits"], answer["exact"], wanted.mask)
        if not answer["exact"]:
            self.report.recalls.append(share)

    def search_all(self, kept: Kept, model: Model) -> None:
        query, exact = self.query(model), self.rng.random() < 0.3
        body = {"vector": query, "k": K, "exact": exact, "include": ["metadata", "vector"]}
        answer = self.call("POST", f"/{kept.name}/search", body)
        share = model.judge_hits(query, K, answer["hits"], answer["exact"])
        if not answer["exact"]:
            self.report.shares.append(share)

    def neighbors(self, kept: Kept, model: Model) -> None:
        [id] = model.some(self.rng, 1)
        body = {"id": id, "k": K, "exact": True, "filter": {"owner": self.order.owner}}
        answer = self.call("POST", f"/{kept.name}/search", body | {"include": ["metadata", "vector"]})
        slot = model.slot[id]
        others = model.live.copy()
        others[slot] = False
        model.judge_hits(model.rows[slot].astype(np.float32), K, answer["hits"], True, others)

    def fetch(self, kept: Kept, model: Model) -> None:
        ids = model.some(self.rng, 20)
        absent = model.fresh_ids(2)
        answer = self.call("POST", f"/{kept.name}/vectors/fetch", {"ids": absent + ids})
        assert answer["missing"] == absent, answer["missing"]
        assert [item["id"] for item in answer["items"]] == ids
        for item in answer["items"]:
            model.judge_item(item)

    def count(self, kept: Kept, model: Model) -> None:
        wanted = model.filter(self.rng)
        answer = self.call("POST", f"/{kept.name}/count", {"filter": wanted.json})
        assert answer == {"count": int(wanted.mask.sum())}, f"{answer}, {int(wanted.mask.sum())} match {wanted.json}"

    def walk(self, kept: Kept, model: Model) -> None:
        wanted = model.filter(self.rng)
        if wanted.mask.sum() <= 4 * PAGE:
            self.pages(kept, model, wanted.json, wanted.mask)

    def pages(self, kept: Kept, model: Model, wanted: dict[str, Any], mask: NDArray[np.bool_]) -> None:
        items: list[Any] = []
        body: dict[str, Any] = {"filter": wanted, "limit": PAGE, "include": ["metadata", "vector"]}
        while True:
            page = self.call("POST", f"/{kept.name}/vectors/list", body)
            items += page["items"]
            if page["next"] is None:
                break
            body["cursor"] = page["next"]
        model.judge_page(items, mask)


def busy(answer: Answer) -> bool:
    return answer.status == 429 or (answer.status == 503 and b"/problems/unavailable" in answer.body)
