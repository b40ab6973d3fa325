"""The expert's override of a search: whether anything in a collection takes the parameters that a client gives."""

from collections.abc import Mapping
from typing import cast

from app.engine import errors
from app.engine.errors import Fault
from app.engine.types import Metric
from app.engine.view import View
from index.build import resolve
from index.parameters import SEARCH_PARAMETERS, check_search_params

Params = Mapping[str, int]
"""Of a search, by the names of one kind of index."""


def takes(kind: str, params: Params) -> bool:
    """Whether an index of that kind can be searched with them."""
    return params.keys() <= {parameter.name for parameter in SEARCH_PARAMETERS[kind]}


def refuse(view: View, params: Params) -> None:
    """Nothing that a client sends is ignored: params are for the indexes that are there, or else for those to come.

    By what the catalogue names, not by what is open here: every worker says the same. Raises Invalid (a name that is
    not known, or of another kind of index), OutOfRange.
    """
    if not params:
        raise _refusal(errors.Invalid, "params", "is empty: give search parameters, or leave it out")
    kinds = _kinds(view)
    if not kinds:
        advice = "leave params out, or build an index: PUT …/index"
        raise _refusal(errors.Invalid, "params", f"the collection is searched exactly (kind flat): {advice}")
    found = [Fault(f"params.{name}", message) for name, message in check_search_params(kinds, params)]
    if found:
        known = {parameter.name for kind in kinds for parameter in SEARCH_PARAMETERS[kind]}
        refused = errors.OutOfRange if params.keys() <= known else errors.Invalid
        raise refused(f"{found[0].where}: {found[0].message}", found)
    if not any(takes(kind, params) for kind in kinds):
        raise _refusal(errors.Invalid, "params", f"{' and '.join(params)} are of different kinds of index: give one's")
    lists = _most_lists(view)
    if lists is not None and params.get("nprobe", 0) > lists:
        raise _refusal(errors.OutOfRange, "params.nprobe", f"lists greater than there are: the index has {lists}")


def _refusal(kind: type[errors.Invalid], where: str, message: str) -> errors.Invalid:
    return kind(f"{where}: {message}", [Fault(where, message)])


def _kinds(view: View) -> set[str]:
    there = {part.segment.row.index.kind for part in view.parts if part.segment.row.index is not None}
    return there or _to_come(view)


def _to_come(view: View) -> set[str]:
    settings = view.settings
    kind = settings.index_spec["kind"]
    if kind == "auto":
        metric = cast(Metric, settings.metric)
        kind = resolve("auto", {}, view.state.live, settings.dimension, metric, settings.recall)[0]
    return {kind} - {"flat"}


def _most_lists(view: View) -> int | None:
    """Smaller segments have fewer: there nprobe means all of them. None: there is no index with lists yet."""
    indexes = (part.segment.row.index for part in view.parts)
    return max((int(i.meta["params"]["nlist"]) for i in indexes if i is not None and i.kind == "ivf"), default=None)
