"""One import, in the disposable process that reads the file: checked whole, staged, and made real at the end.

Whatever fails on the way leaves nothing: the last step is one transaction (`storage/imports.py`), and until then no
reader sees a row. A process that is killed is cleaned up after by `settle_dead`.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.engine import errors, file_queries, intake
from app.engine.errors import Fault
from app.engine.holding import is_held
from app.engine.staging import Checked, Gathered, Staging, Streamed, TakenRows
from app.engine.translate import translated
from app.engine.types import DEFAULT_RECALL, IndexSpec
from seedvec.sparse import SparseRows
from storage import catalogue
from storage.catalogue import Settings
from storage.database import Database
from storage.errors import Dropped, NotEmpty, StorageError
from storage.files.contract import BadFile, Batch, Outline, Reader, Sparse
from storage.files.ground_truth import ground_truth
from storage.imports import Import, ImportRow, read_imports, settle
from storage.layout import WRITE_LOCK_NAME, DataFolder
from storage.registry import Aliased, NameTaken, Registry
from storage.turns import Turns

log = logging.getLogger(__name__)
BATCH_BYTES = 16 << 20
BATCH_ROWS = 50_000
PROGRESS_S = 0.25
NOTED_S = 2.0
"""So often the catalogue is told how far it is, for `GET /v1/collections/{c}`."""
RETRY_S = 1.0
RETRIES = 30

CheckId = Callable[[int | str], str | None]
"""Why an id can be none, or None where it can."""
CheckMetadata = Callable[[bytes, str], bytes | None]
"""JSON of one item, and how an error names it → as it is stored. Raises errors.Invalid."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an import is asked to do. name: the collection's; uuid: its folder, None: it is to be made."""

    data: Path
    name: str
    uuid: str | None
    staging: Path
    mode: Literal["add", "upsert"] = "add"
    bad: Literal["fail", "skip"] = "fail"
    append: bool = False
    key: tuple[str, str] | None = None
    """Idempotency key, and the hash of its request."""
    keep_queries: int = 0
    """Of those that the file brings, at most so many."""


@dataclass(slots=True)
class Outcome:
    """rejected: rows left out; first_rejected: (row, why); notes: sentences for who sent the file."""

    imported: int = 0
    rejected: int = 0
    first_rejected: tuple[int, str] | None = None
    created: bool = False
    notes: list[str] = field(default_factory=list)

    def reject(self, row: int, why: str) -> None:
        self.rejected += 1
        if self.first_rejected is None or row < self.first_rejected[0]:
            self.first_rejected = (row, why)

    def json(self) -> dict[str, Any]:
        first = self.first_rejected
        return {
            "imported": self.imported,
            "rejected": self.rejected,
            "first_rejected": None if first is None else {"row": first[0], "reason": first[1]},
            "created": self.created,
            "notes": self.notes,
        }


Progress = Callable[[int, int | None], None]
"""Rows read so far, rows of the file where that is known."""
Foretell = Callable[[dict[str, Any]], None]
"""The answer, told before the step that makes it true: who outlives this process can tell then what came of it."""


def run_import(
    wanted: Wanted,
    reader: Reader,
    check_id: CheckId,
    check_metadata: CheckMetadata,
    progress: Progress,
    foretell: Foretell = lambda answer: None,
) -> dict[str, Any]:
    """Reads the file to its end and makes its rows real. Returns the answer, JSON-ready. The caller, or who started
    it, has `hold` of the staging folder.

    Raises errors.Refused, and then nothing was imported."""
    with translated(wanted.name, lambda row: "the file" if row < 0 else f"row {row}"):
        try:
            return _import(wanted, reader, check_id, check_metadata, progress, foretell)
        except BadFile as e:
            raise bad_file(e) from e


def bad_file(e: BadFile) -> errors.BadFile:
    where = [] if e.row is None else [Fault(f"row {e.row}", e.detail)]
    return errors.BadFile(f"{e.detail}: nothing was imported" if e.row is None else f"row {e.row}: {e.detail}", where)


