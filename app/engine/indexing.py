"""The index file of a segment: written, synced and named, and in no catalogue yet.

What comes of a merge gets an index grown from that of its largest input, so that adding a tenth never builds the other
nine again; what cannot be grown is built anew.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.engine import policy
from app.engine.background import Worked
from app.engine.calibrating import queries_for
from app.engine.merging import Rows
from app.engine.policy import Grounds, Spec
from app.engine.segments import OpenSegment, open_one
from app.engine.verifying import is_sound
from index.build import Base, build, extendable
from index.contract import IndexFileError, Vectors
from index.load import load
from index.memory import Budget
from storage import atomic
from storage.catalogue import IndexRow, SegmentRow, Settings, State
from storage.failpoints import declare, hit
from storage.hashing import file_xxh3, hex16
from storage.layout import SEGMENTS_NAME, index_name

log = logging.getLogger(__name__)
WRITE = declare("index.write")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built. recall: what its kind and parameters were chosen for; base: to be extended."""

    spec: Spec
    recall: float
    base: Base | None = None


def order_anew(settings: Settings, rows: int, grounds: Grounds) -> Order | None:
    """None: a segment of so many rows is searched exactly. Raises TooLittleMemory."""
    spec = policy.wanted(settings, rows, grounds)
    return None if spec is None else Order(spec, settings.recall)


def order_grown(
    folder: Path, settings: Settings, state: State, inputs: list[OpenSegment], rows: Rows, grounds: Grounds
) -> Order | None:
    """As `order_anew`, for what is merged of the inputs. folder: the collection's."""
    number = int(np.argmax([segment.row.rows for segment in inputs]))
    largest, new = inputs[number], len(rows.keys)
    have = largest.row.index
    if have is not None:
        spec = policy.wanted_to_grow(settings, state, new, grounds, have)
        places = _places(rows, number, largest.row.rows)
        kept = int(np.count_nonzero(places >= 0))
        if spec is not None and extendable(have.meta, spec, kept, new - kept):
            base = _base(folder, largest, have, places)
            if base is not None:
                return Order(spec, have.meta.get("recall", settings.recall), base)
    return order_anew(settings, new, grounds)


def _places(rows: Rows, number: int, old_rows: int) -> NDArray[np.int64]:
    """Where the rows of one input are in the output, (old rows,); -1: dropped."""
    places = np.full(old_rows, -1, np.int64)
    here = np.flatnonzero(rows.sources == number)
    places[rows.rows[here]] = here
    return places


def _base(folder: Path, segment: OpenSegment, have: IndexRow, places: NDArray[np.int64]) -> Base | None:
    """None: its file is not what was written. The damage would be sealed in under a new checksum."""
    path = folder / SEGMENTS_NAME / have.file
    assert isinstance(segment.vectors, Vectors)
    if not is_sound(folder, have):
        log.warning("index %s is damaged or gone: it is not extended but built anew", have.file)
        return None
    try:
        return Base(load(path, have.meta, segment.vectors), path, have.meta, places)
    except (IndexFileError, OSError) as e:
        log.warning("index %s cannot be opened, it is not extended but built anew: %s", have.file, e)
        return None


def write_index(
    worked: Worked,
    segment: SegmentRow,
    order: Order,
    state: State,
    grounds: Grounds,
    threads: int,
    progress: Callable[[float], None],
) -> IndexRow:
    """Raises OSError, Cancelled, Rejected, TooLittleMemory; then no file is left."""
    folder = worked.folder / SEGMENTS_NAME
    final = folder / index_name(segment.file, order.spec[0])
    tmp = atomic.temporary(final)
    vectors = open_one(worked.folder, segment).vectors
    assert isinstance(vectors, Vectors), "no index is wanted of a sparse segment: `policy.wanted`"
    given = queries_for(worked.reader)
    hit(WRITE)
    meta = build(
        vectors,
        order.spec,
        tmp,
        recall=order.recall,
        threads=threads,
        queries=None if given is None else given.vectors,
        base=order.base,
        memory=Budget(grounds.memory_bytes, grounds.workers).for_indexes,
        progress=progress,
    )
    grown = meta["built_rows"] != meta["rows"]
    log.info(
        "collection %s: index %s of %d rows, %s",
        worked.name,
        order.spec[0],
        segment.rows,
        f"extended by {segment.rows - _kept(order)}" if grown else "built anew",
    )
    # Grown from what was built for another recall, it is still that: `policy.is_outdated` asks.
    meta |= {"recall": order.recall, "queries_seq": state.queries_seq if given is None else given.seq}
    size, digest = file_xxh3(tmp)
    atomic.publish(tmp, final, "index")
    return IndexRow(segment.seq, final.name, order.spec[0], state.spec_seq, size, hex16(digest), meta)


def _kept(order: Order) -> int:
    return 0 if order.base is None else int(np.count_nonzero(order.base.rows >= 0))
