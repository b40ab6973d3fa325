"""Imports, made by hand in one process: all of a file or nothing, wherever it is cut off, whoever writes meanwhile."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import errors, holding, importing, staging
from app.engine.collection import Collection, Limits
from app.engine.importing import Wanted, run_import, settle_dead
from app.engine.recovery import recover
from storage import catalogue, failpoints, imports
from storage.catalogue import read_settings
from storage.check import check
from storage.files import contract
from storage.files.contract import BadFile, Outline
from storage.imports import read_imports
from storage.layout import SEGMENTS_NAME, WRITE_LOCK_NAME, DataFolder
from storage.registry import Registry
from storage.turns import Turns
from storage.writes import Batch, Turn
from tests.engine.rig import MANY, Inline, Rig, listed, pools

DIMENSION = 4
Model = dict[Any, tuple[bytes, bytes | None]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows take as many turns and segments as millions do."""
    monkeypatch.setattr(imports, "TURN_ROWS", 5)
    monkeypatch.setattr(staging, "GATHERED_ROWS", 8)
    monkeypatch.setattr(importing, "BATCH_ROWS", 7)
    monkeypatch.setattr(importing, "NOTED_S", 0.0)


@dataclass
class File:
    """Rows in memory, read as a file is; between: called before each batch but the first."""

    vectors: NDArray[Any]
    ids: Any = None
    metadata: list[bytes | None] | None = None
    rows_known: bool = True
    between: Callable[[], object] = lambda: None
    fails_at: int | None = None

    @property
    def outline(self) -> Outline:
        kind: Any = None if self.ids is None else "int" if isinstance(self.ids, np.ndarray) else "str"
        n = len(self.vectors) if self.rows_known else None
        dtype: Any = self.vectors.dtype.name
        return Outline(self.vectors.shape[1], dtype, n, False, kind, self.metadata is not None)

    def batches(self, rows: int) -> Iterator[contract.Batch]:
        for begin in range(0, len(self.vectors), rows):
            if begin:
                self.between()
            if self.fails_at is not None and begin + rows > self.fails_at:
                raise BadFile("it is cut off", self.fails_at)
            part = slice(begin, begin + rows)
            ids = None if self.ids is None else self.ids[part]
            yield contract.Batch(self.vectors[part], ids, None if self.metadata is None else self.metadata[part])

    def close(self) -> None:
        pass

    def model(self) -> Model:
        texts = self.metadata or [None] * len(self.vectors)
        ids = self.ids.tolist() if isinstance(self.ids, np.ndarray) else self.ids
        return {id_: (v.tobytes(), m) for id_, v, m in zip(ids, self.vectors, texts, strict=True)}


def some(n: int = 20, *, kind: str = "int", first: int = 100, **how: Any) -> File:
    vectors = np.random.default_rng(first).standard_normal((n, DIMENSION)).astype(np.float32)
    ids: Any = np.arange(first, first + n) if kind == "int" else [f"ä {first + i}" for i in range(n)]
    metadata = [None if i % 3 == 2 else b'{"n":%d}' % (first + i) for i in range(n)]
    return File(vectors, ids, metadata, **how)


def keep(text: bytes, where: str) -> bytes:
    return text


def bring(data: Path, file: File, name: str = "c", **how: Any) -> dict[str, Any]:
    uuid = {r.name: r.uuid for r in registered(data)}.get(name)
    folder = DataFolder(data).staging / "f0"
    folder.mkdir(parents=True)
    held = holding.hold(folder)
    try:
        return run_import(Wanted(data, name, uuid, folder, **how), file, lambda id_: None, keep, lambda rows, of: None)
    finally:
        os.close(held)
        shutil.rmtree(folder)


def registered(data: Path) -> Any:
    with closing(Registry(data)) as registry:
        return registry.read()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with closing(Rig(tmp_path / "data")) as rig:
        yield rig
        report = check(tmp_path / "data")
        assert report.sound, report.findings


@pytest.fixture
def worker(rig: Rig) -> Collection:
    return rig.worker()


@pytest.mark.parametrize("rows_known", [True, False], ids=["streamed", "gathered"])
@pytest.mark.parametrize("kind", ["int", "str"])
def test_rows_appear_all_at_once(rig: Rig, worker: Collection, kind: str, rows_known: bool) -> None:
    rig.add([1, 2, 3] if kind == "int" else ["1", "2"])
    before = dict(rig.model)
    file = some(kind=kind, rows_known=rows_known, between=lambda: rig.assert_seen(worker))
    answer = bring(rig.data, file)
    assert (answer["imported"], answer["rejected"], answer["created"]) == (20, 0, False)
    rig.model = before | file.model()
    rig.assert_seen(worker)
    rig.assert_sound()


