"""Clients of the random kills: each writes rows of its own, keeps account of them, and looks while it writes.

An account is the outside ledger of one client. It has one write under way at a time, so that whatever happens to the
server, its rows are as they were before that write or as they would be after it: wholly, never in part.
"""

import http.client
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.harness import Server
from tests.wire import Answer, Collection, Wire, columns, plain

DIMENSION = 8
SPAN = 10**9
"""Client c owns the ids from c × SPAN on."""
GONE = (OSError, http.client.HTTPException)
"""What a client sees when its worker dies."""
LARGE = 130
"""Above a quarter of the pending bound of SMALL: a segment at once."""
MOST_ROWS = 900
"""Of one client; beyond it deletes."""
Key = int | str
State = tuple[bytes, Mapping[str, Any]] | int
"""Of a row: the vector's bytes and the metadata. Of a brief collection: its rows."""
Effect = dict[Key, State | None]
"""What a write makes of the keys it touches; None: not there."""


class Lost(AssertionError):
    """lost: how many rows or collections are not as they were acknowledged."""

    def __init__(self, text: str, lost: int) -> None:
        super().__init__(text)
        self.lost = lost


@dataclass(frozen=True, slots=True)
class Write:
    """effect: what it makes of the rows. send: sends it; again, the same: with the same key, or a PUT by nature."""

    effect: Effect
    send: Callable[[Wire], Answer]