def _import(
    wanted: Wanted,
    reader: Reader,
    check_id: CheckId,
    check_metadata: CheckMetadata,
    progress: Progress,
    foretell: Foretell,
) -> dict[str, Any]:
    outline = reader.outline
    folder, created = _folder(wanted, outline)
    with closing(catalogue.connect(folder)) as db, closing(Turns(folder / WRITE_LOCK_NAME)) as turns:
        one = Import(db, turns, folder, wanted.staging.name)
        answered = one.begin(wanted.mode, outline.rows, created, wanted.key)
        if answered is not None:
            return answered
        try:
            settings = catalogue.read_settings(db)
            _refuse_at_once(wanted, outline, settings, catalogue.read_state(db).live)
            checking = Checking(settings, wanted.bad == "skip", check_id, check_metadata)
            checking.outcome.created = created
            checking.outcome.notes = _notes(outline, settings)
            truth = ground_truth(reader)
            queries = file_queries.usable(truth, settings, wanted.keep_queries)
            if truth is not None and queries is not None:
                checking.outcome.notes.append(file_queries.note(queries, truth, settings))
            staging = _staging(one, folder, wanted, outline, settings)
            try:
                _stage(one, reader, checking, staging, progress)
            except BaseException:
                staging.abandon()
                raise
            only_if_empty = outline.ids is None and not wanted.append
            answer = _make_real(one, wanted, staging, checking.outcome.json(), only_if_empty, foretell)
        except BaseException:
            _take_back(wanted, one, folder)
            raise
    if queries is not None:
        file_queries.keep(folder, queries)
    return answer


def _folder(wanted: Wanted, outline: Outline) -> tuple[Path, bool]:
    """The collection's, made for the file where there is none. Raises BadFile, StorageError."""
    with closing(Registry(wanted.data)) as registry:
        if wanted.uuid is not None:
            return registry.folder(wanted.uuid), False
        if outline.dimension < 1:
            raise BadFile("it has vectors of no dimension")
        settings = Settings(
            outline.dimension,
            metric="dot" if outline.sparse else "cosine",
            dtype="float16" if outline.dtype == "float16" else "float32",
            id_type=outline.ids or "auto",
            recall=DEFAULT_RECALL,
            index_spec=asdict(IndexSpec()),
            created=catalogue.now(),
            sparse=outline.sparse,
        )
        with suppress(NameTaken):
            return registry.folder(registry.create(wanted.name, settings, wanted.staging.name)), True
        folder = _called(registry, wanted.name)
        if folder is None:
            raise errors.Conflict(f"{wanted.name} is dropped and made again while it is imported: import again")
        return folder, False


def _called(registry: Registry, name: str) -> Path | None:
    """The folder of an open collection by its name or alias."""
    collections, aliases = registry.read_names()
    name = aliases.get(name, name)
    found = [c for c in collections if c.name == name]
    if found and found[0].reason is not None:
        raise errors.CollectionClosed(f"collection {name} is closed: {found[0].reason}")
    return registry.folder(found[0].uuid) if found else None


def _refuse_at_once(wanted: Wanted, outline: Outline, settings: Settings, live: int) -> None:
    """What the headers tell. Raises errors.Refused."""
    if outline.dimension != settings.dimension:
        detail = f"the file has vectors of {outline.dimension} numbers, the collection wants {settings.dimension}"
        raise errors.DimensionMismatch(f"{detail}: nothing was imported", [Fault("the file", detail)])
    if outline.sparse != settings.sparse:
        kinds = {True: "sparse", False: "dense"}
        detail = f"the file's vectors are {kinds[outline.sparse]}, the collection's {kinds[settings.sparse]}"
        raise errors.Invalid(detail, [Fault("the file", detail)])
    if outline.ids is not None and settings.id_type not in ("auto", outline.ids):
        raise intake.id_type_mismatch(settings.id_type, [Fault("the file", f"its ids are of type {outline.ids}")])
    if outline.ids is None and wanted.mode == "upsert":
        raise errors.Invalid("an upsert wants ids: give ids=, or import with mode=add", [Fault("mode", "wants ids")])
    if outline.ids is None and live and not wanted.append:
        raise _would_double(wanted)


def _would_double(wanted: Wanted) -> errors.Conflict:
    return errors.Conflict(
        f"the file has no ids and collection {wanted.name} is not empty: append=1 adds it all the same "
        "(an import that is repeated would double it)"
    )


def _notes(outline: Outline, settings: Settings) -> list[str]:
    notes = list(outline.notes)
    coarser = {"float64": "float32", "bfloat16": ""}.get(outline.dtype, outline.dtype)
    if settings.dtype == "float16" and outline.dtype != "float16":
        notes.append(f"the file's {outline.dtype} numbers were rounded to float16, the collection's dtype")
    elif coarser != outline.dtype and outline.dtype == "float64":
        notes.append("the file's float64 numbers were rounded to float32, the collection's dtype")
    elif outline.dtype == "bfloat16":
        notes.append("the file's bfloat16 numbers are kept as float32, which holds each exactly")
    return list(dict.fromkeys(notes))


