"""A collection's settings: as asked for, as stored, and whether the two agree."""

import json
from dataclasses import asdict, replace

from app.engine import errors, policy
from app.engine.errors import Fault
from app.engine.policy import Grounds
from app.engine.types import DIMENSION_MAX, CollectionSettings, IndexSpec
from index.memory import TooLittleMemory
from index.parameters import check_params
from storage import catalogue


def from_stored(stored: catalogue.Settings) -> CollectionSettings:
    return CollectionSettings(
        dimension=stored.dimension,
        metric=stored.metric,  # type: ignore[arg-type]
        dtype=stored.dtype,  # type: ignore[arg-type]
        id_type=stored.id_type,  # type: ignore[arg-type]
        index=IndexSpec(**stored.index_spec),
        recall=stored.recall,
        sparse=stored.sparse,
    )


def to_store(wanted: CollectionSettings) -> catalogue.Settings:
    return catalogue.Settings(
        wanted.dimension,
        wanted.metric,
        wanted.dtype,
        wanted.id_type,
        wanted.recall,
        asdict(wanted.index),
        catalogue.now(),
        wanted.sparse,
    )


def refuse_params(spec: IndexSpec, prefix: str) -> None:
    """Before anything is stored: a builder that meets them later could only fail. prefix: of the fields' names."""
    faults = [Fault(prefix + name, message) for name, message in check_params(spec.kind, spec.params)]
    if faults:
        raise errors.OutOfRange(f"{faults[0].where}: {faults[0].message}", faults)


def refuse_for_sparse(wanted: CollectionSettings) -> None:
    """What a sparse collection cannot be; and what only such a one can."""
    if not wanted.sparse:
        if wanted.dimension > DIMENSION_MAX:
            message = f"above {DIMENSION_MAX} only where the collection is sparse"
            raise errors.OutOfRange(f"dimension: {message}", [Fault("dimension", message)])
        return
    if wanted.metric == "l2":
        message = "sparse vectors are compared by dot or cosine alone"
        raise errors.Invalid(f"metric: {message}", [Fault("metric", message)])
    refuse_index(wanted.index, "index.")


def refuse_index(spec: IndexSpec, prefix: str) -> None:
    """Of a sparse collection. prefix: of the fields' names."""
    if spec.kind not in ("auto", "flat"):
        message = "no index is built for sparse vectors, which are searched exactly: choose auto or flat"
        raise errors.Invalid(f"{prefix}kind: {message}", [Fault(f"{prefix}kind", message)])


def refuse_misfit(spec: IndexSpec, settings: catalogue.Settings, live: int, grounds: Grounds) -> None:
    """What `refuse_params` cannot know: whether such an index can be had for the rows that are there."""
    if settings.sparse:
        refuse_index(spec, "")
        return
    lists = spec.params.get("nlist", 0)
    if lists > live > 0:
        message = f"{lists} lists are more than the {live} rows there are: choose fewer, or leave it to the rows"
        raise errors.OutOfRange(f"nlist: {message}", [Fault("nlist", message)])
    row_bytes = settings.dimension * settings.vector_dtype.itemsize
    rows = min(live, policy.MAX_SEGMENT_BYTES // row_bytes)
    lack = _lack(spec, settings, rows, grounds)
    if lack is None:
        return
    others = [kind for kind in ("ivf", "hnsw") if _lack(IndexSpec(kind), settings, rows, grounds) is None]
    fitting = f"kind {others[0]} would fit" if others else "none would fit: kind flat, searched exactly, takes none"
    raise errors.InsufficientMemory(
        f"an index of kind {spec.kind} for {rows} rows is not built: {lack}. Of the other kinds {fitting}; "
        "--memory-bytes sets what there is. Nothing was changed"
    )


def _lack(spec: IndexSpec, settings: catalogue.Settings, rows: int, grounds: Grounds) -> TooLittleMemory | None:
    try:
        policy.wanted(replace(settings, index_spec=asdict(spec)), rows, grounds)
    except TooLittleMemory as e:
        return e
    return None


def refuse_difference(name: str, there: CollectionSettings, wanted: CollectionSettings) -> None:
    """Creating again agrees or is refused. `id_type` "auto" agrees with what the first write made of it."""
    faults = []
    for field in ("dimension", "sparse", "metric", "dtype", "id_type", "index", "recall"):
        have, want = getattr(there, field), getattr(wanted, field)
        if field == "id_type" and want == "auto":
            continue
        if have != want:
            faults.append(Fault(field, f"is {_shown(have)}, the request says {_shown(want)}"))
    if faults:
        fields = ", ".join(f.where for f in faults)
        raise errors.SettingsDiffer(f"collection {name} exists with another {fields}: nothing was changed", faults)


def _shown(value: object) -> str:
    """As the client would write it."""
    return json.dumps({"kind": value.kind, **value.params} if isinstance(value, IndexSpec) else value)