class Account:
    """The rows as acknowledged, and the write in doubt, if there is one. Read by others only while its client rests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: dict[Key, State] = {}
        self.doubt: Write | None = None
        self.unheard: Write | None = None
        """Was in doubt, and was looked for since. Its client has not heard of it yet, and repeats it."""
        self.acknowledged = 0

    def announce(self, write: Write) -> None:
        assert self.doubt is None
        self.doubt = write

    def acknowledge(self) -> None:
        assert self.doubt is not None
        self.state = after(self.state, self.doubt.effect)
        self.acknowledged += 1
        self.doubt = None

    def refuse(self) -> None:
        """Nothing was changed."""
        self.doubt = None

    def settle(self, served: Mapping[Key, State]) -> None:
        """Raises Lost unless `served` is what was acknowledged, with all of the write in doubt or nothing of it.

        What is served counts as acknowledged from then on.
        """
        worlds = [self.state] if self.doubt is None else [self.state, after(self.state, self.doubt.effect)]
        wrong = min((differences(world, served) for world in worlds), key=len)
        if wrong:
            of = f" ({len(self.doubt.effect)} keys in doubt)" if self.doubt is not None else ""
            raise Lost(f"{self.name}: {len(wrong)} of {len(self.state)} are wrong{of}: {wrong[:6]}", len(wrong))
        self.state, self.unheard, self.doubt = dict(served), self.doubt, None


def after(state: Mapping[Key, State], effect: Effect) -> dict[Key, State]:
    changed = {**state, **{key: value for key, value in effect.items() if value is not None}}
    return {key: value for key, value in changed.items() if effect.get(key, value) is not None}


def differences(world: Mapping[Key, State], served: Mapping[Key, State]) -> list[str]:
    keys = world.keys() | served.keys()
    wrong = [k for k in keys if world.get(k) != served.get(k)]
    return [f"{k!r} is {word(served.get(k))}, not {word(world.get(k))}" for k in wrong]


def word(state: State | None) -> str:
    if state is None:
        return "absent"
    return f"of {state} rows" if isinstance(state, int) else f"vector {state[0][:4].hex()}… with {state[1]}"


def busy(answer: Answer) -> bool:
    """Refused for now, and nothing was stored."""
    return answer.status == 429 or (answer.status == 503 and b"/problems/unavailable" in answer.body)


def gone(answer: Answer) -> Answer:
    """A drop that is repeated may have been done before."""
    return Answer(204, answer.headers, b"") if answer.status == 404 else answer


def row_state(item: Mapping[str, Any]) -> State:
    return np.array(item["vector"], np.float32).tobytes(), item["metadata"] or {}


def drawn(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.standard_normal((n, DIMENSION)).astype(np.float32)


class Client:
    """Works in a thread between `begin` and `end`; its account outlives both, and the server too."""

    def __init__(self, owner: int, name: str, seed: int) -> None:
        """name: of the collection, of int ids."""
        self.owner, self.collection = owner, name
        self.account = Account(f"client {owner}")
        self.rng = np.random.default_rng([seed, owner])
        self.next_id = owner * SPAN
        self.keys = 0
        self.repeated = 0
        self.fault: BaseException | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.acts: list[tuple[Callable[[], Write], float]] = [
            (lambda: self.add(int(self.rng.integers(1, 30))), 5),
            (lambda: self.add(LARGE), 1),
            (self.upsert, 3),
            (self.patch, 2),
            (self.patch_where, 1),
            (self.delete, 2),
            (self.delete_where, 1),
            (self.rebuild, 0.2),
        ]

    def begin(self, server: Server) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(server.port,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def end(self) -> None:
        """Returns when the thread has ended; raises what it met: a wrong answer."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        if self.fault is not None:
            raise self.fault

    def _run(self, port: int) -> None:
        try:
            while not self._stop.is_set():
                wire = Wire("127.0.0.1", port)
                try:
                    self._repeat(wire)
                    while not self._stop.is_set():
                        self.step(wire)
                except GONE:
                    self._stop.wait(0.02)
                finally:
                    wire.close()
        except BaseException as fault:
            self.fault = fault

    def _repeat(self, wire: Wire) -> None:
        """The write whose answer was not heard, until it is: done before or not, afterwards it is done, and once."""
        account = self.account
        if account.unheard is not None:
            account.announce(account.unheard)
            account.unheard = None
        while account.doubt is not None and not self._stop.is_set():
            self.repeated += 1
            answer = account.doubt.send(wire)
            if busy(answer):
                # This attempt stored nothing; the first one is as much in doubt as before.
                self._stop.wait(0.05)
            else:
                self._acknowledged(answer)

    def step(self, wire: Wire) -> None:
        if self.rng.random() < 0.3:
            self.look(wire)
            return
        write = self.drawn_act()()
        self.account.announce(write)
        answer = write.send(wire)
        if busy(answer):
            self.account.refuse()
            self._stop.wait(0.05)
        else:
            self._acknowledged(answer)

    def _acknowledged(self, answer: Answer) -> None:
        assert answer.status in (200, 201, 202, 204), f"{self.account.name}: {answer}"
        self.account.acknowledge()

    def drawn_act(self) -> Callable[[], Write]:
        if len(self.account.state) < 20:
            return self.acts[0][0]
        if len(self.account.state) > MOST_ROWS:
            return self.delete_where
        odds = np.array([weight for _, weight in self.acts])
        return self.acts[int(self.rng.choice(len(self.acts), p=odds / odds.sum()))][0]

    # -- writes: what each makes of the rows, and how it is sent

    def post(self, path: str, body: Any) -> Callable[[Wire], Answer]:
        """With a key of its own, so that it can be repeated."""
        self.keys += 1
        key = f"{self.owner}-{self.keys}"
        return lambda wire: wire.call("POST", f"/v1/collections/{self.collection}{path}", body, Idempotency_Key=key)

    def put(self, method: str, path: str, body: Any) -> Callable[[Wire], Answer]:
        return lambda wire: wire.call(method, f"/v1/collections/{self.collection}{path}", body)

    def made(self, ids: list[int]) -> tuple[Effect, dict[str, Any]]:
        vectors = drawn(self.rng, len(ids))
        metadata = [{"owner": self.owner, "n": int(n)} for n in self.rng.integers(0, 100, len(ids))]
        effect: Effect = {id: (vectors[i].tobytes(), metadata[i]) for i, id in enumerate(ids)}
        return effect, columns(ids, vectors, metadata)

    def some(self, most: int) -> list[int]:
        there = [key for key in self.account.state if isinstance(key, int)]
        n = min(len(there), int(self.rng.integers(1, most)))
        return [there[i] for i in self.rng.choice(len(there), n, replace=False)]

    def add(self, n: int) -> Write:
        ids = list(range(self.next_id, self.next_id + n))
        self.next_id += n
        effect, body = self.made(ids)
        return Write(effect, self.post("/vectors", body))

    def upsert(self) -> Write:
        effect, body = self.made(self.some(10))
        return Write(effect, self.put("PUT", "/vectors", body))

    def patch(self) -> Write:
        id = self.some(2)[0]
        vector, metadata = self.row(id)
        changed = drawn(self.rng, 1)[0] if self.rng.random() < 0.5 else None
        n = int(self.rng.integers(0, 100))
        body = {"metadata": {"n": n}} | ({} if changed is None else {"vector": plain(changed)})
        effect: Effect = {id: (vector if changed is None else changed.tobytes(), {**metadata, "n": n})}
        return Write(effect, self.put("PATCH", f"/vectors/{id}", body))

    def matching(self) -> tuple[dict[str, Any], list[int]]:
        """A filter, and our rows that match."""
        low = int(self.rng.integers(0, 90))
        rows = [id for id in self.account.state if isinstance(id, int) and low <= self.row(id)[1]["n"] < low + 10]
        return {"owner": self.owner, "n": {"$gte": low, "$lt": low + 10}}, rows

    def patch_where(self) -> Write:
        wanted, ids = self.matching()
        n = int(self.rng.integers(0, 100))
        effect: Effect = {id: (self.row(id)[0], {**self.row(id)[1], "n": n}) for id in ids}
        return Write(effect, self.post("/vectors/patch", {"filter": wanted, "metadata": {"n": n}}))

    def delete(self) -> Write:
        ids = self.some(10)
        return Write(dict.fromkeys(ids), self.post("/vectors/delete", {"ids": ids}))

    def delete_where(self) -> Write:
        wanted, ids = self.matching()
        return Write(dict.fromkeys(ids), self.post("/vectors/delete", {"filter": wanted}))

    def rebuild(self) -> Write:
        return Write({}, self.put("PUT", "/index", {"kind": "hnsw"}))

    def row(self, id: Key) -> tuple[bytes, Mapping[str, Any]]:
        state = self.account.state[id]
        assert not isinstance(state, int)
        return state

    # -- reads

    def look(self, wire: Wire) -> None:
        """What was acknowledged a moment ago is what is found and counted now."""
        words, state = Collection(wire, self.collection), self.account.state
        mine = {"owner": self.owner}
        counted = wire.ok(200, "POST", f"{words.path}/count", {"filter": mine})
        assert counted == {"count": len(state)}, f"{self.account.name}: {counted}, acknowledged are {len(state)}"
        if state:
            id = self.some(2)[0]
            vector, metadata = self.row(id)
            query = np.frombuffer(vector, np.float32)
            [hit] = words.search(query, 1, filter=mine, exact=bool(self.rng.random() < 0.5))["hits"]
            assert hit == {"id": id, "distance": 0.0, "metadata": metadata}, f"{hit}, not {id} {metadata}"


