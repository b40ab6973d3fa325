"""Recall as a client asks for it: measured on queries given, kept or stored, and what calibration says of it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.engine import errors, intake, reading
from app.engine.collection import Collection
from app.engine.errors import Fault
from app.engine.judging import Queries, Truth
from app.engine.matching import Matching
from app.engine.measuring import Pace, Stopped, measure, stored
from app.engine.places import Place, Places, locate
from app.engine.planning import SearchPlan, plan
from app.engine.types import Id, RecallAnswer, RecallAsked
from app.engine.view import View
from index.calibration import Calibration
from index.recalibration import FEWEST, distinct
from seedvec.sparse import SparseRows
from storage.queries import read_sample

MAX_WAITING = 4
IDS_AT_ONCE = 1_000
"""Looked up in one turn of the event loop: some milliseconds."""
T = TypeVar("T")


class Measuring:
    """The one thread of a worker that measures; others wait for it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "recall")
        self._wanted: set[Event] = set()

    async def run(self, act: Callable[[Pace], T]) -> T:
        """Raises Unavailable. Whoever is cancelled ends the work."""
        if len(self._wanted) > MAX_WAITING:
            raise errors.Unavailable(f"{len(self._wanted)} measurements of recall wait for each other: try again")
        stop = Event()
        self._wanted.add(stop)
        try:
            return await asyncio.wrap_future(self._pool.submit(act, Pace(stop)))
        except Stopped:
            raise errors.Unavailable("the server is stopping") from None
        finally:
            stop.set()
            self._wanted.discard(stop)

    def close(self) -> None:
        for stop in self._wanted:
            stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


async def measure_recall(c: Collection, asked: RecallAsked, measuring: Measuring) -> RecallAnswer:
    """On one view from beginning to end. Raises Invalid's family, Conflict, Unavailable."""
    if c.follower.sparse:
        raise errors.Conflict(
            f"collection {c.name} is sparse and always searched exactly: its recall is 1, there is nothing to measure"
        )
    await c.opened()  # what is measured should be what searches will find, not what they find until then
    keys = None if asked.truth is None else await _keys_of(c, asked.truth)
    # The keys may be of this very moment: the view must not be older.
    view, left = await reading.look(c, asked.filter, again=keys is not None)
    if not left.count:
        raise errors.Conflict(f"collection {c.name} holds no item that could be found: there is nothing to measure")
    truth = None
    if asked.truth is not None and keys is not None:
        _check_lengths(asked.truth, min(max(asked.ks), left.count))
        truth = Truth(asked.truth, await asyncio.to_thread(_places, view, asked.truth, keys))
    prepared = None if asked.queries is None else intake.check_query(asked.queries, view.settings, asked.place.format)
    assert not isinstance(prepared, SparseRows)
    to_calibrate = await _to_calibrate_on(c, prepared) if asked.calibrate else None
    queries = Queries(prepared, "given") if prepared is not None else await _sampled(c, view, left, asked.sample)
    plans: dict[tuple[int, float], SearchPlan] = {}
    for k in asked.ks:
        for recall in asked.recalls or (view.settings.recall,):
            plans[k, recall] = plan(view, k, recall, left)
            await asyncio.sleep(0)  # where the view has not been asked this before, planning takes its time
    exact = plan(view, max(asked.ks), 1.0, left)
    rows = await measuring.run(lambda pace: measure(view, queries, truth, plans, exact, pace))
    kept = None
    if to_calibrate is not None:
        with c.told():
            kept = await c.writer.run(lambda turn: turn.set_calibration_queries(to_calibrate))
    return RecallAnswer(rows, queries.on, kept)


# ---------------------------------------------------------------- queries


async def _sampled(c: Collection, view: View, left: Matching, n: int) -> Queries:
    """Real queries where there are as many as one would calibrate on; else stored rows."""
    kept = await _kept(c)
    if len(kept) >= min(n, FEWEST):
        return Queries(kept[:n], "queries")
    if left.count < 2:
        raise errors.Conflict("one item is left, which cannot be its own neighbour: give queries to measure with")
    places = await asyncio.to_thread(stored, view, n)
    there = Places.of(view, places)
    vectors = there.vectors()
    assert not isinstance(vectors, SparseRows)
    return Queries(vectors.astype(np.float32), "data", places, there.ids())


