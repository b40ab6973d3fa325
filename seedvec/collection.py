"""One collection of a server: `Client.collection` gives it."""

import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from seedvec.arrays import is_array, is_run, listed, npy, plain
from seedvec.errors import BuildFailed, TooLarge
from seedvec.exchange import Exchange
from seedvec.files import export_file, import_files
from seedvec.results import Items, Results

Id = int | str
Vectors = Any
"""A NumPy array or tensor (n, d), a SciPy CSR matrix for a sparse collection, or a sequence of sequences of numbers."""
Filter = Mapping[str, Any]
"""On metadata: docs/filters.md."""
Metadata = Iterable[Mapping[str, Any] | None]

NPY: Final = "application/x-npy"
WRITE_ROWS: Final = 100_000
WRITE_BYTES: Final = 32 << 20
JSON_ROWS: Final = 20_000
STREAMED_ROWS: Final = 1_000
QUERIES: Final = 1_000
QUERY_HITS: Final = 1_000_000
PAGE: Final = 1_000
FETCH: Final = 10_000
LONGEST_FILTER: Final = 4_096
"""Characters of a filter that goes into a URL."""


class Batch(NamedTuple):
    vectors: Any
    ids: Any
    metadata: list[Mapping[str, Any] | None] | None


class Collection:
    """Methods raise Refused where the server refuses (`seedvec/errors.py` has its kinds), OSError and
    http.client.HTTPException where it cannot be reached."""

    def __init__(self, exchange: Exchange, name: str) -> None:
        self.name = name
        self._exchange = exchange
        self._path = collection_path(name)

    def __repr__(self) -> str:
        return f"Collection({self.name!r} at {self._exchange.url})"

    def __len__(self) -> int:
        return self.count()

    # -- the collection itself

    def describe(self) -> dict[str, Any]:
        """Settings, count, and the state of the index."""
        return self._json("GET", "")

    def wait_ready(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Waits until all is indexed; → as `describe`. Raises TimeoutError, and BuildFailed."""
        until = time.monotonic() + timeout_s
        while True:
            left = max(0.0, until - time.monotonic())
            found = self._json("GET", "?" + urlencode({"wait": "ready", "timeout_s": min(left, 20.0)}))
            state = found["index"]["state"]
            if state == "ready":
                return found
            if state == "failed":
                raise BuildFailed(f"the index of {self.name} cannot be built: {found['index']['reason']}")
            if time.monotonic() >= until:
                raise TimeoutError(f"{self.name} is not ready after {timeout_s:g} s")

    def change(self, /, **settings: Any) -> dict[str, Any]:
        """Changes what can change without a build: `recall`."""
        return self._json("PATCH", "", settings)

    def rebuild(self, /, kind: str, **params: int) -> dict[str, Any]:
        """Builds another index in the background, while the old one serves."""
        return self._json("PUT", "/index", {"kind": kind, **params})

    def drop(self) -> None:
        """Deletes the collection with all it holds."""
        self._json("DELETE", "")

    # -- writing

    def add(
        self, vectors: Vectors, ids: Iterable[Id] | None = None, metadata: Metadata | None = None
    ) -> dict[str, Any]:
        """Adds vectors, of any number, in requests of a bounded size; → `count`, and where the server assigned ids,
        `first_id` of the first request. An id that exists refuses the request that it is in, and ends the adding.

        vectors: as `Vectors`, or an iterator of rows; then ids and metadata may be iterators too. An array without
        metadata, and with no ids or a run of them, travels as `.npy`: by far the fastest. Nothing is added twice by
        being sent again.
        """
        return self._write("POST", vectors, ids, metadata)

    def upsert(self, vectors: Vectors, ids: Iterable[Id], metadata: Metadata | None = None) -> dict[str, Any]:
        """As `add`; items with the same ids are replaced, with their metadata."""
        return self._write("PUT", vectors, ids, metadata)

    def _write(
        self, method: str, vectors: Vectors, ids: Iterable[Id] | None, metadata: Metadata | None
    ) -> dict[str, Any]:
        told: dict[str, Any] = {"count": 0}
        for batch in _batches(plain(vectors), ids if ids is None else plain(ids), metadata):
            answer = self._write_one(method, batch)
            told = {**answer, **told, "count": told["count"] + answer["count"]}
        return told

    def _write_one(self, method: str, batch: Batch) -> dict[str, Any]:
        headers = _new_key()
        vectors, ids, metadata = batch
        if is_array(vectors) and metadata is None and (ids is None or is_run(ids)):
            query = "" if ids is None or not len(ids) else f"?first_id={int(ids[0])}"
            return self._npy(method, f"/vectors{query}", vectors, headers)
        columns: dict[str, Any] = {"vectors": listed(vectors)}
        if ids is not None:
            columns["ids"] = listed(ids)
        if metadata is not None:
            columns["metadata"] = metadata
        try:
            return self._json(method, "/vectors", columns, headers)
        except TooLarge:
            n = len(columns["vectors"])
            if n < 2:
                raise
            halves = (batch_of(batch, slice(0, n // 2)), batch_of(batch, slice(n // 2, n)))
            first, second = (self._write_one(method, half) for half in halves)
            return {**first, "count": first["count"] + second["count"]}

    def delete(self, /, ids: Iterable[Id] | None = None, filter: Filter | None = None, **options: Any) -> int:
        """Deletes items by id (those that are not there are passed over) or by filter: give one of them. → how many.

        options: `dry_run` only counts; `all`, which a filter that every item matches wants."""
        return self._many("delete", ids, filter, options, "deleted")

    def patch(
        self,
        /,
        metadata: Mapping[str, Any],
        ids: Iterable[Id] | None = None,
        filter: Filter | None = None,
        **options: Any,
    ) -> int:
        """Merges `metadata` into that of items chosen as in `delete`; a field given as None is removed. → how many."""
        return self._many("patch", ids, filter, {"metadata": dict(metadata), **options}, "patched")

    def _many(self, what: str, ids: Iterable[Id] | None, filter: Filter | None, body: dict[str, Any], said: str) -> int:
        # Sent again after a lost connection it would find less to do, and answer a smaller number: hence the key.
        if ids is None:
            body = body if filter is None else {**body, "filter": dict(filter)}
            return int(self._json("POST", f"/vectors/{what}", body, _new_key())[said])
        count = 0
        for part in _parts(listed(ids), FETCH):
            both = {} if filter is None else {"filter": dict(filter)}
            count += int(self._json("POST", f"/vectors/{what}", {**body, **both, "ids": part}, _new_key())[said])
        return count

    def copy_from(self, other: "str | Collection", mode: str = "add") -> dict[str, Any]:
        """Adds all items of another collection of the server, which never leave it."""
        name = other if isinstance(other, str) else other.name
        return self._json("POST", "/copy", {"from": name, "mode": mode}, _new_key())

    def truncate(self, rows: int) -> int:
        """Keeps only the first rows in the order in which they were stored. → how many were deleted."""
        return int(self._json("POST", "/truncate", {"rows": rows})["deleted"])

    # -- reading

    def count(self, filter: Filter | None = None) -> int:
        """How many items there are, or how many of them match."""
        return int(self._json("POST", "/count", {} if filter is None else {"filter": dict(filter)})["count"])

    def fetch(self, ids: Iterable[Id], include: Sequence[str] | None = None) -> Items:
        """Stored items by id, of any number, in the order asked. include: of "vector" and "metadata"; default both."""
        items, missing = [], []
        more = {} if include is None else {"include": list(include)}
        for part in _parts(listed(ids), FETCH):
            answer = self._json("POST", "/vectors/fetch", {"ids": part, **more})
            items += answer["items"]
            missing += answer["missing"]
        return Items(items, missing)

    def page(
        self, cursor: str | None = None, filter: Filter | None = None, include: Sequence[str] = ("metadata",)
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The next items in the order in which they were stored, and the cursor of those behind; None at the end."""
        body: dict[str, Any] = {"limit": PAGE, "include": list(include)}
        if cursor is not None:
            body["cursor"] = cursor
        if filter is not None:
            body["filter"] = dict(filter)
        answer = self._json("POST", "/vectors/list", body)
        return answer["items"], answer["next"]

    def items(self, filter: Filter | None = None, include: Sequence[str] = ("metadata",)) -> Iterator[dict[str, Any]]:
        """All items, page by page. One that is not touched meanwhile comes exactly once."""
        cursor: str | None = None
        while True:
            found, cursor = self.page(cursor, filter, include)
            yield from found
            if cursor is None:
                return

    def search(
        self,
        /,
        queries: Vectors = None,
        k: int = 10,
        *,
        id: Id | None = None,
        recall: float | None = None,
        filter: Filter | None = None,
        **options: Any,
    ) -> Results:
        """The k nearest of one vector, of each of several (any number), or of a stored item, itself left out.

        recall: share of the true k nearest to find, on average (1: all; default: the collection's); options: as in the
        API: `exact`, `params`, `max_distance`, `include`, `explain`, `timeout_ms`."""
        asked: dict[str, Any] = {"k": k, **options}
        if recall is not None:
            asked["recall"] = recall
        if filter is not None:
            asked["filter"] = dict(filter)
        if id is not None:
            return Results([self._json("POST", "/search", {"id": id, **asked})])
        if isinstance(queries, Mapping):  # one sparse vector
            return Results([self._json("POST", "/search", {"vector": queries, **asked})])
        queries = plain(queries)
        if is_array(queries) and queries.dtype.kind == "f":
            matrix = queries.reshape(1, -1) if queries.ndim == 1 else queries
            if len(json.dumps(asked.get("filter"))) <= LONGEST_FILTER:
                path = "/search?" + urlencode({name: _in_query(value) for name, value in asked.items()})
                return Results([self._npy("POST", path, part) for part in _parts(matrix, _at_once(k))])
        vectors = listed(queries)
        if _is_one(vectors):
            return Results([self._json("POST", "/search", {"vector": vectors, **asked})])
        return Results(
            [self._json("POST", "/search", {"vectors": part, **asked}) for part in _parts(vectors, _at_once(k))]
        )

    def neighbors(self, id: Id, k: int = 10, filter: Filter | None = None) -> Results:
        """The k nearest of a stored item among those that match, itself left out."""
        return self.search(None, k, id=id, filter=filter)

    # -- recall

    def recall(
        self,
        /,
        queries: Vectors = None,
        k: int | Sequence[int] = 10,
        recall: float | Sequence[float] | None = None,
        truth: Sequence[Sequence[Id]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """What searches find of the true nearest, and how long they take: `rows`, one for each k and recall.

        queries: default: real ones of late, or stored vectors; truth: ids of the nearest of each query, nearest first
        (default: what the exact search finds). options: as in the API: `sample`, `filter`, `calibrate`. It may take a
        minute over many vectors: give the client a `timeout_s` to match."""
        body: dict[str, Any] = {"k": k if isinstance(k, int) else list(k), **options}
        if recall is not None:
            body["recall"] = recall if isinstance(recall, int | float) else list(recall)
        if queries is not None:
            body["queries"] = listed(queries)
        if truth is not None:
            body["truth"] = [listed(ids) for ids in truth]
        return self._json("POST", "/recall", body)

    def calibration(self) -> dict[str, Any]:
        """What each index finds at what cost, by k, and what was last measured with real queries."""
        return self._json("GET", "/recall")

    # -- files

    def import_file(self, /, *files: str | Path, **query: Any) -> dict[str, Any]:
        """Imports files of one kind, or a folder, whole or not at all; ids and metadata are looked for beside a single
        file. query: as in the API: `format`, `mode`, `bad`, `vectors`, `ids`, `metadata`, `dtype`, `shape`, `append`.
        → `imported`, `rejected`, …"""
        return import_files(self._exchange, self._path, [Path(file) for file in files], query)

    def export_file(self, /, file: str | Path, **query: Any) -> None:
        """Writes all items to a file, which is there whole or not at all. query: as in the API: `format` (default: by
        the file's name), `compression`, `sidecars`."""
        export_file(self._exchange, self._path, self.name, Path(file), query)

    # -- HTTP

    def _json(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer: dict[str, Any] = self._exchange.json(method, self._path + path, body, headers or {})
        return answer

    def _npy(self, method: str, path: str, array: Any, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            self._exchange.send(method, self._path + path, npy(array), NPY, headers or {})
        )
        return answer


def collection_path(name: str) -> str:
    return "/v1/collections/" + quote(name, safe="")


def batch_of(batch: Batch, rows: slice) -> Batch:
    return Batch(*(None if part is None else part[rows] for part in batch))


def _batches(vectors: Any, ids: Any, metadata: Metadata | None) -> Iterator[Batch]:
    """All rows, so many at a time as make a request of a bounded size. Nothing at all is one empty request."""
    if not hasattr(vectors, "__len__") and not hasattr(vectors, "shape"):
        yield from _streamed(iter(vectors), ids, metadata)
        return
    n = vectors.shape[0] if hasattr(vectors, "shape") else len(vectors)
    if is_array(vectors) and vectors.ndim == 1:
        n, vectors = 1, vectors.reshape(1, -1)
    quick = is_array(vectors) and metadata is None and (ids is None or is_run(ids))
    rows = _rows_a_request(vectors, quick)
    ids = ids if ids is None or hasattr(ids, "__getitem__") else list(ids)
    listed_metadata = None if metadata is None else list(metadata)
    for what, given in (("ids", ids), ("metadata", listed_metadata)):
        if given is not None and len(given) != n:
            raise ValueError(f"{len(given)} {what} for {n} vectors")
    for start in range(0, max(n, 1), rows):
        yield batch_of(Batch(vectors, ids, listed_metadata), slice(start, start + rows))


def _streamed(vectors: Iterator[Any], ids: Any, metadata: Metadata | None) -> Iterator[Batch]:
    ids = None if ids is None else iter(ids)
    more = None if metadata is None else iter(metadata)
    while rows := list(itertools.islice(vectors, STREAMED_ROWS)):
        n = len(rows)
        yield Batch(
            [listed(row) for row in rows],
            None if ids is None else list(itertools.islice(ids, n)),
            None if more is None else list(itertools.islice(more, n)),
        )


def _rows_a_request(vectors: Any, quick: bool) -> int:
    if quick:
        return max(1, min(WRITE_ROWS, WRITE_BYTES // max(1, int(vectors[:1].nbytes))))
    # In JSON a float32 takes some 12 characters, a float of Python's 20.
    if is_array(vectors):
        row_bytes = 3 * int(vectors[:1].nbytes)
    elif hasattr(vectors, "indptr"):
        row_bytes = 40 * int(vectors.indptr[-1]) // max(1, vectors.shape[0])
    else:
        row_bytes = 20 * max((len(row) for row in vectors[:1] if hasattr(row, "__len__")), default=1)
    return max(1, min(JSON_ROWS, WRITE_BYTES // max(1, row_bytes)))


def _parts(rows: Any, at_once: int) -> Iterator[Any]:
    """Nothing at all is one empty part: the server says what is wrong with it."""
    for start in range(0, max(len(rows), 1), at_once):
        yield rows[start : start + at_once]


def _at_once(k: int) -> int:
    return max(1, min(QUERIES, QUERY_HITS // max(1, k)))


def _is_one(vectors: list[Any]) -> bool:
    """Whether it is one vector: of numbers, not of rows."""
    return bool(vectors) and not isinstance(vectors[0], list | tuple | dict)


def _in_query(value: Any) -> str:
    if isinstance(value, str):
        return value
    return ",".join(value) if isinstance(value, list | tuple) else json.dumps(value)


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}