def _staging(one: Import, folder: Path, wanted: Wanted, outline: Outline, settings: Settings) -> Staging:
    id_type = outline.ids or ("int" if settings.id_type == "auto" else settings.id_type)
    plain = outline.rows is not None and not settings.sparse and outline.ids != "str"
    if plain and wanted.mode == "add" and wanted.bad == "fail":
        assert outline.rows is not None
        return Streamed(one, folder, settings, outline.rows, id_type)
    return Gathered(one, folder, settings, id_type, upsert=wanted.mode == "upsert", skip=wanted.bad == "skip")


def _stage(one: Import, reader: Reader, checking: "Checking", staging: Staging, progress: Progress) -> None:
    outline, outcome = reader.outline, checking.outcome
    told = noted = time.monotonic()
    try:
        for batch in reader.batches(_batch_rows(outline)):
            rows = checking.check(batch)
            outcome.imported += len(rows)
            if len(rows):
                _leave_out(one, outcome, staging.put(rows))
            now = time.monotonic()
            if now > told + PROGRESS_S:
                progress(checking.done, outline.rows)
                told = now
            if now > noted + NOTED_S:
                staging.settle()
                one.progress(checking.done)
                noted = now
        _leave_out(one, outcome, staging.finish())
    except TakenRows as e:
        raise _taken(one, e.rows) from e
    progress(checking.done, outline.rows)


