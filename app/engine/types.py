"""What passes between `app/api` and `app/engine`: plain values, no HTTP, no files.

What every search makes is a NamedTuple: at half the price of a frozen dataclass, six of those were 4 µs of 100.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seedvec.filters.ast import Filter
from seedvec.sparse import SparseRows

Id = int | str
Vectors = NDArray[Any] | SparseRows
"""n of them: a matrix (n, d), or sparse, as the collection is."""
Metric = Literal["l2", "cosine", "dot"]
Dtype = Literal["float32", "float16"]
IdType = Literal["auto", "int", "str"]
IndexKind = Literal["auto", "flat", "hnsw", "ivf"]
CalibratedOn = Literal["data", "queries"]
DIMENSION_MAX = 65_536
SPARSE_DIMENSION_MAX = 2**31 - 1
"""Where a sparse vector has no number costs nothing; its places are 32-bit integers."""
DEFAULT_RECALL = 0.95
EXACTLY = 1.0
"""The recall that only the exact search has."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """What index a collection wants: a kind, and the parameters given by name (`m`, `nlist`, …)."""

    kind: IndexKind = "auto"
    params: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """As created, but for `id_type`, which the first write fixes, and `recall` and `index`, which can change."""

    dimension: int
    metric: Metric = "cosine"
    dtype: Dtype = "float32"
    id_type: IdType = "auto"
    index: IndexSpec = IndexSpec()
    recall: float = DEFAULT_RECALL
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """A decoded add or upsert, not yet checked against the collection.

    vectors: (n, d) float16, float32 or float64, any n ≥ 1, or sparse: places of any integer type in any order;
    ids: n of them, or None: the server assigns;
    metadata: n JSON objects as UTF-8 bytes (None: no metadata), or None.
    place says how an error names row i: "items" → `items[i].vector`, "columns" → `vectors[i]`, "npy" → `row i`.
    """

    vectors: Vectors
    ids: list[int] | list[str] | NDArray[np.int64] | None = None
    metadata: list[bytes | None] | None = None
    place: Literal["items", "columns", "npy"] = "items"


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The client's `Idempotency-Key` and the xxh3 of operation, path and body."""

    key: str
    request: str


@dataclass(frozen=True, slots=True)
class Written:
    """Answer of add and upsert. first_id: first of the run of assigned ids (None where the client gave them)."""

    count: int
    first_id: Id | None = None


