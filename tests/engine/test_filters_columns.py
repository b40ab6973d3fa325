"""Columns are made, published, merged away, forgotten and damaged while patches come in and filters are asked."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import apsw
import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import bulk, deriving, described, reading
from app.engine.collection import Pools
from app.engine.errors import Unavailable
from app.engine.merge_patch import merge_patch
from app.engine.recovery import recover
from storage import catalogue
from storage.columns import open_columns
from storage.database import Database
from storage.documents import read_documents
from storage.errors import DiskFailed
from storage.layout import CATALOGUE_NAME, SEGMENTS_NAME
from tests.engine.filter_judge import at_rest, judge, matching, parsed
from tests.engine.filter_races import (
    ODD,
    begun,
    change,
    check,
    doc,
    patched_and_back,
    patched_in,
    patched_out,
    put,
    worker_with,
)
from tests.engine.rig import Held, Inline, Rig

T = TypeVar("T")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "data", durable=False)
    yield rig
    rig.close()


# -------------------------------------------------------------------- columns, while patches come in


def test_patched_while_its_columns_are_published(rig: Rig) -> None:
    put(rig, list(range(12)), directly=True)
    eager, late = rig.worker(), rig.worker()
    check(rig, eager)
    under_way = rig.seal_under_way()
    assert under_way.at_the_gap
    patched_in(rig)
    patched_out(rig)
    check(rig, eager)
    under_way.publish()
    assert rig.segments()[0].columns is not None
    check(rig, eager, late)
    patched_and_back(rig)
    check(rig, eager, late)


def test_patched_while_it_is_sealed(rig: Rig) -> None:
    put(rig, list(range(12)))
    eager, late = rig.worker(), rig.worker()
    patched_in(rig)
    check(rig, eager)
    under_way = rig.seal_under_way()
    assert under_way.at_the_gap
    rig.patch(2, {"odd": None})
    patched_out(rig)
    under_way.publish()
    check(rig, eager, late)
    rig.seal()
    rig.merge()
    check(rig, eager, late)


def test_patched_while_it_is_merged(rig: Rig) -> None:
    for first in (0, 6):
        put(rig, list(range(first, first + 6)), directly=True)
    eager, late = rig.worker(), rig.worker()
    check(rig, eager)
    under_way = rig.build_under_way()
    assert under_way.at_the_gap
    patched_in(rig)
    rig.patch(9, {"odd": False})
    under_way.publish()
    assert len(rig.segments()) == 1
    check(rig, eager, late)


def test_columns_made_for_an_input_meanwhile_are_newer_than_the_outputs(rig: Rig) -> None:
    """The patches in them are in no log any more, so the output's own, which lack them, must not be taken."""
    for first in (0, 6):
        put(rig, list(range(first, first + 6)), directly=True)
    eager = rig.worker()
    check(rig, eager)
    under_way = rig.build_under_way()
    assert under_way.at_the_gap
    patched_in(rig)
    patched_out(rig)
    rig.seal()
    assert all(segment.columns is not None for segment in rig.segments())
    assert rig.db.one("SELECT count(*) FROM patches") == (0,)
    under_way.publish()
    assert len(rig.segments()) == 1
    check(rig, eager)
    rig.seal()
    assert rig.segments()[0].columns is not None
    check(rig, eager)
    rig.assert_sound(notes=False)


def test_patches_are_forgotten_while_the_old_segments_serve_on(tmp_path: Path) -> None:
    """A merge's index is opened later than its columns are published: who saw no patch so far cannot wait for it."""
    rig = Rig(tmp_path / "data", durable=False, index="hnsw", index_min_rows=256)
    try:
        put(rig, list(range(300)), directly=True)
        rig.merge()
        held = Held()
        eager = rig.worker(held)
        eager.view()
        held.release()
        check(rig, eager)
        assert eager.view().parts[0].segment.index is not None
        put(rig, list(range(300, 400)), directly=True)
        check(rig, eager)
        patching = Patching(rig)
        rig.building._write_index = patching.before(rig.building._write_index)  # type: ignore[method-assign]
        rig.merge()
        assert patching.done and len(rig.segments()) == 1 and rig.db.one("SELECT count(*) FROM patches") == (0,)
        check(rig, eager)
        held.release()
        check(rig, eager)
    finally:
        rig.close()