def _batch_rows(outline: Outline) -> int:
    width = 4 * outline.dimension if not outline.sparse else 1024
    return max(1, min(BATCH_ROWS, BATCH_BYTES // width))


def _leave_out(one: Import, outcome: Outcome, rows: list[tuple[int, Any]]) -> None:
    outcome.imported -= len(rows)
    for row, id_ in rows:
        outcome.reject(row, _why_taken(one, id_))


def _why_taken(one: Import, id_: Any) -> str:
    return f"id {id_!r} stands in the file before" if one.is_own_claim(id_) else f"id {id_!r} exists"


def _taken(one: Import, rows: list[tuple[int, Any]]) -> errors.IdExists:
    faults = [Fault(f"row {row}", _why_taken(one, id_)) for row, id_ in rows[: errors.MAX_FAULTS]]
    detail = f"{faults[0].where}: {faults[0].message}: nothing was imported; mode=upsert replaces what is there"
    return errors.IdExists(detail, faults, len(rows))


def _make_real(
    one: Import, wanted: Wanted, staging: Staging, answer: dict[str, Any], only_if_empty: bool, foretell: Foretell
) -> dict[str, Any]:
    foretell(answer)
    if wanted.mode == "add":
        try:
            one.commit(staging.done, answer, wanted.key, only_if_empty=only_if_empty)
        except NotEmpty as e:
            raise _would_double(wanted) from e
        return answer
    one.decide(staging.done)
    patience = RETRIES
    while True:
        try:
            while one.replace(answer, wanted.key):
                pass
            return answer
        except StorageError as e:
            # It is decided: whoever comes next goes on, and nobody may take it back.
            patience -= 1
            if not patience:
                log.error("import %s into %s is finished at the next start: %s", one.uuid, wanted.name, e)
                raise errors.OutcomeUnknown(
                    "the disk gave way while rows were being replaced: some are, the others will be at the next start; "
                    "the file can be sent again as well"
                ) from e
        time.sleep(RETRY_S)


def _take_back(wanted: Wanted, one: Import, folder: Path) -> None:
    """What cannot be taken back now is when the collection is next opened; until then nobody sees it."""
    try:
        rows = [row for row in read_imports(one.db) if row.uuid == one.uuid]
        if rows and rows[0].state == "reading" and one.undo():
            with closing(Registry(wanted.data)) as registry:
                registry.drop(wanted.name, folder.name)
    except (Aliased, Dropped):
        pass  # an alias that leads there by now keeps the collection, empty as it is; or all of it has gone
    except (StorageError, OSError) as e:
        log.error("what import %s has staged in %s stays until the next start: %s", one.uuid, wanted.name, e)


class Checking:
    """Batches as the file has them → rows that can be stored. skip: what cannot is left out, not refused."""

    def __init__(self, settings: Settings, skip: bool, check_id: CheckId, check_metadata: CheckMetadata) -> None:
        self.outcome = Outcome()
        self.done = 0
        """Rows of the file so far."""
        self._settings = settings
        self._skip = skip
        self._check_id = check_id
        self._check_metadata = check_metadata

    def check(self, batch: Batch) -> Checked:
        """Raises errors.Invalid's family, naming rows of the file."""
        first, n = self.done, batch.rows
        self.done += n
        vectors = self._vectors(batch, first)
        bad = {} if vectors is not None else self._bad_vectors(batch, first)
        self._judge_ids(batch.ids, first, bad)
        metadata = self._metadata(batch.metadata, first, bad)
        rows = np.arange(first, first + n)
        if vectors is not None and not bad:
            return Checked(vectors, batch.ids, metadata, rows)
        for i, why in sorted(bad.items()):
            self.outcome.reject(first + i, why)
        kept = np.array([i for i in range(n) if i not in bad], np.int64)
        given = Checked(_given(batch, self._settings), batch.ids, metadata, rows).take(kept)
        if not len(kept):
            return given
        sound = intake.check_vectors(given.vectors, self._settings, lambda i: f"row {given.rows[i]}")
        return Checked(sound, given.ids, given.metadata, given.rows)

    def _vectors(self, batch: Batch, first: int) -> Any:
        """None: some are to be left out."""
        try:
            return intake.check_vectors(_given(batch, self._settings), self._settings, lambda i: f"row {first + i}")
        except errors.DimensionMismatch:
            raise
        except errors.Invalid as e:
            if not self._skip:
                raise _of_the_file(e) from e
            return None

    def _bad_vectors(self, batch: Batch, first: int) -> dict[int, str]:
        given, bad = _given(batch, self._settings), {}
        for i in range(batch.rows):
            try:
                intake.check_vectors(given[i : i + 1], self._settings, lambda _: "")
            except errors.Invalid as e:
                bad[i] = e.faults[0].message
        return bad

    def _judge_ids(self, ids: NDArray[np.int64] | list[str] | None, first: int, bad: dict[int, str]) -> None:
        if ids is None:
            return
        if isinstance(ids, np.ndarray):
            if bool((ids >= 0).all()):
                return
            found = {int(i): f"id {ids[i]} is negative" for i in np.flatnonzero(ids < 0)}
        else:
            found = {i: why for i, id_ in enumerate(ids) if (why := self._check_id(id_)) is not None}
        if found and not self._skip:
            faults = [Fault(f"row {first + i}", why) for i, why in list(found.items())[: errors.MAX_FAULTS]]
            raise _of_the_file(errors.OutOfRange("", faults, len(found)))
        bad.update(found)

    def _metadata(self, given: list[bytes | None] | None, first: int, bad: dict[int, str]) -> list[bytes | None] | None:
        if given is None:
            return None
        out: list[bytes | None] = []
        for i, text in enumerate(given):
            try:
                out.append(None if text is None else self._check_metadata(text, f"row {first + i}"))
            except errors.Refused as e:
                if not self._skip:
                    raise _of_the_file(
                        errors.Invalid(e.detail, e.faults or [Fault(f"row {first + i}", e.detail)])
                    ) from e
                out.append(None)
                bad[i] = e.detail
        return out


def _of_the_file(e: errors.Invalid) -> errors.Invalid:
    """Said of a file: which row it was, and that nothing came of it."""
    first = e.faults[0]
    return type(e)(f"{first.where}: {first.message}: nothing was imported", e.faults, e.fault_count)


def _given(batch: Batch, settings: Settings) -> Any:
    v = batch.vectors
    if isinstance(v, Sparse):
        return SparseRows(v.indptr, v.indices.astype(np.int32), v.values, settings.dimension)
    return v


# -------------------------------------------------------------------- imports whose process is gone


def settle_dead(data: Path, name: str, folder: Path) -> None:
    """Sees imports into a collection to their end whose processes are gone: back, or forward where they were decided.

    May be repeated. Raises StorageError, OSError."""
    with closing(catalogue.connect(folder)) as db:
        for row in read_imports(db):
            if not is_held(DataFolder(data).staging / row.uuid):
                _settle(data, name, folder, db, row)


def settle_own(data: Path, name: str, folder: Path | None, uuid: str) -> bool:
    """The same of one import, by who holds its staging folder: whether its rows are there in the end, given that it had
    foretold that. folder: None: whatever the name leads to. Raises StorageError, OSError."""
    if folder is None:
        with closing(Registry(data)) as registry, suppress(errors.CollectionClosed):
            folder = _called(registry, name)
    if folder is None:
        return False
    with closing(catalogue.connect(folder)) as db:
        left = [row for row in read_imports(db) if row.uuid == uuid]
        for row in left:
            _settle(data, name, folder, db, row)
    return all(row.state == "replacing" for row in left)


def _settle(data: Path, name: str, folder: Path, db: Database, row: ImportRow) -> None:
    fate = "finished" if row.state == "replacing" else "undone"
    log.warning("collection %s: import %s was cut off: it is %s", name, row.uuid, fate)
    with closing(Turns(folder / WRITE_LOCK_NAME)) as turns:
        if settle(folder, db, turns, row):
            # An alias that leads there by now keeps the collection, empty as it is.
            with closing(Registry(data)) as registry, suppress(Dropped, Aliased):
                registry.drop(name, folder.name)