class Items(NamedTuple):
    """Stored items in the order asked. vectors: n in the collection's dtype; metadata: JSON objects as UTF-8."""

    ids: list[Any]
    vectors: Vectors | None = None
    metadata: list[bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    items: Items
    next: str | None


class Hits(NamedTuple):
    """The n hits of q queries, one query after the other, each query's nearest first.

    items: n; distances: (n,) float32, as the contract defines them; starts: q + 1 numbers, query i has the hits from
    starts[i] up to starts[i + 1]."""

    items: Items
    distances: NDArray[np.float32]
    starts: list[int]


Include = frozenset[str]
"""Of "metadata" and "vector"."""


@dataclass(frozen=True, slots=True)
class RecallAsked:
    """What recall is to be measured of. ks, recalls: every pair is a row of the answer; no recalls: the collection's.

    queries: (q, d) as decoded, or None: `sample` of the queries that were kept, or of stored rows; truth: ids of the
    nearest of each query, nearest first, each once; calibrate: on these queries from then on; place: how an error names
    query i.
    """

    ks: tuple[int, ...]
    recalls: tuple[float, ...] = ()
    queries: Vectors | None = None
    sample: int = 0
    truth: list[list[Id]] | None = None
    filter: Filter | None = None
    calibrate: bool = False
    place: str = "queries[{}]"


@dataclass(frozen=True, slots=True)
class RecallRow:
    """What searches for k at the requested recall found. measured: mean of the queries' recall, interval: its 95 %,
    p10_recall: the tenth part of the queries found less; times in ms, of one search at a time, HTTP aside; exact: every
    row was compared; queries: how many were searched."""

    k: int
    requested: float
    measured: float
    interval: tuple[float, float]
    p10_recall: float
    expected_recall: float | None
    exact: bool
    p50_ms: float
    p95_ms: float
    p99_ms: float
    exact_p50_ms: float
    queries: int


@dataclass(frozen=True, slots=True)
class RecallAnswer:
    """on: the client's own queries, a sample of real ones, or stored rows, each left out of its own answer.
    calibrating_on: how many queries were stored to calibrate on."""

    rows: list[RecallRow]
    on: Literal["given", "queries", "data"]
    calibrating_on: int | None = None


class Asked(NamedTuple):
    """What a search wants besides its queries.

    recall: share of the true k nearest, on average (`EXACTLY`: all of them); None: what the collection promises.
    params: the expert's search parameters, by the index kind's names, instead of those that a recall asks for.
    max_distance: inclusive, trims what was found. explain: say also how it was found.
    deadline: by `time.monotonic`; past it nothing is begun any more, and DeadlineExceeded raised.
    """

    k: int
    recall: float | None = None
    params: Mapping[str, int] | None = None
    max_distance: float | None = None
    include: Include = frozenset({"metadata"})
    filter: Filter | None = None
    explain: bool = False
    deadline: float = math.inf


class SearchAnswer(NamedTuple):
    """expected_recall: mean recall@k of queries like those calibrated on; None: not measured for this search.
    calibrated_on: None where the answer is exact. explain: JSON-ready, where that was asked for. stages: seconds, in
    the order of `app.metrics.ours.STAGES`."""

    hits: Hits
    exact: bool
    expected_recall: float | None
    calibrated_on: CalibratedOn | None
    explain: dict[str, Any] | None = None
    stages: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportAsked:
    """How a file is to be imported. format: of `storage/files/formats.py`, None: by its name, or how it begins.

    vectors, ids, metadata: keys, dataset paths or columns in it; dtype, shape: of raw numbers; flatten: items of
    several dimensions are taken as one vector; append: a file without ids may go into a collection that is not empty;
    once: its request is the hash of all of the request but its body."""

    format: str | None = None
    mode: Literal["add", "upsert"] = "add"
    bad: Literal["fail", "skip"] = "fail"
    vectors: str | None = None
    ids: str | None = None
    metadata: str | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    flatten: bool = False
    append: bool = False
    once: Idempotency | None = None


class Upload(NamedTuple):
    """One file of an import on its way in. part: what it is; name: as the client calls it, empty where it does not."""

    part: Literal["vectors", "ids", "metadata"]
    name: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class ExportAsked:
    """format: of `storage/files/formats.py`; compression: one that it offers; sidecars: what the format cannot hold of
    ids and metadata goes into files beside it."""

    format: str = "npy"
    compression: str | None = None
    sidecars: bool = True


class Exported(NamedTuple):
    """A file on its way out. name: with its ending; size: in bytes, where it is known before the end."""

    name: str
    size: int | None
    chunks: AsyncGenerator[bytes, None]


class CollectionFigures(NamedTuple):
    """What is watched of a collection; a closed one has a name and a state alone.

    pending: rows not sealed or without the index that they are to have; progress: of the job being done, 0 to 1;
    promised, measured: recall@10, that of real queries where there were enough."""

    name: str
    state: str
    rows: int = 0
    pending: int = 0
    indexed: int = 0
    segments: int = 0
    bytes: int = 0
    progress: float | None = None
    promised: float = 0.0
    measured: float | None = None


class Figures(NamedTuple):
    """disk_free: bytes left where the data lies."""

    collections: list[CollectionFigures]
    disk_free: int


class Snapshots(Protocol):
    """Every coroutine may raise SnapshotNotFound, NameTaken, BadSnapshot and Unavailable's family. A snapshot is
    described as `GET /v1/snapshots/{s}` answers it, JSON-ready."""

    async def all(self) -> list[dict[str, Any]]: ...
    async def describe(self, name: str) -> dict[str, Any]: ...
    async def delete(self, name: str) -> None: ...
    async def download(self, name: str) -> tuple[int, AsyncIterator[bytes]]:
        """Its length in bytes, and the tar itself; it ends early where a file cannot be read."""
        ...

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> dict[str, Any]:
        """The tar becomes a snapshot once all of it has been found whole and sound. Returns its description."""
        ...

    async def restore(self, name: str, collections: list[str] | None, as_: str | None, replace: bool) -> dict[str, Any]:
        """Its collections, or those named, are served when it returns: all of them, or none. as_: the new name, of one
        alone; replace: may take the place of a collection. Raises Invalid too."""
        ...


class Engine(Protocol):
    """The engine's whole face to HTTP. Every coroutine may raise `errors.Refused`; names are checked by the caller."""

    @property
    def snapshots(self) -> Snapshots: ...

    def settings(self, name: str) -> CollectionSettings: ...
    def names(self) -> list[str]: ...
    def aliases(self) -> dict[str, str]:
        """Alias → collection. An alias is taken wherever the name of a collection is."""
        ...

    async def point_alias(self, alias: str, collection: str) -> bool:
        """True: the alias is new; False: it was switched, for every request that begins from now on. Raises NameTaken,
        CollectionNotFound."""
        ...

    async def remove_alias(self, alias: str) -> None:
        """Raises AliasNotFound."""
        ...

    async def take_snapshot(self, name: str, collections: list[str] | None) -> dict[str, Any]:
        """Of all collections named (None: of all), as they stand at one moment. Raises NameTaken, CollectionClosed."""
        ...

    def closed(self) -> dict[str, str]:
        """Collections that cannot be searched → why: found damaged at the start, or since."""
        ...

    async def create(self, name: str, settings: CollectionSettings) -> bool:
        """True: created; False: it was there with settings that agree. Raises SettingsDiffer naming the field."""
        ...

    async def drop(self, name: str) -> None: ...
    async def set_recall(self, name: str, recall: float) -> None: ...
    async def describe(self, name: str) -> dict[str, Any]:
        """The answer of `GET /v1/collections/{c}`, JSON-ready."""
        ...

    async def wait_ready(self, name: str, timeout_s: float) -> dict[str, Any]: ...
    async def rebuild_index(self, name: str, spec: IndexSpec) -> None: ...
    async def cancel_build(self, name: str) -> None: ...

    async def add(self, name: str, rows: Rows, idempotency: Idempotency | None = None) -> Written: ...
    async def upsert(self, name: str, rows: Rows) -> Written: ...
    async def patch(self, name: str, id: Id, metadata: bytes | None, vector: Vectors | None) -> None:
        """metadata: a JSON merge patch (RFC 7396), UTF-8, or None: unchanged; vector: one, or None: unchanged."""
        ...

    async def delete(
        self, name: str, ids: list[Any], dry_run: bool = False, idempotency: Idempotency | None = None
    ) -> int:
        """Number of items deleted (or that would be); ids that are not there are passed over."""
        ...

    async def delete_all(self, name: str, dry_run: bool = False, idempotency: Idempotency | None = None) -> int: ...
    async def delete_where(
        self, name: str, filter: Filter, dry_run: bool = False, idempotency: Idempotency | None = None
    ) -> int:
        """Deletes every item that matches, in one transaction, whatever their number. Returns how many did."""
        ...

    async def patch_many(
        self,
        name: str,
        ids: list[Any] | None,
        filter: Filter | None,
        metadata: bytes,
        dry_run: bool = False,
        idempotency: Idempotency | None = None,
    ) -> int:
        """Merges `metadata` (RFC 7396, UTF-8) into every item named or matching: exactly one of ids and filter.

        Returns their number; ids that are not there are passed over."""
        ...

    async def count(self, name: str, filter: Filter) -> int: ...

    async def fetch(self, name: str, ids: list[Any], include: Include) -> tuple[Items, list[Any]]:
        """Items found in the order asked, and the ids that are not there."""
        ...

    async def list(
        self, name: str, limit: int, cursor: str | None, include: Include, filter: Filter | None = None
    ) -> Page: ...
    async def search(self, name: str, queries: Vectors, asked: Asked) -> SearchAnswer:
        """queries: q as decoded; one `Hits` a query, in order. Raises Invalid's family for its `params` too."""
        ...

    async def search_id(self, name: str, id: Id, asked: Asked) -> SearchAnswer:
        """Neighbours of a stored item, itself left out."""
        ...

    async def measure_recall(self, name: str, asked: RecallAsked) -> RecallAnswer:
        """Raises Invalid's family, Conflict (nothing to measure), Unavailable (others are being measured)."""
        ...

    def calibration(self, name: str) -> dict[str, Any]:
        """The answer of `GET …/recall`, JSON-ready."""
        ...

    async def draw_calibration(self, name: str, format: Literal["svg", "png"]) -> bytes:
        """The same as a picture: recall against µs, a curve for each k. Raises Unavailable."""
        ...

    async def figures(self) -> Figures: ...

    def import_file(
        self, name: str, asked: ImportAsked, uploads: AsyncIterator[Upload], size: int | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Gives `{"rows": read so far, "of": all or None}` as it goes and the answer, JSON-ready, last. Nothing was
        imported where it raises, or is closed before: errors.Refused. size: bytes to come, where that is known."""
        ...

    def copy(
        self, name: str, source: str, mode: Literal["add", "upsert"], once: Idempotency | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """As `import_file`, of another collection's items as they stand now."""
        ...

    async def export(self, name: str, asked: ExportAsked) -> Exported:
        """All items as they stand now. Its chunks raise errors.Unavailable where it cannot be brought to its end."""
        ...

    async def truncate(self, name: str, rows: int) -> int:
        """Keeps the first so many items in key order. Returns how many were deleted."""
        ...