class Patching:
    """Patches rows when the merge has taken its inputs, and has not made its columns."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.done = rig, False

    def before(self, act: Callable[..., T]) -> Callable[..., T]:
        def both(*args: Any) -> T:
            if not self.done:
                self.done = True
                patched_in(self.rig)
                patched_out(self.rig)
            return act(*args)

        return both


def test_what_a_worker_derived_is_older_than_columns_that_cannot_be_opened(rig: Rig) -> None:
    """The patches that it lacks are in the file alone, which is damaged: it has to be derived again."""
    put(rig, list(range(12)), directly=True)
    held = Held()
    worker = worker_with(rig, workers=held)
    patched_in(rig)

    async def ask() -> None:
        asking = asyncio.create_task(worker.described())
        await begun(held)
        held.release()
        patched_out(rig)
        rig.seal()
        (columns,) = (rig.folder / SEGMENTS_NAME).glob("*.npz")
        columns.write_bytes(b"damaged")
        assert rig.db.one("SELECT count(*) FROM patches") == (0,)
        while not asking.done():
            await asyncio.sleep(0)
            held.release()
        await asking

    at_rest(ask())
    at_rest(judge(rig, worker, ODD))


def test_merged_away_while_its_columns_are_derived(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker, which answers from its own mapping, and by the sealer, which gives up."""
    monkeypatch.setattr(deriving, "SLICE_ROWS", 4)
    for first in (0, 6):
        put(rig, list(range(first, first + 6)), directly=True)
    held = Held()
    worker = worker_with(rig, workers=held)

    async def ask() -> int:
        asking = asyncio.create_task(reading.count(worker, parsed(ODD)))
        await begun(held)
        assert rig.sealing.step()
        rig.merge()
        patched_in(rig)
        while not asking.done():
            held.release()
            await asyncio.sleep(0)
        return await asking

    assert at_rest(ask()) == 7
    rig.seal()
    check(rig, rig.worker())
    rig.assert_sound(notes=False)


@pytest.mark.parametrize("share", [3, 12])
def test_more_is_patched_at_once_than_is_carried(rig: Rig, monkeypatch: pytest.MonkeyPatch, share: int) -> None:
    """Of 24 sealed rows and 4 that pend: a few, which are laid over by a thread, and all, so that all is derived."""
    for module in (deriving, described):
        monkeypatch.setattr(module, "MAX_PATCHES", 4)
    put(rig, list(range(24)))
    rig.seal()
    put(rig, list(range(24, 28)))
    eager, other = rig.worker(), rig.worker()
    check(rig, eager, other)
    filter, body = {"n": {"$lt": 2 * share}} if share < 12 else {"n": {"$gte": 0}}, doc(odd=True)
    wanted = matching(rig, filter)
    assert at_rest(bulk.patch(eager, parsed(filter), body, None)) == len(wanted) > 4
    for id_ in wanted:
        rig.model[id_] = (rig.model[id_][0], merge_patch(body)(rig.model[id_][1]))
    check(rig, eager, other)
    for id_ in (0, 25, 3, 9):
        rig.patch(id_, {"odd": None})
        check(rig, eager, other)
    (fields,) = [part.fields for part in eager.view().parts]
    assert fields is not None and (fields.caught_up > 0) == (share < 12)
    rig.seal()
    rig.merge()
    check(rig, eager, other)


def test_a_failing_derivation_fails_who_waits_for_it_alone(rig: Rig) -> None:
    put(rig, list(range(6)), directly=True)
    held = Held()
    worker = worker_with(rig, workers=held)

    async def ask() -> None:
        asking = asyncio.create_task(reading.count(worker, parsed(ODD)))
        await begun(held)
        ((future, _),) = held.waiting
        future.set_exception(OSError(5, "the disk fails"))
        held.waiting.clear()
        with pytest.raises(Unavailable, match="the disk fails"):
            await asking

    at_rest(ask())
    assert worker.look_again().state.live == 6
    worker.pools = Pools(Inline(), Inline(), Inline(), Inline())
    worker.follower.described._pool = Inline()
    check(rig, worker)


