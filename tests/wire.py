"""One kept-alive connection, and a collection as seen through it."""

import http.client
import io
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Id = int | str
TIMEOUT_S = 60.0
READY_S = 100.0
"""Where other tests take the cores, the builder, which is niced, gets a tenth of one."""
ASKED_S = 20.0
"""Of a request that waits: less than its connection does."""
NPY = "application/x-npy"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection that is opened at the first request and never silently opened anew.

    So a test knows which worker it speaks to, and a request that dies with the server is never sent twice.
    Raises OSError or http.client.HTTPException when the server goes away.
    """

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        self._connection.auto_open = False
        self._opened = False

    def connect(self) -> int:
        """Open (when it is not) and return the local port."""
        if not self._opened:
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._opened = True
        if self._connection.sock is None:
            # http.client has closed its end: the last answer said that it was the last (a worker that is stopping).
            raise ConnectionResetError("the server closed the connection")
        return int(self._connection.sock.getsockname()[1])

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """body: bytes as they are, anything else as JSON. Header names are given with `_` for `-`."""
        self.connect()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, allow_nan=False).encode()
            sent.setdefault("Content-Type", "application/json")
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def ok(self, status: int, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The decoded answer; AssertionError with the server's words when its status is another."""
        answer = self.call(method, path, body, **headers)
        assert answer.status == status, f"{method} {path}: {answer.status}, wanted {status}: {answer.body[:2000]!r}"
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.json() if is_json else answer.body


def npy(matrix: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return buffer.getvalue()


def from_npy(body: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.load(io.BytesIO(body), allow_pickle=False)
    return array


def plain(matrix: NDArray[Any]) -> list[Any]:
    """Numbers for JSON: each float's shortest text that reads back to it."""
    values: list[Any] = matrix.tolist()
    return values


class Collection:
    """The calls of one collection; every method asserts the status that the contract gives its success."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self.path = f"/v1/collections/{name}"

    def create(self, dimension: int, *, status: int = 201, **settings: Any) -> Any:
        return self.wire.ok(status, "PUT", self.path, {"dimension": dimension, **settings})

    def drop(self) -> None:
        answer = self.wire.call("DELETE", self.path)
        assert answer.status in (200, 204), answer

    def describe(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.wire.ok(200, "GET", self.path)
        return answer

    def wait_ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        ends = time.monotonic() + timeout_s
        while True:
            answer: dict[str, Any] = self.wire.ok(200, "GET", f"{self.path}?wait=ready&timeout_s={ASKED_S:g}")
            if answer["index"]["state"] != "building" or time.monotonic() > ends:
                break
        assert answer["index"]["state"] == "ready", answer["index"]
        return answer

    def add(
        self,
        ids: Sequence[Id] | None,
        vectors: NDArray[Any],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        **headers: str,
    ) -> Any:
        return self.wire.ok(201, "POST", f"{self.path}/vectors", columns(ids, vectors, metadata), **headers)

    def upsert(
        self,
        ids: Sequence[Id],
        vectors: NDArray[Any],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> Any:
        return self.wire.ok(200, "PUT", f"{self.path}/vectors", columns(ids, vectors, metadata))

    def add_npy(self, vectors: NDArray[Any], first_id: int | None = None) -> Any:
        query = "" if first_id is None else f"?first_id={first_id}"
        return self.wire.ok(201, "POST", f"{self.path}/vectors{query}", npy(vectors), Content_Type=NPY)

    def patch(self, id: Id, **change: Any) -> None:
        answer = self.wire.call("PATCH", self.item(id), change)
        assert answer.status in (200, 204), answer

    def delete(self, ids: Sequence[Id], **headers: str) -> int:
        answer = self.wire.ok(200, "POST", f"{self.path}/vectors/delete", {"ids": list(ids)}, **headers)
        return int(answer["deleted"])

    def item(self, id: Id) -> str:
        """Path of one item."""
        return f"{self.path}/vectors/{urllib.parse.quote(str(id), safe='')}"

    def get(self, id: Id) -> dict[str, Any]:
        answer: dict[str, Any] = self.wire.ok(200, "GET", self.item(id))
        return answer

    def fetch(self, ids: Sequence[Id], **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.wire.ok(200, "POST", f"{self.path}/vectors/fetch", {"ids": list(ids), **options})
        return answer

    def search(self, query: NDArray[Any], k: int = 10, **options: Any) -> dict[str, Any]:
        """query: (d,) or (q, d)."""
        name = "vector" if query.ndim == 1 else "vectors"
        body = {name: plain(query), "k": k, **options}
        answer: dict[str, Any] = self.wire.ok(200, "POST", f"{self.path}/search", body)
        return answer

    def neighbors(self, id: Id, k: int = 10) -> dict[str, Any]:
        id_path = urllib.parse.quote(str(id), safe="")
        answer: dict[str, Any] = self.wire.ok(200, "GET", f"{self.path}/neighbors/{id_path}?k={k}")
        return answer

    def pages(self, limit: int, include: str = "metadata,vector") -> Iterator[list[dict[str, Any]]]:
        cursor = None
        while True:
            query = {"limit": str(limit), "include": include} | ({"cursor": cursor} if cursor else {})
            page = self.wire.ok(200, "GET", f"{self.path}/vectors?{urllib.parse.urlencode(query)}")
            yield page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def everything(self) -> dict[Id, dict[str, Any]]:
        """All items by id; AssertionError where the walk gives one twice."""
        found: dict[Id, dict[str, Any]] = {}
        for page in self.pages(1000):
            for item in page:
                assert item["id"] not in found, f"listed twice: {item['id']!r}"
                found[item["id"]] = item
        return found


def columns(
    ids: Sequence[Id] | None, vectors: NDArray[Any], metadata: Sequence[Mapping[str, Any] | None] | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"vectors": plain(vectors)}
    if ids is not None:
        body["ids"] = list(ids)
    if metadata is not None:
        body["metadata"] = list(metadata)
    return body
