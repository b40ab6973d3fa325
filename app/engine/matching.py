"""Which rows of a view match a filter: one bitmap a part, made from columns and kept for the next to ask the same."""

from dataclasses import dataclass

import numpy as np

from app.engine.segments import Part
from app.engine.view import View
from index.contract import Alive
from seedvec.filters.ast import Filter
from seedvec.filters.row import compile_row
from storage.catalogue import SegmentRow
from storage.columns import ColumnsFileError

_EVERYTHING = "everything"


class Undescribed(Exception):
    """The metadata of some rows is not known in this worker yet."""


class Unusable(Exception):
    """A segment's columns turned out to be damaged when they were asked."""

    def __init__(self, segment: SegmentRow, why: ColumnsFileError) -> None:
        super().__init__(str(why))
        self.segment = segment


@dataclass(frozen=True, slots=True)
class Matching:
    """The live rows of a view that a filter leaves. parts, pending: None where that is every row there is.

    filter: None where it holds for all, so that nothing has to be asked of a row.
    """

    filter: Filter | None
    parts: tuple[Alive | None, ...]
    pending: Alive | None
    count: int

    @property
    def key(self) -> str | None:
        return None if self.filter is None else self.filter.key


def matching(view: View, filter: Filter | None) -> Matching:
    """Raises Undescribed, Unusable."""
    if filter is None or filter.matches_all:
        return _everything(view)
    if not view.has_metadata:
        return _everything(view) if compile_row(filter)({}) else _nothing(view, filter)
    if not is_described(view):
        raise Undescribed
    parts = tuple(_of_part(part, filter) for part in view.parts)
    pending = view.pending.matching(filter)
    return Matching(filter, parts, pending, sum(part.count for part in parts) + pending.count)


def _of_part(part: Part, filter: Filter) -> Alive:
    try:
        return part.matching(filter)
    except ColumnsFileError as e:
        raise Unusable(part.segment.row, e) from e


def _everything(view: View) -> Matching:
    """Made once a view: most searches have no filter."""
    made: Matching | None = view.plans.get(_EVERYTHING)
    if made is None:
        parts = tuple(part.alive for part in view.parts)
        made = view.plans[_EVERYTHING] = Matching(None, parts, view.pending.alive, view.state.live)
    return made


def is_kept(view: View, filter: Filter) -> bool:
    """Whether `matching` has little to do: the same was asked lately."""
    return all(part.kept.get(filter) is not None for part in view.parts)


def is_described(view: View) -> bool:
    return view.pending.documents is not None and all(part.fields is not None for part in view.parts)


def _nothing(view: View, filter: Filter) -> Matching:
    nobody = (Alive.of(np.zeros(part.segment.row.rows, bool)) for part in view.parts)
    return Matching(filter, tuple(nobody), Alive.of(np.zeros(len(view.pending.keys), bool)), 0)
