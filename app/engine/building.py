"""The builder's jobs on one collection: merge, rewrite, index. One at a time, each made real by one transaction."""

import errno
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from app.engine import calibrating, policy
from app.engine.background import Stop, Worked
from app.engine.calibrating import Calibrating
from app.engine.deriving import forget_patches, with_columns
from app.engine.indexing import Order, order_anew, order_grown, write_index
from app.engine.merging import Rows, live_rows, write_merged
from app.engine.policy import Grounds, Job, Name
from app.engine.reporting import Reporter
from app.engine.segments import OpenSegment, open_one
from app.engine.verifying import verify_present
from app.metrics.ours import JOB_SECONDS
from index.contract import Cancelled, Rejected
from index.memory import TooLittleMemory
from storage import atomic, catalogue, errors
from storage.catalogue import IndexRow, Rejection, SegmentRow, Settings, State
from storage.documents import has_metadata
from storage.layout import SEGMENTS_NAME

log = logging.getLogger(__name__)
DISK_ERRORS = errors.FULL | {errno.EIO, errno.EROFS, errno.EPERM}
DISK_RETRY_S = 10.0
"""After all attempts at a job, where it was the disk that failed."""
COPY_SHARE = 0.05
"""What merging is of a job that also builds an index, until it is known how long that takes."""
COLUMNS_S = 5e-6
"""Of a row with metadata."""


def is_the_disk(e: Exception) -> bool:
    """Whether the job was stopped by what it writes on, and may succeed later."""
    if isinstance(e, OSError):
        return e.errno in DISK_ERRORS
    return isinstance(e, errors.NoSpace | errors.DiskFailed | errors.Locked | errors.OutcomeUnknown)