def test_while_an_import_is_under_way_nobody_sees_its_ids(rig: Rig, worker: Collection) -> None:
    rig.add([1, 2, 3])
    file = some()

    def look() -> None:
        ids = file.ids.tolist()
        assert worker.keys_of(ids) == {}
        assert rig.write(lambda turn: turn.delete(ids)) == 0
        assert not rig.patch(100, {"a": 1})
        rig.delete([2])
        rig.upsert([3])
        rig.patch(1, {"a": 1})
        rig.assert_sound()

    file.between = look
    bring(rig.data, file)
    rig.model |= file.model()
    rig.assert_seen(worker)


@pytest.mark.parametrize("write", ["add", "upsert", "upsert_directly"])
def test_who_writes_an_id_meanwhile_has_it_and_the_import_comes_to_nothing(
    rig: Rig, worker: Collection, write: str
) -> None:
    rig.add([1])
    done: list[int] = []

    def write_once() -> None:
        if not done:
            getattr(rig, write)([102, 7])
            done.append(1)

    with pytest.raises(errors.IdExists):
        bring(rig.data, some(between=write_once))
    assert done and set(rig.model) == {1, 102, 7}
    rig.assert_seen(worker)
    rig.assert_sound()


def test_everything_deleted_meanwhile_leaves_the_import_alone(rig: Rig, worker: Collection) -> None:
    rig.add([1, 2])
    file = some(between=rig.delete_all)
    bring(rig.data, file)
    rig.model = file.model()
    rig.assert_seen(worker)
    rig.assert_sound()


def test_merges_and_seals_go_on_meanwhile(rig: Rig, worker: Collection) -> None:
    def work() -> None:
        rig.upsert([1, 2, 3])
        rig.seal()
        rig.merge()

    file = some(between=work)
    bring(rig.data, file)
    rig.model |= file.model()
    rig.assert_seen(worker)
    rig.merge()
    rig.assert_seen(worker)


@pytest.mark.parametrize("rows_known", [True, False], ids=["streamed", "gathered"])
@pytest.mark.parametrize("kind", ["int", "str"])
def test_an_id_that_exists_refuses_all(rig: Rig, worker: Collection, kind: str, rows_known: bool) -> None:
    file = some(kind=kind, rows_known=rows_known)
    rig.add([file.ids[17] if kind == "str" else int(file.ids[17])])
    with pytest.raises(errors.IdExists, match=r"row 17: id .* exists"):
        bring(rig.data, file)
    rig.assert_seen(worker)
    rig.assert_sound(notes=False)


@pytest.mark.parametrize("rows_known", [True, False], ids=["streamed", "gathered"])
@pytest.mark.parametrize("at", [3, 17])
def test_an_id_twice_in_the_file_refuses_all(rig: Rig, worker: Collection, at: int, rows_known: bool) -> None:
    file = some(rows_known=rows_known)
    file.ids[at] = file.ids[1]
    with pytest.raises(errors.IdExists, match=f"row {at}: id 101 stands in the file before"):
        bring(rig.data, file)
    rig.assert_seen(worker)


def test_bad_rows_are_left_out_where_that_is_asked_for(rig: Rig, worker: Collection) -> None:
    rig.add([104])
    file = some()
    file.vectors[2, 1] = np.nan
    file.ids[9] = file.ids[0]
    file.ids[19] = -1
    answer = bring(rig.data, file, bad="skip")
    assert (answer["imported"], answer["rejected"]) == (16, 4)
    assert answer["first_rejected"] == {"row": 2, "reason": "has a number that is not finite in float32"}
    good = some(20)
    rig.model |= {100 + i: good.model()[100 + i] for i in range(20) if i not in (2, 4, 9, 19)}
    rig.assert_seen(worker)


def test_an_upsert_replaces_and_the_last_of_a_twice_named_id_counts(rig: Rig, worker: Collection) -> None:
    rig.add([1, 103, 115])
    file = some()
    file.ids[6] = file.ids[5]  # in one segment
    file.ids[18] = file.ids[0]  # in two
    answer = bring(rig.data, file, mode="upsert")
    assert answer["imported"] == 20
    rig.model |= file.model()
    rig.assert_seen(worker)
    rig.assert_sound()