class Briefly(Client):
    """Creates collections, fills them at once and drops them."""

    def drawn_act(self) -> Callable[[], Write]:
        empty = [name for name, rows in self.account.state.items() if rows == 0]
        if empty:
            return lambda: self.fill(str(empty[0]))
        if len(self.account.state) >= 2:
            return lambda: self.drop(str(next(iter(self.account.state))))
        return self.create

    def create(self) -> Write:
        self.keys += 1
        name = f"brief-{self.keys}"
        body = {"dimension": DIMENSION, "metric": "l2"}
        return Write({name: 0}, lambda wire: wire.call("PUT", f"/v1/collections/{name}", body))

    def fill(self, name: str) -> Write:
        """Ids are the server's."""
        body, path = columns(None, drawn(self.rng, LARGE), None), f"/v1/collections/{name}/vectors"
        return Write({name: LARGE}, lambda wire: wire.call("POST", path, body, Idempotency_Key="fill"))

    def drop(self, name: str) -> Write:
        return Write({name: None}, lambda wire: gone(wire.call("DELETE", f"/v1/collections/{name}")))

    def look(self, wire: Wire) -> None:
        for name, rows in self.account.state.items():
            assert Collection(wire, str(name)).describe()["count"] == rows, f"{name} should have {rows} rows"
