"""A client of the HTTP API that needs nothing but Python; where NumPy is installed, arrays travel as `.npy`.

One `Client` holds one kept-alive connection and is for one thread at a time.
"""

import http.client
import json
import os
import ssl
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from seedvec.arrays import is_array, listed, npy
from seedvec.errors import Refused, refusal

Id = int | str
Vectors = Any
"""Vectors as given by the caller: a NumPy array (n, d) of float16, 32 or 64, or a sequence of sequences of numbers."""

Filter = Mapping[str, Any]
"""On metadata: docs/filters.md."""

JSON, NPY = "application/json", "application/x-npy"


class Client:
    """url: `http://host:port` or `https://…`; timeout_s: of one exchange with the server.

    Methods return the server's JSON answers. Raises Refused where the server refuses, OSError and
    http.client.HTTPException where it cannot be reached.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", timeout_s: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address")
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The next call would open another."""
        self._connection.close()

    # Service and collections

    def ready(self) -> dict[str, Any]:
        """The answer of `GET /readyz`."""
        return self._json("GET", "/readyz")

    def wait_ready(self, name: str | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the server can serve, or until the index of a collection is ready. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                answer = self.ready() if name is None else self.collection(name, wait_s=min(timeout_s, 20.0))
                if name is None or answer["index"]["state"] == "ready":
                    return answer
            except (ConnectionError, http.client.HTTPException):
                if name is not None:
                    raise
            except Refused as error:
                if error.status != 503:
                    raise
            if time.monotonic() >= until:
                raise TimeoutError(f"{name or self.url} is not ready after {timeout_s:g} s")
            time.sleep(0.1)

    def create(self, name: str, dimension: int, **settings: Any) -> dict[str, Any]:
        """Create a collection; where it exists with the same settings, nothing happens."""
        return self._json("PUT", _path(name), {"dimension": dimension, **settings})

    def collections(self) -> dict[str, Any]:
        """All collections."""
        return self._json("GET", "/v1/collections")

    def collection(self, name: str, wait_s: float | None = None) -> dict[str, Any]:
        """One collection. wait_s: answer once its index is ready, or after so many seconds."""
        query = "" if wait_s is None else "?" + urlencode({"wait": "ready", "timeout_s": wait_s})
        return self._json("GET", _path(name) + query)

    def drop(self, name: str) -> None:
        """Delete a collection with all it holds."""
        self._call("DELETE", _path(name))

    # Vectors

    def add(
        self,
        name: str,
        vectors: Vectors,
        ids: Sequence[Id] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> dict[str, Any]:
        """Add vectors; an id that exists refuses them all. Sent again after a lost connection, they are added once.

        An array with no metadata, and with no ids or a `range` of them, travels as `.npy`: by far the fastest.
        """
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return self._write("POST", name, vectors, ids, metadata, key)

    def upsert(
        self,
        name: str,
        vectors: Vectors,
        ids: Sequence[Id],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> dict[str, Any]:
        """Add vectors or replace those with the same ids."""
        return self._write("PUT", name, vectors, ids, metadata, {})

    def _write(
        self,
        method: str,
        name: str,
        vectors: Vectors,
        ids: Sequence[Id] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
        headers: dict[str, str],
    ) -> dict[str, Any]:
        path = _path(name) + "/vectors"
        run = isinstance(ids, range) and ids.step == 1 and len(ids) == len(vectors)
        if is_array(vectors) and metadata is None and (ids is None or run):
            query = f"?first_id={ids[0]}" if ids else ""
            return self._answer(method, path + query, npy(vectors), NPY, headers)
        columns: dict[str, Any] = {"vectors": listed(vectors)}
        if ids is not None:
            columns["ids"] = listed(ids)
        if metadata is not None:
            columns["metadata"] = list(metadata)
        return self._answer(method, path, json.dumps(columns).encode(), JSON, headers)

    def fetch(self, name: str, ids: Sequence[Id], include: Sequence[str] | None = None) -> dict[str, Any]:
        """Stored items by id, in the order asked, and the ids that are not there."""
        body: dict[str, Any] = {"ids": listed(ids)}
        if include is not None:
            body["include"] = list(include)
        return self._json("POST", _path(name) + "/vectors/fetch", body)

    def delete(
        self, name: str, ids: Sequence[Id] | None = None, filter: Filter | None = None, **options: Any
    ) -> dict[str, Any]:
        """Delete items by id (those that are not there are passed over) or by filter: give one of them.

        options: `dry_run`; `all`, which a filter that every item matches wants.
        """
        return self._many("delete", name, ids, filter, options)

    def patch(
        self,
        name: str,
        metadata: Mapping[str, Any],
        ids: Sequence[Id] | None = None,
        filter: Filter | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Merge `metadata` into that of items chosen as in `delete`; a field given as None is removed."""
        return self._many("patch", name, ids, filter, {"metadata": dict(metadata), **options})

    def _many(
        self, what: str, name: str, ids: Sequence[Id] | None, filter: Filter | None, body: dict[str, Any]
    ) -> dict[str, Any]:
        if ids is not None:
            body["ids"] = listed(ids)
        if filter is not None:
            body["filter"] = dict(filter)
        # Sent again after a lost connection it would find less to do, and answer a smaller number.
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return self._answer("POST", f"{_path(name)}/vectors/{what}", json.dumps(body).encode(), JSON, key)

    def count(self, name: str, filter: Filter | None = None) -> dict[str, Any]:
        """How many items there are, or how many of them match."""
        return self._json("POST", _path(name) + "/count", {} if filter is None else {"filter": dict(filter)})

    # Search

    def search(
        self,
        name: str,
        query: Vectors,
        k: int = 10,
        recall: float | None = None,
        params: Mapping[str, int] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The k nearest of one vector (`hits`), or of each of several (`results`).

        recall: share of the true k nearest to find, on average (1: all; default: the collection's); params: the index's
        own search parameters instead. options: as in the API: `filter`, `exact`, `max_distance`, `include`, `explain`.
        """
        vectors = listed(query)
        kind = "vectors" if vectors and isinstance(vectors[0], list | tuple) else "vector"
        body: dict[str, Any] = {kind: vectors, "k": k, **options}
        if recall is not None:
            body["recall"] = recall
        if params is not None:
            body["params"] = dict(params)
        return self._json("POST", _path(name) + "/search", body)

    def neighbors(self, name: str, id: Id, k: int = 10, filter: Filter | None = None) -> dict[str, Any]:
        """The k nearest of a stored item among those that match, itself left out."""
        query = {"k": k} if filter is None else {"k": k, "filter": json.dumps(dict(filter))}
        return self._json("GET", f"{_path(name)}/neighbors/{quote(str(id), safe='')}?{urlencode(query)}")

    # Recall

    def recall(
        self,
        name: str,
        queries: Vectors | None = None,
        k: int | Sequence[int] = 10,
        recall: float | Sequence[float] | None = None,
        truth: Sequence[Sequence[Id]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """What searches find of the true nearest, and how long they take: a row for each k and recall.

        queries: default: real ones of late, or stored vectors; truth: ids of the nearest of each query, nearest first
        (default: what the exact search finds). options: as in the API: `sample`, `filter`, `calibrate`. It may take a
        minute over many vectors: give the client a `timeout_s` to match.
        """
        body: dict[str, Any] = {"k": k if isinstance(k, int) else list(k), **options}
        if recall is not None:
            body["recall"] = recall if isinstance(recall, int | float) else list(recall)
        if queries is not None:
            body["queries"] = listed(queries)
        if truth is not None:
            body["truth"] = [listed(ids) for ids in truth]
        return self._json("POST", _path(name) + "/recall", body)

    def calibration(self, name: str) -> dict[str, Any]:
        """What each index finds at what cost, by k, and what was last measured with real queries."""
        return self._json("GET", _path(name) + "/recall")

    # HTTP

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return self._answer(method, path, None if body is None else json.dumps(body).encode(), JSON, {})

    def _answer(self, method: str, path: str, body: bytes | None, kind: str, headers: dict[str, str]) -> dict[str, Any]:
        if body is not None:
            headers = {**headers, "Content-Type": kind}
        text = self._call(method, path, body, headers)
        answer = json.loads(text) if text else {}
        return answer if isinstance(answer, dict) else {"answer": answer}

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        kept = self._connection.sock is not None
        try:
            status, text = self._exchange(method, path, body, headers or {})
        except (ConnectionError, http.client.RemoteDisconnected):
            self._connection.close()
            if not kept:
                raise
            # An idle connection may be closed at any time; all calls can be repeated (an add bears its key).
            status, text = self._exchange(method, path, body, headers or {})
        except BaseException:
            self._connection.close()  # half an answer may be on it
            raise
        if status >= 400:
            raise refusal(status, _problem(text))
        return text

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self._connection.request(method, self._base + path, body, dict(headers))
        response = self._connection.getresponse()
        return response.status, response.read()


def default_url() -> str:
    """Where commands look for a server: SEEDVEC_URL, else this machine at SEEDVEC_PORT or 8080."""
    return os.environ.get("SEEDVEC_URL") or f"http://127.0.0.1:{os.environ.get('SEEDVEC_PORT') or 8080}"


def _path(name: str) -> str:
    return "/v1/collections/" + quote(name, safe="")


def _problem(text: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": text[:200].decode("utf-8", "replace")}