def test_ids_are_assigned(rig: Rig, worker: Collection) -> None:
    rig.add([5])
    file = some(12)
    with_ids = file.ids
    file.ids = None
    with pytest.raises(errors.Conflict, match="append=1"):
        bring(rig.data, file)
    bring(rig.data, file, append=True)
    file.ids = np.arange(6, 18)
    rig.model |= file.model()
    rig.assert_seen(worker)
    file.ids = with_ids


def test_a_file_that_breaks_off_leaves_nothing(rig: Rig, worker: Collection) -> None:
    """Not even the type that its ids would have given the collection's."""
    for rows_known in (True, False):
        with pytest.raises(errors.BadFile, match="row 16: it is cut off"):
            bring(rig.data, some(kind="str", rows_known=rows_known, fails_at=16))
        assert read_settings(rig.db).id_type == "auto" and read_imports(rig.db) == []
        rig.assert_seen(worker)
        rig.assert_sound(notes=False)
        assert rig.files() == []
    rig.add([1])
    rig.assert_seen(worker)


def test_a_collection_is_made_for_the_file_and_goes_with_it(rig: Rig) -> None:
    with pytest.raises(errors.BadFile):
        bring(rig.data, some(fails_at=16), "new")
    assert [r.name for r in registered(rig.data)] == ["c"]
    file = some(kind="str")
    file.vectors = file.vectors.astype(np.float16)
    answer = bring(rig.data, file, "new")
    assert answer["created"] and answer["imported"] == 20
    with closing(Registry(rig.data)) as registry:
        folder = registry.folder(next(r.uuid for r in registry.read() if r.name == "new"))
    with closing(open_worker(folder)) as worker:
        assert (worker.view().settings.dtype, worker.view().settings.id_type) == ("float16", "str")
        assert listed(worker) == file.model()


def test_one_that_others_have_written_to_meanwhile_stays(rig: Rig) -> None:
    with pytest.raises(errors.BadFile):
        bring(rig.data, some(between=once(lambda: put_one(folder_of(rig.data, "new"), 9000)), fails_at=16), "new")
    with closing(open_worker(folder_of(rig.data, "new"))) as worker:
        assert list(listed(worker)) == [9000]


def test_one_that_an_alias_leads_to_meanwhile_stays(rig: Rig) -> None:
    def point() -> None:
        with closing(Registry(rig.data)) as registry:
            registry.point("ali", "new")

    with pytest.raises(errors.BadFile):
        bring(rig.data, some(between=once(point), fails_at=16), "new")
    with closing(open_worker(folder_of(rig.data, "new"))) as worker:
        assert listed(worker) == {}
    put_one(folder_of(rig.data, "new"), 1)


def test_rows_without_ids_go_into_what_is_empty_when_they_do(rig: Rig, worker: Collection) -> None:
    """Of two that are under way at once, as a client makes them that gave up waiting, one counts."""
    file = some(between=once(lambda: put_one(worker.folder, 9000)))
    file.ids = None
    with pytest.raises(errors.Conflict):
        bring(rig.data, file)
    assert list(listed(worker)) == [9000]


def once(act: Callable[[], object]) -> Callable[[], object]:
    left = [act]
    return lambda: left.pop()() if left else None


def folder_of(data: Path, name: str) -> Path:
    return DataFolder(data).collection(next(r.uuid for r in registered(data) if r.name == name)).root


def open_worker(folder: Path) -> Collection:
    return Collection("new", folder, Limits(MANY, MANY), pools())


def put_one(folder: Path, id_: int) -> None:
    turns = Turns(folder / WRITE_LOCK_NAME)
    with closing(turns), closing(catalogue.connect(folder)) as db, turns.turn(), db.writing():
        turn = Turn(db, MANY, MANY)
        turn.add(Batch(np.ones((1, DIMENSION), np.float32), [id_], None))
        turn.finish()


# -------------------------------------------------------------------- cut off anywhere


def images_of(data: Path, into: Path, act: Callable[[], object]) -> list[tuple[str, Path]]:
    """What a kill would leave at each failpoint that `act` comes to, the first times."""
    seen: Counter[str] = Counter()
    images: list[tuple[str, Path]] = []

    def photograph(name: str, halfwrite: object) -> None:
        seen[name] += 1
        if seen[name] <= (3 if name.startswith("import.") else 1):
            image = into / f"{len(images):03d}"
            shutil.copytree(data, image)
            images.append((f"{name} {seen[name]}", image))

    with failpoints.watched(photograph):
        act()
    return images


