"""The bodies and query strings of the hot routes, as msgspec structs: decoding checks them, the OpenAPI shows them.

UNSET is "not given": null stands for itself and is refused where a value is wanted.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from app.api.examples import FILTER, FILTER_TEXT
from app.api.limits import K_DEFAULT, K_MIN, LIST_DEFAULT, LIST_MIN, RECALL_MAX, RECALL_MIN, TIMEOUT_MS_MAX
from app.engine.types import SPARSE_DIMENSION_MAX, Id

Field = Literal["metadata", "vector"]
Place = Annotated[int, Meta(ge=0, le=SPARSE_DIMENSION_MAX - 1)]


class SparseVector(Struct, forbid_unknown_fields=True):
    """A vector of a sparse collection: its numbers that are not 0, and where they are, in any order, each place once.
    Values left out are ones."""

    indices: list[Place]
    values: list[float] | UnsetType = UNSET


Vector = list[float] | SparseVector
"""As the collection is: dense or sparse."""
K = Annotated[int, Meta(ge=K_MIN, description="how many neighbours")]
Limit = Annotated[int, Meta(ge=LIST_MIN, description="items of one page")]
FirstId = Annotated[int, Meta(ge=0, description="id of the first row; the rows after it count on from there")]
MaxDistance = Annotated[float, Meta(description="hits farther than this are left out")]
BodyFilter = Annotated[
    Raw, Meta(description="only items whose metadata matches", extra_json_schema={"type": "object"}, examples=[FILTER])
]
QueryFilter = Annotated[
    str,
    Meta(
        description="only items whose metadata matches: the JSON text of a filter, percent-encoded",
        examples=[FILTER_TEXT],
    ),
]
Recall = Annotated[
    float,
    Meta(
        ge=RECALL_MIN,
        le=RECALL_MAX,
        description="share of the true k nearest to be found, on average over queries like those calibrated on; "
        "1 is exact; default: the collection's",
    ),
]
Exact = Annotated[bool, Meta(description="the true nearest, whatever it costs")]
BodyParams = Annotated[
    dict[str, int],
    Meta(
        description="instead of a recall, the index's own search parameters: `ef_search` (hnsw; at least k is used), "
        "or `nprobe` and `rerank` (ivf)",
        examples=[{"ef_search": 64}, {"nprobe": 16, "rerank": 4}],
    ),
]
QueryParams = Annotated[
    str,
    Meta(
        description="instead of a recall, the index's own search parameters: the JSON text of an object, "
        "percent-encoded",
        examples=['{"ef_search": 64}'],
    ),
]
Timeout = Annotated[
    int,
    Meta(
        ge=1,
        le=TIMEOUT_MS_MAX,
        description="give up after so many milliseconds, and answer 504; default: the server's own bound",
    ),
]
Fields = Annotated[list[Field], Meta(description="what is answered of each item beside its id (and distance)")]
Cursor = Annotated[str | None, Meta(description="the `next` of the page before; left out: from the beginning")]
Explain = Annotated[bool, Meta(description="answer also how the hits were found")]


def _both() -> list[Field]:
    return ["metadata", "vector"]


def _metadata() -> list[Field]:
    return ["metadata"]


class Item(Struct, forbid_unknown_fields=True):
    vector: Vector
    id: Id | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


class WriteBody(Struct, forbid_unknown_fields=True):
    """Exactly one of `items` and `vectors`; `ids` and `metadata` go with `vectors`."""

    items: list[Item] | UnsetType = UNSET
    vectors: list[Vector] | UnsetType = UNSET
    ids: list[Id] | UnsetType = UNSET
    metadata: list[Raw] | UnsetType = UNSET


class WriteQuery(Struct, forbid_unknown_fields=True):
    first_id: FirstId | UnsetType = UNSET


class SearchBody(Struct, forbid_unknown_fields=True):
    """Exactly one of `vector`, `vectors` and `id`; at most one of `recall`, `exact` and `params`."""

    vector: Vector | UnsetType = UNSET
    vectors: list[Vector] | UnsetType = UNSET
    id: Id | UnsetType = UNSET
    k: K = K_DEFAULT
    recall: Recall | UnsetType = UNSET
    exact: Exact = False
    params: BodyParams | UnsetType = UNSET
    max_distance: MaxDistance | UnsetType = UNSET
    include: Fields | UnsetType = UNSET
    filter: BodyFilter | UnsetType = UNSET
    explain: Explain = False
    timeout_ms: Timeout | UnsetType = UNSET


class SearchQuery(Struct, forbid_unknown_fields=True):
    """At most one of `recall`, `exact` and `params`."""

    k: K = K_DEFAULT
    recall: Recall | UnsetType = UNSET
    exact: Exact = False
    params: QueryParams | UnsetType = UNSET
    max_distance: MaxDistance | UnsetType = UNSET
    include: Fields | UnsetType = UNSET
    filter: QueryFilter | UnsetType = UNSET
    explain: Explain = False
    timeout_ms: Timeout | UnsetType = UNSET


class FetchBody(Struct, forbid_unknown_fields=True):
    ids: list[Id]
    include: Fields = field(default_factory=_both)


class ListBody(Struct, forbid_unknown_fields=True):
    limit: Limit = LIST_DEFAULT
    cursor: Cursor = None
    include: Fields = field(default_factory=_metadata)
    filter: BodyFilter | UnsetType = UNSET


class ListQuery(Struct, forbid_unknown_fields=True):
    limit: Limit = LIST_DEFAULT
    cursor: Cursor = None
    include: Fields = field(default_factory=_metadata)
    filter: QueryFilter | UnsetType = UNSET


class CountBody(Struct, forbid_unknown_fields=True):
    """Without a filter every item counts."""

    filter: BodyFilter | UnsetType = UNSET


class DeleteBody(Struct, forbid_unknown_fields=True):
    """Exactly one of `ids` and `filter`; a filter that every item matches wants `all` besides."""

    ids: list[Id] | UnsetType = UNSET
    filter: BodyFilter | UnsetType = UNSET
    all: bool = False
    dry_run: bool = False


class PatchManyBody(Struct, forbid_unknown_fields=True):
    """Exactly one of `ids` and `filter`, as in delete. `metadata` is merged by RFC 7396: null removes a field."""

    metadata: Raw
    ids: list[Id] | UnsetType = UNSET
    filter: BodyFilter | UnsetType = UNSET
    all: bool = False
    dry_run: bool = False


class PatchBody(Struct, forbid_unknown_fields=True):
    """At least one of them. `metadata` is merged by RFC 7396: null removes a field."""

    metadata: Raw | UnsetType = UNSET
    vector: Vector | UnsetType = UNSET


class NoQuery(Struct, forbid_unknown_fields=True):
    """No query parameter is known."""