@pytest.mark.parametrize("nth", [0, 1])
def test_a_read_that_fails_leaves_the_worker_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The disk fails when the metadata of new rows is read: they must not be taken up twice."""
    put(rig, list(range(6)))
    worker = rig.worker()
    check(rig, worker)
    put(rig, [4, 5, 20, 21])
    rig.patch(20, {"odd": True})
    reads, read = [False, False], read_documents
    reads[nth] = True

    def fails_once(db: Database, keys: NDArray[np.int64]) -> list[bytes | None]:
        if reads and reads.pop(0):
            raise DiskFailed("read")
        return read(db, keys)

    monkeypatch.setattr("app.engine.view.read_documents", fails_once)
    monkeypatch.setattr("app.engine.described.read_documents", fails_once)
    with pytest.raises(Unavailable):
        at_rest(reading.count(worker, parsed(ODD)))
    check(rig, worker)
    rig.assert_seen(worker)


def test_columns_that_are_damaged_while_they_are_mapped_are_derived_anew(rig: Rig) -> None:
    """Only what is asked is looked into: the file was opened without a fault."""
    put(rig, list(range(12)))
    rig.seal()
    worker = rig.worker()
    at_rest(judge(rig, worker, {"n": {"$gte": 3}}))
    (file,) = (rig.folder / SEGMENTS_NAME).glob("*.npz")
    column = open_columns(file).column(("odd",))
    assert column is not None
    data = file.read_bytes()
    codes = column.codes.tobytes()
    assert data.count(codes) == 1
    with file.open("r+b") as held:  # in place, as a disk does it
        held.seek(data.index(codes))
        held.write(b"\xee" * len(codes))
    check(rig, worker)
    patched_in(rig)
    assert at_rest(bulk.delete(worker, parsed(ODD), None)) == 7
    change(rig, matching(rig, ODD), "delete")
    check(rig, worker)


# -------------------------------------------------------------------- an older format


FORMAT_3 = (
    *("ALTER TABLE settings DROP COLUMN sparse", "DROP TABLE imports", "DROP TABLE staged"),
    "PRAGMA user_version = 3",
)
FORMAT_2 = (
    *FORMAT_3,
    *("DROP TABLE calibration_queries", "DROP TABLE rejections", "ALTER TABLE state DROP COLUMN queries_seq"),
    "PRAGMA user_version = 2",
)
FORMAT_1 = (
    *FORMAT_2,
    *("DROP TABLE patches", "DROP TABLE columns", "DROP TABLE owner"),
    *("ALTER TABLE state DROP COLUMN uuid", "ALTER TABLE state DROP COLUMN name", "PRAGMA user_version = 1"),
)


@pytest.mark.parametrize("changes", [FORMAT_1, FORMAT_2, FORMAT_3], ids=["1", "2", "3"])
def test_a_catalogue_of_an_older_format_is_brought_up_to_date(rig: Rig, changes: tuple[str, ...]) -> None:
    put(rig, list(range(6)), directly=True)
    put(rig, list(range(6, 10)))
    rig.close()
    old = apsw.Connection(str(rig.folder / CATALOGUE_NAME))
    for statement in changes:
        old.execute(statement)
    old.close()
    recover(rig.data)
    again = Rig(rig.data, copied_from=rig, durable=False)
    try:
        worker = again.worker()
        assert again.db.one("PRAGMA user_version") == (catalogue.VERSION,)
        assert again.state().queries_seq == 0
        queries = again.vectors(3)
        assert again.write(lambda turn: turn.set_calibration_queries(queries)) == 3
        assert (catalogue.read_calibration_queries(again.db) == queries).all()
        check(again, worker)
        again.patch(2, {"odd": True})
        again.patch(7, {"odd": None})
        check(again, worker)
        again.seal()
        assert all(segment.columns is not None for segment in again.segments())
        again.merge()
        check(again, worker)
        again.assert_sound(notes=False)
    finally:
        again.close()
