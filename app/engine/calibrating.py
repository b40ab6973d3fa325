"""The builder's least pressing work on one collection: recall measured on real queries, and indexes calibrated on them.

An index is calibrated on its own rows when it is built. Real queries may be unlike them (texts against pictures), and
then find less than was promised. So those that the workers keep are measured now and then, and where the promise is
surely not kept, the index is calibrated on them. Queries that a client has given come first, and are calibrated on
without asking.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.engine.background import Stop, Worked
from app.engine.segments import load_index, open_one
from app.metrics.ours import JOB_SECONDS
from index.approximate import Approximate
from index.calibration import Calibration
from index.contract import Cancelled
from index.pacing import Progress, within
from index.recalibration import FEWEST, Measured, distinct, recalibrated, shortfall
from storage import catalogue, errors
from storage.catalogue import IndexRow, SegmentRow, Settings, State
from storage.database import Database
from storage.queries import read_sample, stamp

log = logging.getLogger(__name__)
K: Final = 10
"""What the promise is held to: most searches ask for about so many."""
TOLERANCE: Final = 0.002
"""So much less than promised is not worth calibrating anew for: or the sample's own noise would do it for ever."""
NOTABLE: Final = 0.005
"""A measurement that differs by so much from the one published is published: each makes all workers look again."""
PUBLISH_S: Final = 3600.0
LOOK_S: Final = 2.0
"""Between two looks whether the sample has changed: some 20 µs each."""
MEASURE_S: Final = 60.0
REST: Final = 50
"""Times as long as a measurement took is rested after it: over 10,000,000 rows it reads 5 GB."""
MOST_PRODUCTS: Final = 1.2e11
"""Of a measurement, 1 to 2 s on two cores: as many queries are taken as cost so much."""
LEAST_MEASURED: Final = 200
"""Queries, whatever they cost."""
JOB: Final = "calibrate"
"""Kind of the catalogue's job row while given queries are calibrated on: only here it begins and ends."""
MAX_ATTEMPTS: Final = 3
REPORT_S: Final = 1.0
CALIBRATION: Final = 0.7
"""Of the work on given queries, in progress; the rest measures what came of it."""


@dataclass(frozen=True, slots=True)
class Given:
    """The queries a client gave to calibrate on, (q, d) float32, and the number of their set."""

    vectors: NDArray[np.float32]
    seq: int


def queries_for(reader: Database) -> Given | None:
    """What a new index is calibrated on instead of rows held out, or None; its meta says `queries_seq`: seq."""
    with reader.reading():
        state = catalogue.read_state(reader)
        vectors = catalogue.read_calibration_queries(reader)
    return Given(vectors, state.queries_seq) if len(distinct(vectors)) >= FEWEST else None


def is_behind(state: State, index: IndexRow) -> bool:
    """Queries have been given since it was calibrated."""
    return int(index.meta.get("queries_seq", 0)) < state.queries_seq


def calibration_is_due(state: State, segments: Sequence[SegmentRow]) -> bool:
    """Given queries wait to be calibrated on."""
    return any(s.index is not None and is_behind(state, s.index) for s in segments)