class Building:
    """One collection, as the builder sees it."""

    def __init__(self, worked: Worked, grounds: Grounds, quiet_s: float, threads: int, stop: Stop) -> None:
        self._c = worked
        self._grounds = grounds
        self._quiet_s = quiet_s
        self._threads = threads
        self._stop = stop
        self._calibrating = Calibrating(worked, stop)
        self._version = -1
        self._settled = False
        self._next_key = -1
        self._last_write = time.monotonic()
        self._unindexed_since: float | None = None
        self._looked_at: tuple[int, ...] = ()
        self._told = ""
        self._again_at: float | None = None
        """When what the disk has stopped, and no fault of its own, is begun again."""

    # ---------------------------------------------------------------- choosing

    def step(self) -> bool:
        """Does the most pressing job, and where there is none looks at what real queries find. False: nothing is due
        now."""
        return self._step() or self._calibrating.step()

    def _step(self) -> bool:
        version = self._c.reader.data_version()
        again = self._again_at is not None and time.monotonic() >= self._again_at
        if version == self._version and self._settled and not again:
            return False
        if again:
            self._c.publisher.end_job()
            self._again_at = None
        with self._c.reader.reading():
            settings = catalogue.read_settings(self._c.reader)
            state = catalogue.read_state(self._c.reader)
            segments = catalogue.read_segments(self._c.reader)
            done = catalogue.read_job(self._c.reader)
        if state.dropped:
            return False
        if state.next_key != self._next_key:
            self._next_key, self._last_write = state.next_key, time.monotonic()
        quiet = time.monotonic() - self._last_write >= self._quiet_s
        failed = (done.kind, done.seq) if done is not None and done.reason is not None else None
        job = self._choose(settings, state, segments, quiet, failed)
        if job is None:
            left = done is not None and done.kind != calibrating.JOB
            if quiet and left and not self._is_due(failed, settings, state, segments):
                # Its process died before it could say that it was done, or what failed is no longer wanted.
                self._c.publisher.end_job()
            self._tell_lack_of_memory(settings, state, segments)
            self._version, self._settled = version, quiet
            return False
        self._run(job, settings, state)
        self._version = -1
        return True

    def _choose(
        self, settings: Settings, state: State, segments: list[SegmentRow], quiet: bool, failed: Name | None
    ) -> Job | None:
        """failed: what has failed for good and only a change starts again; it keeps nothing else from being done."""
        rewrite = self._worn_out(settings, state, segments)
        if rewrite is not None and rewrite.name != failed:
            return rewrite
        jobs = policy.jobs(settings, state, segments, self._grounds, quiet=quiet)
        job = next((job for job in jobs if job.name != failed), None)
        if job is None or job.kind != "build":
            self._unindexed_since = None
            return job
        # Building while rows pour in would be for nothing: the segment is about to be merged.
        self._unindexed_since = self._unindexed_since or time.monotonic()
        patient = time.monotonic() - self._unindexed_since < policy.IMPATIENT_S
        return None if patient and not quiet and job.segments[0].index is None else job

    def _is_due(self, failed: Name | None, settings: Settings, state: State, segments: list[SegmentRow]) -> bool:
        rewrite = failed is not None and failed[0] == "rewrite" and any(s.seq == failed[1] for s in segments)
        jobs = policy.jobs(settings, state, segments, self._grounds, quiet=True)
        return rewrite or any(job.name == failed for job in jobs)

    def _worn_out(self, settings: Settings, state: State, segments: list[SegmentRow]) -> Job | None:
        """A segment with too many dead rows. Looked for only when rows died since the last look, or what was not to
        be written anew may be now."""
        look = (state.log_pos, state.spec_seq, state.cancelled_seq)
        if look == self._looked_at:
            return None
        for row in segments:
            with self._c.reader.reading():
                dead = catalogue.read_deaths_within(self._c.reader, row)
            if len(dead) <= policy.MAX_DROPPED_SHARE * row.rows:
                continue
            if not policy.may_be_merged(settings, state, (row,), self._grounds):
                continue
            # Key ranges of segments may interleave: what counts is what this one holds.
            if len(open_one(self._c.folder, row).rows_of(dead)) > policy.MAX_DROPPED_SHARE * row.rows:
                return Job("rewrite", (row,))
        self._looked_at = look
        return None

    def _tell_lack_of_memory(self, settings: Settings, state: State, segments: list[SegmentRow]) -> None:
        lack = policy.lack_of_memory(settings, state, segments, self._grounds)
        text = "" if lack is None else str(lack)
        if text and text != self._told:
            log.error("collection %s gets no index: %s", self._c.name, text)
        self._told = text

    # ---------------------------------------------------------------- doing

    def _run(self, job: Job, settings: Settings, state: State) -> None:
        c = self._c
        attempt = c.publisher.start_job(job.kind, job.seq)
        log.info("collection %s: %s of %d rows", c.name, job.kind, sum(s.rows for s in job.segments))
        begun = time.monotonic()
        outcome = "failed"
        try:
            if attempt > policy.MAX_ATTEMPTS:
                raise RuntimeError(f"tried {policy.MAX_ATTEMPTS} times, each ended the process (out of memory?)")
            # What is copied gets a new checksum: damage would be sealed in by it.
            for segment in job.segments:
                verify_present(c.reader, c.folder, segment, settings)
            if job.kind in ("merge", "rewrite"):
                self._merge(job, settings, state)
            elif job.kind == "build":
                self._build(job.segments[0], settings, state)
            else:
                self._forget_index(job.segments[0])
        except (Cancelled, errors.Stale) as e:
            outcome = "given-up"
            log.info("collection %s: %s given up: %s", c.name, job.kind, e)
            c.publisher.end_job()
        except (errors.Dropped, errors.Damaged):
            raise
        except Rejected as e:
            outcome = "rejected"
            self._reject(job, state, str(e))
        except Exception as e:
            if catalogue.read_state(c.reader).dropped:
                raise errors.Dropped(str(c.folder)) from e  # its files went away under the job
            disk = is_the_disk(e)
            log.error("collection %s: %s failed (attempt %d): %s", c.name, job.kind, attempt, e, exc_info=not disk)
            if attempt >= policy.MAX_ATTEMPTS or isinstance(e, TooLittleMemory):
                self._again_at = time.monotonic() + DISK_RETRY_S if disk else None
                c.publisher.fail_job(f"{job.kind} failed: {e or type(e).__name__}")
            else:
                self._stop.wait(min(2.0**attempt, 10.0))
        else:
            outcome = "done"
            c.publisher.end_job()
            log.info("collection %s: %s took %.1f s", c.name, job.kind, time.monotonic() - begun)
        finally:
            JOB_SECONDS.at(job.kind, outcome).observe(time.monotonic() - begun)

    def _reject(self, job: Job, state: State, found: str) -> None:
        """Tried again, it would find as little. What serves goes on serving: the inputs of a merge stay as they are."""
        kind = "build" if job.kind == "build" else "merge"
        # Without the largest the others may still be brought together.
        seq = max(job.segments, key=lambda s: (s.index is not None, s.rows)).seq
        log.error("collection %s: %s rejected: %s", self._c.name, job.kind, found)
        self._c.publisher.reject(Rejection(seq, state.spec_seq, kind, found))
        self._c.publisher.end_job()

    def _merge(self, job: Job, settings: Settings, state: State) -> None:
        c = self._c
        with c.reader.reading():
            snapshot = catalogue.read_state(c.reader).log_pos
            dead = [catalogue.read_deaths_within(c.reader, row, snapshot) for row in job.segments]
        inputs = [open_one(c.folder, row) for row in job.segments]
        rows = live_rows(inputs, dead)
        output = None
        try:
            if len(rows.keys):
                output = self._write_output(job, settings, state, inputs, rows)
            gone = c.publisher.merge(list(job.segments), output, snapshot)
        except BaseException as e:
            if errors.is_undone(e):  # else the catalogue may name the files
                self._unlink(output.files if output else ())
            raise
        self._unlink(gone)
        c.publisher.forget_deaths(rows.dropped)
        if output is not None and output.columns is not None:
            try:
                merged = open_one(c.folder, output)
            except FileNotFoundError:
                return  # whoever has emptied the collection meanwhile has taken the patches of its rows along
            forget_patches(c.publisher, c.reader, merged, output.columns.log_pos)

    def _write_output(
        self, job: Job, settings: Settings, state: State, inputs: list[OpenSegment], rows: Rows
    ) -> SegmentRow:
        """Where an input has an index, the output is published with its own: what was fast never turns slow."""
        c = self._c
        order = None
        if job.makes_an_index:
            # Before anything is copied: it may not fit into the memory.
            order = order_grown(c.folder, settings, state, inputs, rows, self._grounds)
        reporter = Reporter(c.publisher, state, self._stop, order is not None)
        columns_s = COLUMNS_S * len(rows.keys) if has_metadata(c.reader) else 0.0
        told = reporter.last(columns_s) if order is None else reporter.first(COPY_SHARE)
        output = write_merged(c.folder, c.publisher.reserve_seq(), settings, inputs, rows, told)
        try:
            if order is not None:
                index = self._write_index(output, order, state, reporter.last(columns_s))
                output = replace(output, index=index)
            # Last, so that little has been patched since.
            return with_columns(c.reader, c.folder, output, rows.keys)
        except BaseException:
            self._unlink(output.files)
            raise

    def _build(self, segment: SegmentRow, settings: Settings, state: State) -> None:
        order = order_anew(settings, segment.rows, self._grounds)
        assert order is not None, "policy.due_builds asks for what is wanted"
        told = Reporter(self._c.publisher, state, self._stop, makes_an_index=True).last()
        index = self._write_index(segment, order, state, told)
        try:
            old = self._c.publisher.add_index(index)
        except BaseException as e:
            if errors.is_undone(e):
                self._unlink([index.file])
            raise
        self._unlink([old])

    def _write_index(
        self, segment: SegmentRow, order: Order, state: State, progress: Callable[[float], None]
    ) -> IndexRow:
        return write_index(self._c, segment, order, state, self._grounds, self._threads, progress)

    def _forget_index(self, segment: SegmentRow) -> None:
        self._unlink([self._c.publisher.drop_index(segment.seq)])

    def _unlink(self, names: Iterable[str | None]) -> None:
        atomic.remove_all([self._c.folder / SEGMENTS_NAME / name for name in names if name])