async def _kept(c: Collection) -> NDArray[np.float32]:
    """The real queries that are remembered, each once, (q, d): this worker's, newest first, and what the others have
    written."""
    here = c.sample.present().vectors[::-1]

    def read() -> NDArray[np.float32]:
        written = read_sample(c.folder)
        return distinct(np.concatenate((here, written)) if written.shape[1] == here.shape[1] else here)

    return await asyncio.to_thread(read)


async def _to_calibrate_on(c: Collection, given: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Raises Invalid, Conflict: there are too few of them."""
    if given is None:
        kept = await _kept(c)
        if len(kept) < FEWEST:
            raise errors.Conflict(
                f"collection {c.name} remembers {len(kept)} different queries, {FEWEST} are needed to calibrate on: "
                "send `queries`, or ask again after so many searches"
            )
        return kept
    different = len(await asyncio.to_thread(distinct, given))
    if different < FEWEST:
        words = f"has {different} different queries, {FEWEST} are needed to calibrate on"
        raise errors.Invalid(f"queries: {words}", [Fault("queries", words)])
    return given


# ---------------------------------------------------------------- truth


async def _keys_of(c: Collection, truth: list[list[Id]]) -> dict[Id, int]:
    """Of all ids named. Raises Invalid naming those that are not there."""
    named = list({id_: None for ids in truth for id_ in ids})
    keys: dict[Id, int] = {}
    for begin in range(0, len(named), IDS_AT_ONCE):
        keys |= c.keys_of(named[begin : begin + IDS_AT_ONCE])
        await asyncio.sleep(0)
    if len(keys) < len(named):
        _refuse_unknown(truth, keys)
    return keys


def _places(view: View, truth: list[list[Id]], keys: dict[Id, int]) -> dict[Id, Place]:
    """Raises Invalid naming those that died a moment ago."""
    found = {id_: place for id_, key in keys.items() if (place := locate(view, key)) is not None}
    if len(found) < len(keys):
        _refuse_unknown(truth, found)
    return found


def _refuse_unknown(truth: list[list[Id]], known: dict[Id, Any]) -> None:
    wrong = [(i, j) for i, ids in enumerate(truth) for j, id_ in enumerate(ids) if id_ not in known]
    faults = [Fault(f"truth[{i}][{j}]", "is no id of the collection") for i, j in wrong[: errors.MAX_FAULTS]]
    raise errors.Invalid("truth names ids that are not in the collection", faults, len(wrong))


def _check_lengths(truth: list[list[Id]], least: int) -> None:
    """Raises Invalid naming every list that is too short for the largest k."""
    short = [i for i, ids in enumerate(truth) if len(ids) < least]
    if short:
        faults = [Fault(f"truth[{i}]", f"has {len(truth[i])} ids, k wants {least}") for i in short]
        raise errors.Invalid(f"{faults[0].where}: {faults[0].message}", faults, len(short))


# ---------------------------------------------------------------- what is calibrated


def calibration(c: Collection) -> dict[str, Any]:
    """`GET …/recall`, JSON-ready: the fronts of every index, and what the background last measured with it."""
    view = c.view()
    fronts: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    for part in sorted(view.parts, key=lambda part: -part.live):
        row = part.segment.row
        if row.index is None or not row.index.meta.get("calibration"):
            continue
        about = {"segment": row.file, "rows": row.rows, "kind": row.index.kind}
        known = Calibration.from_json(row.index.meta["calibration"])
        fronts.extend(about | {"on": known.on} | front for front in known.to_json()["fronts"])
        if row.index.meta.get("measured"):
            measured.append(about | row.index.meta["measured"])
    return {"requested": view.settings.recall, "fronts": fronts, "measured": measured}