def what_a_start_finds(image: Path, name: str) -> Model | None:
    """None: there is no such collection."""
    recover(image)
    assert check(image).findings == []
    if name not in [r.name for r in registered(image)]:
        return None
    folder = folder_of(image, name)
    with closing(catalogue.connect(folder)) as db:
        assert read_imports(db) == [] and db.one("SELECT 1 FROM staged") is None
        named = {file for s in catalogue.read_segments(db) for file in s.files}
    assert {p.name for p in (folder / SEGMENTS_NAME).iterdir()} == named
    with closing(open_worker(folder)) as worker:
        return listed(worker)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a copy of the folder is of one moment."""
    monkeypatch.setattr(staging, "ThreadPoolExecutor", lambda *_: Inline())


CASES: dict[str, tuple[Callable[..., File], dict[str, Any]]] = {
    "int": (some, {}),
    "str": (lambda: some(kind="str"), {}),
    "gathered": (lambda: some(rows_known=False), {"bad": "skip"}),
    "upsert": (some, {"mode": "upsert"}),
    "refused": (lambda: some(fails_at=16), {}),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["c", "new"])
def test_a_kill_anywhere_leaves_all_or_nothing(rig: Rig, tmp_path: Path, case: str, name: str) -> None:
    make, how = CASES[case]
    file = make()
    if case != "str":
        rig.add([1, 2, 3])
    if case == "upsert":
        rig.add([103, 110])
    before = dict(rig.model) if name == "c" else None
    after = (before or {}) | file.model()

    def act() -> None:
        with suppress(errors.BadFile):
            bring(rig.data, file, name, **how)

    rig.db.truncate_log()
    images = images_of(rig.data, tmp_path / "images", act)
    found = {where: what_a_start_finds(image, name) for where, image in images}
    wrong = [where for where, model in found.items() if model not in (before, after)]
    assert not wrong
    outcomes = [model == after for model in found.values()]
    assert outcomes == sorted(outcomes), "what had been imported was gone again"
    assert any(outcomes) == (case != "refused") and not outcomes[0]
    points = {where.split()[0] for where in found}
    assert {"import.begin", "import.reserve", "import.claim"} <= points
    assert points >= ({"import.undo", "import.undone"} if case == "refused" else set())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", ["add", "upsert"])
def test_recovery_is_cut_off_too(rig: Rig, tmp_path: Path, mode: str) -> None:
    """At any place of undoing, and of going on with an upsert that was decided."""
    rig.add([1] if mode == "add" else [1, 103])
    rig.db.truncate_log()
    file = some()
    images = images_of(rig.data, tmp_path / "images", lambda: bring(rig.data, file, mode=mode))
    last = next(
        image for where, image in images if where.startswith("import.replace" if mode == "upsert" else "import.commit")
    )
    again = images_of(last, tmp_path / "again", lambda: recover(last))
    assert {where.split()[0] for where, _ in again} >= {"import.replace" if mode == "upsert" else "import.undo"}
    after = rig.model | file.model() if mode == "upsert" else rig.model
    for where, image in again:
        assert what_a_start_finds(image, "c") == after, where


def test_a_process_that_died_is_cleaned_up_after_while_the_server_runs(rig: Rig, worker: Collection) -> None:
    """As long as it lives its import is let alone."""
    file = some()
    file.between = lambda: settle_dead(rig.data, "c", rig.folder)
    bring(rig.data, file)
    rig.model |= file.model()
    rig.assert_seen(worker)
    with closing(catalogue.connect(rig.folder)) as db, closing(Turns(rig.folder / WRITE_LOCK_NAME)) as turns:
        left = imports.Import(db, turns, rig.folder, "e" * 32)
        left.begin("add", 3, made=False)
        first = left.reserve(3, "int", assign=False).first_key
        assert left.claim(first, np.array([501, 502, 503]), [b"{}", None, None]).tolist() == []
        rig.assert_sound()
        settle_dead(rig.data, "c", rig.folder)
        assert read_imports(db) == [] and db.one("SELECT 1 FROM items WHERE id > 500") is None
    rig.add([501])
    rig.assert_seen(worker)
    rig.assert_sound(notes=False)