def falls_short(measured: Measured, recall: float) -> bool:
    """Surely, not by the chance of this sample. recall: what was promised."""
    return measured.interval[1] + TOLERANCE < recall


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the sample was last measured as on an index file, for which recall, and when it may be again."""

    stamp: Any
    recall: float
    again_at: float


class Calibrating:
    """One collection, as the builder sees it."""

    def __init__(self, worked: Worked, stop: Stop, measure_s: float = MEASURE_S) -> None:
        """measure_s: between two measurements of one index."""
        self._c = worked
        self._stop = stop
        self._measure_s = measure_s
        self._version = -1
        self._look_at = 0.0
        self._stamp: Any = ()
        """Of the sample as it was when it was last thought about."""
        self._looked: dict[str, _Looked] = {}
        """By the index's file."""

    def step(self) -> bool:
        """Does one thing to one index, at most. False: nothing was due. Raises StorageError, OSError."""
        reader = self._c.reader
        version = reader.data_version()
        if version == self._version and not self._may_measure():
            return False
        with reader.reading():
            settings, state = catalogue.read_settings(reader), catalogue.read_state(reader)
            segments = catalogue.read_segments(reader)
        if state.dropped:
            return False
        indexed = sorted((s for s in segments if s.index is not None), key=lambda s: -s.rows)
        try:
            did = self._on_given(settings, state, indexed) or self._on_sample(settings, indexed)
        except Cancelled as e:
            log.info("collection %s: calibration given up: %s", self._c.name, e)
            return False
        except (errors.Stale, FileNotFoundError):
            return False  # merged or built anew meanwhile
        self._version = -1 if did else version
        return did

    def _may_measure(self) -> bool:
        """The sample has changed since it was last thought about, or measured, and that is long enough ago."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_S
        present = stamp(self._c.folder)
        waiting = any(looked.stamp != present and now >= looked.again_at for looked in self._looked.values())
        return present != self._stamp or waiting

    # ---------------------------------------------------------------- queries that were given

    def _on_given(self, settings: Settings, state: State, indexed: list[SegmentRow]) -> bool:
        row = next((s for s in indexed if s.index is not None and is_behind(state, s.index)), None)
        if row is None or row.index is None:
            self._end_leftover()
            return False
        c, meta = self._c, {**row.index.meta, "queries_seq": state.queries_seq}
        meta.pop("calibration_failed", None)
        given = queries_for(c.reader)
        index = self._open(row)
        if given is None or given.seq != state.queries_seq or index is None:
            # Too few, or no index that can be opened: nothing to wait for. Overtaken by others: they are next.
            self._publish(row.index, meta)
            return True
        attempt = c.publisher.start_job(JOB, row.seq)
        begun = time.monotonic()
        try:
            if attempt > MAX_ATTEMPTS:
                raise RuntimeError(f"tried {MAX_ATTEMPTS} times, each ended the process (out of memory?)")
            told = self._reporter(state)
            calibration = recalibrated(index, given.vectors, within(told, 0.0, CALIBRATION))
            found = shortfall(
                *(index.with_calibration(calibration), given.vectors, K, settings.recall),
                within(told, CALIBRATION, 1.0),
            )
        except (Cancelled, errors.Dropped, errors.Stale):
            c.publisher.end_job()
            raise
        except Exception as e:
            self._failed(row.index, meta, attempt, begun, e)
            return True
        meta |= {"calibration": calibration.to_json(), "measured": _to_json(found, "given")}
        self._publish(row.index, meta)
        c.publisher.end_job()
        took = time.monotonic() - begun
        JOB_SECONDS.at("calibrate", "done").observe(took)
        log.info("collection %s: calibrated on %d given queries in %.1f s", c.name, len(given.vectors), took)
        return True

    def _failed(self, index: IndexRow, meta: dict[str, Any], attempt: int, begun: float, e: Exception) -> None:
        """After some attempts the index keeps the calibration that it has: what waits for it must not wait for ever."""
        JOB_SECONDS.at("calibrate", "failed").observe(time.monotonic() - begun)
        log.error("collection %s: calibration failed (attempt %d): %s", self._c.name, attempt, e, exc_info=True)
        if attempt < MAX_ATTEMPTS:
            self._stop.wait(min(2.0**attempt, 10.0))  # its row stays, and counts the attempts
            return
        self._publish(index, {**meta, "calibration_failed": str(e) or type(e).__name__})
        self._c.publisher.end_job()

    def _end_leftover(self) -> None:
        """Its process died, and what it worked on has been merged away since."""
        job = catalogue.read_job(self._c.reader)
        if job is not None and job.kind == JOB:
            self._c.publisher.end_job()

    # ---------------------------------------------------------------- queries that were kept

    def _on_sample(self, settings: Settings, indexed: list[SegmentRow]) -> bool:
        now = time.monotonic()
        self._stamp = present = stamp(self._c.folder)
        files = {s.index.file for s in indexed if s.index is not None}
        self._looked = {file: looked for file, looked in self._looked.items() if file in files}
        for row in indexed if present else ():
            assert row.index is not None
            looked = self._looked.get(row.index.file)
            known = looked is not None and looked.recall == settings.recall
            if looked is not None and known and (looked.stamp == present or now < looked.again_at):
                continue
            if self._measured(settings, row, row.index.file, present):
                return True
        return False

    def _measured(self, settings: Settings, row: SegmentRow, file: str, present: Any) -> bool:
        """False: there was nothing to be done, or it failed: then it is left alone for a while."""
        begun = time.monotonic()
        self._looked[file] = _Looked(present, settings.recall, begun)
        try:
            if not self._measure(settings, row):
                return False
        except (Cancelled, errors.StorageError, OSError):
            del self._looked[file]
            raise
        except Exception as e:
            log.error("collection %s: real queries cannot be measured: %s", self._c.name, e, exc_info=True)
            self._looked[file] = _Looked(present, settings.recall, begun + PUBLISH_S)
            return False
        took = time.monotonic() - begun
        JOB_SECONDS.at("calibrate", "done").observe(took)
        rest = max(self._measure_s, REST * took)
        self._looked[file] = _Looked(present, settings.recall, time.monotonic() + rest)
        return True

    def _measure(self, settings: Settings, row: SegmentRow) -> bool:
        """The sample on one index; calibrates it anew where it falls short. False: there are too few queries."""
        assert row.index is not None
        c = self._c
        sample = distinct(read_sample(c.folder))
        index = self._open(row) if len(sample) >= FEWEST and _fits(sample, settings) else None
        if index is None:
            return False
        told = self._stoppable()
        some = sample[: _affordable(row, settings)]
        found = shortfall(index, some, K, settings.recall, told)
        calibration: Calibration | None = None
        if falls_short(found, settings.recall):
            calibration = recalibrated(index, sample, told)
            before, found = found, shortfall(index.with_calibration(calibration), some, K, settings.recall, told)
            log.info(
                "collection %s: real queries found %.4f of what %.4f was promised of; calibrated on %d of them: %.4f",
                *(c.name, before.recall, settings.recall, len(sample), found.recall),
            )
        self._publish_measured(row.index, found, calibration)
        return True

    def _publish_measured(self, index: IndexRow, found: Measured, calibration: Calibration | None) -> None:
        before, now = index.meta.get("measured"), _to_json(found, "sample")
        meta = {**index.meta, "measured": now}
        if calibration is not None:
            meta["calibration"] = calibration.to_json()
        elif before is not None:
            old = before["on"] != now["on"] or now["at"] - before["at"] >= PUBLISH_S
            if not old and abs(before["recall"] - now["recall"]) < NOTABLE:
                return
        self._publish(index, meta)

    # ---------------------------------------------------------------- both

    def _open(self, row: SegmentRow) -> Approximate | None:
        return load_index(self._c.folder, row, open_one(self._c.folder, row).vectors)

    def _publish(self, index: IndexRow, meta: dict[str, Any]) -> None:
        self._c.publisher.recalibrate(index.seq, index.file, meta)

    def _stoppable(self) -> Progress:
        """Raises Cancelled where the server stops, Dropped where nobody wants to know any more."""
        last = time.monotonic()

        def told(done: float) -> None:
            nonlocal last
            if self._stop:
                raise Cancelled("the server stops")
            if time.monotonic() - last >= REPORT_S:
                last = time.monotonic()
                if catalogue.read_state(self._c.reader).dropped:
                    raise errors.Dropped(str(self._c.folder))

        return told

    def _reporter(self, state: State) -> Progress:
        """As `_stoppable`, and writes progress down; raises Cancelled where other queries were given meanwhile."""
        begun = last = time.monotonic()

        def told(done: float) -> None:
            nonlocal last
            if self._stop:
                raise Cancelled("the server stops")
            now = time.monotonic()
            if now - last < REPORT_S:
                return
            last = now
            present = self._c.publisher.progress(done, (now - begun) * (1 - done) / done if done > 0 else None)
            if present.queries_seq != state.queries_seq:
                raise Cancelled("other queries were given")

        return told


def _fits(sample: NDArray[np.float32], settings: Settings) -> bool:
    return int(sample.shape[1]) == settings.dimension


def _affordable(row: SegmentRow, settings: Settings) -> int:
    return max(LEAST_MEASURED, int(MOST_PRODUCTS / (row.rows * settings.dimension)))


def _to_json(found: Measured, on: str) -> dict[str, Any]:
    """on: "given" queries, or the kept "sample"."""
    return {
        "k": K,
        "recall": round(found.recall, 5),
        "interval": [round(bound, 5) for bound in found.interval],
        "queries": found.queries,
        "at": round(time.time(), 1),
        "on": on,
    }
