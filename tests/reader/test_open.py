"""A data folder opened without the server, or beside it."""

import copy
import json
import multiprocessing
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seedvec
from seedvec import Client, catalogue, errors
from seedvec.filters.faults import FilterError
from seedvec.snapshot import Snapshot
from tests.harness import ROOT, Server, wait_for
from tests.reader.filling import DIMENSION, fill, metadata_of, vectors_of


@pytest.fixture
def server(opened: Server) -> Server:
    return opened


@pytest.fixture(scope="module")
def client(opened: Server) -> Iterator[Client]:
    with Client(opened.url) as client:
        yield client


def assert_rows(snapshot: Snapshot, numbers: list[int]) -> None:
    """The snapshot holds these rows in this order, by whatever way they are asked for."""
    assert len(snapshot) == len(numbers)
    assert snapshot.ids().tolist() == numbers  # type: ignore[union-attr]
    assert np.array_equal(snapshot.vectors(), vectors_of(numbers))
    told = [None if raw is None else json.loads(raw) for raw in snapshot.metadata()]
    assert told == [metadata_of(n) for n in numbers]
    batches = list(snapshot.batches(37))
    assert np.array_equal(np.concatenate([batch.vectors for batch in batches]), vectors_of(numbers))
    assert [id_ for batch in batches for id_ in batch.ids] == numbers
    assert [raw for batch in batches for raw in batch.metadata] == snapshot.metadata()
    shuffled = np.random.default_rng(0).permutation(len(numbers))
    assert np.array_equal(snapshot.vectors(shuffled), vectors_of(np.array(numbers)[shuffled]))
    assert [row.id for row in snapshot] == numbers


def test_what_is_pending_is_in_it_and_what_is_deleted_is_not(server: Server, client: Client) -> None:
    c = fill(client, "mixed", range(1000))
    c.delete(range(0, 1000, 7))
    c.upsert(vectors_of([3]), [3], [metadata_of(3)])
    live = [n for n in range(1000) if n % 7 and n != 3] + [3]
    snapshot = seedvec.open(server.data_dir)["mixed"]
    assert_rows(snapshot, live)
    assert (snapshot.dimension, snapshot.dtype, snapshot.metric) == (DIMENSION, np.float32, "l2")
    assert (snapshot.id_type, snapshot.sparse, repr(snapshot)) == ("int", False, "<mixed: 857 × 8 float32, l2>")
    c.wait_ready()
    assert_rows(seedvec.open(server.data_dir)["mixed"], live)


def test_rows_by_number_slice_list_and_mask(server: Server, client: Client) -> None:
    fill(client, "slices", range(500))
    snapshot = seedvec.open(server.data_dir)["slices"]
    numbers = np.arange(500)
    for rows in (
        *(slice(5, 400, 13), slice(-1, None, -1), slice(-7, 3, -9), slice(0, 0), slice(490, 900), slice(None)),
        *(
            [3, -1, 3, 499, -500],
            np.array([7, 8, 9]),
            np.arange(500) % 3 == 0,
            np.array([], int),
            np.array([1], np.uint8),
        ),
    ):
        found, wanted = snapshot[rows], numbers[rows]
        assert np.array_equal(found.vectors, vectors_of(wanted)), rows
        assert list(found.ids) == wanted.tolist()
        assert found.metadata == [metadata_of(int(n)) for n in wanted]
    one = snapshot[-3]
    assert (one.id, one.metadata) == (497, metadata_of(497))
    assert np.array_equal(one.vector, vectors_of([497])[0])
    for bad in (500, -501, [0, 500], [-501], [1.5], [[1]], np.ones(3, bool)):
        with pytest.raises(IndexError):
            snapshot[bad]  # type: ignore[index]


def test_it_stays_as_it_was_opened(server: Server, client: Client) -> None:
    c = fill(client, "stays", range(600))
    snapshot = seedvec.open(server.data_dir)["stays"]
    before = set(server.data_dir.glob("c/*/segments/*.h5"))
    fill(client, "stays", range(600, 1500))
    c.delete(range(300))
    c.patch({"n": -1}, filter={"label": 1})
    c.wait_ready()
    wait_for("a merge takes segments away", lambda: not before <= set(server.data_dir.glob("c/*/segments/*.h5")))
    assert_rows(snapshot, list(range(600)))
    c.drop()
    assert_rows(snapshot, list(range(600)))
    assert_rows(pickle.loads(pickle.dumps(snapshot)), list(range(600)))
    assert_rows(copy.deepcopy(snapshot), list(range(600)))
    with pytest.raises(errors.NoCollection, match="stays"):
        seedvec.open(server.data_dir)["stays"]


def told_elsewhere(pickled: bytes, told: Any) -> None:
    told.put(pickle.loads(pickled)[::50])


def test_a_spawned_process_reads_what_is_gone(server: Server, client: Client) -> None:
    c = fill(client, "elsewhere", range(300))
    snapshot = seedvec.open(server.data_dir)["elsewhere"]
    pickled = pickle.dumps(snapshot)
    c.drop()
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    process = context.Process(target=told_elsewhere, args=(pickled, told))
    process.start()
    rows = told.get(timeout=60)
    process.join()
    assert rows.ids.tolist() == list(range(0, 300, 50))
    assert np.array_equal(rows.vectors, vectors_of(range(0, 300, 50)))
    assert rows.metadata == [metadata_of(n) for n in range(0, 300, 50)]


def test_a_pickle_that_outlives_its_process_says_so(server: Server, client: Client) -> None:
    fill(client, "brief", range(10))
    program = (
        "import pickle, sys, seedvec;"
        f"sys.stdout.buffer.write(pickle.dumps(seedvec.open({str(server.data_dir)!r})['brief']))"
    )
    pickled = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True).stdout
    with pytest.raises(errors.Gone, match="open it again"):
        pickle.loads(pickled)


def test_rows_that_match_a_filter(server: Server, client: Client) -> None:
    fill(client, "filtered", range(400))
    snapshot = seedvec.open(server.data_dir)["filtered"]
    assert_rows(
        snapshot.where({"n": {"$gte": 100}, "label": {"$ne": 2}}),
        [n for n in range(100, 400) if n % 5 != 4 and n % 3 != 2],
    )
    assert_rows(snapshot.where({"in.name": {"$prefix": "ä39"}}), [n for n in range(390, 400) if n % 5 != 4])
    assert len(snapshot.where({"label": {"$exists": False}})) == 80
    assert len(snapshot.where({"n": -1})) == 0
    assert snapshot.where({"n": -1}).vectors().shape == (0, DIMENSION)  # type: ignore[union-attr]
    with pytest.raises(FilterError, match=r"\$near"):
        snapshot.where({"n": {"$near": 1}})


def test_texts_as_ids_and_half_floats(server: Server, client: Client) -> None:
    fill(client, "texts", range(700), ids="str", dtype="float16")
    snapshot = seedvec.open(server.data_dir)["texts"]
    assert (snapshot.id_type, snapshot.dtype) == ("str", np.float16)
    assert snapshot.ids() == [f"ü{n}" for n in range(700)]
    assert snapshot.ids([650, 3, -1]) == ["ü650", "ü3", "ü699"]
    assert snapshot[44].id == "ü44"
    assert np.array_equal(snapshot.vectors(), vectors_of(range(700)).astype(np.float16))


def test_sparse_rows(server: Server, client: Client) -> None:
    c = client.collection("sparse", 1000, metric="dot", sparse=True)
    for start in (0, 1000):
        rows = [{"indices": [n % 7, 10 + n % 900], "values": [1.0, n / 8]} for n in range(start, start + 700)]
        c.add(rows, range(start, start + 700))
    snapshot = seedvec.open(server.data_dir)["sparse"]
    assert (snapshot.sparse, len(snapshot), snapshot.dimension) == (True, 1400, 1000)
    picked = snapshot.vectors([1399, 3, 700, 3]).dense()  # type: ignore[union-attr]
    for row, n in zip(picked, (1699, 3, 1000, 3), strict=True):
        assert sorted(np.flatnonzero(row).tolist()) == sorted({n % 7, 10 + n % 900} if n else {0})
        assert row[10 + n % 900] == n / 8
    assert sum(len(batch.vectors) for batch in snapshot.batches(100)) == 1400


def test_a_folder_is_a_mapping(server: Server, client: Client) -> None:
    fill(client, "named", range(3))
    client.collection("hollow", 4)
    client.alias("called", "named")
    folder = seedvec.open(server.data_dir)
    assert {"named", "called", "hollow"} <= set(folder)
    assert "absent" not in folder
    assert_rows(folder["called"], [0, 1, 2])
    hollow = folder["hollow"]
    assert (len(hollow), hollow.id_type, list(hollow.batches()), hollow.vectors().shape) == (0, "auto", [], (0, 4))  # type: ignore[union-attr]
    assert folder.snapshot("named", metadata=False).metadata() == [None] * 3
    with pytest.raises(KeyError, match="no collection 'absent'"):
        folder["absent"]
    with pytest.raises(errors.FolderError, match=r"registry\.db is not there"):
        seedvec.open(server.data_dir / "c")


def test_without_the_server_with_a_log_that_nobody_brought_home(server: Server, client: Client, tmp_path: Path) -> None:
    c = fill(client, "copied", range(250))
    c.delete([7])
    copied = tmp_path / "copy"
    # As a backup or a crash leaves it: the databases with their logs, and nothing else beside them.
    shutil.copytree(server.data_dir, copied, ignore=shutil.ignore_patterns("*-shm", "LOCK"))
    assert_rows(seedvec.open(copied)["copied"], [n for n in range(250) if n != 7])


def test_where_nothing_can_be_made_beside_a_database_it_is_copied(
    server: Server, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that is another's, without a server: SQLite cannot make its shared memory there."""
    fill(client, "barred", range(120))
    copied = tmp_path / "barred"
    shutil.copytree(server.data_dir, copied, ignore=shutil.ignore_patterns("*-shm", "LOCK"))
    connect = catalogue._connect

    def barred(path: Path, how: str) -> sqlite3.Connection:
        if how == "mode=ro":
            # A folder in the place of the shared memory: it cannot be opened, whoever asks.
            Path(f"{path}-shm").mkdir(exist_ok=True)
        return connect(path, how)

    monkeypatch.setattr(catalogue, "_connect", barred)
    assert_rows(seedvec.open(copied)["barred"], list(range(120)))


def test_a_later_format_and_a_lost_segment_are_refused(server: Server, client: Client, tmp_path: Path) -> None:
    c = fill(client, "spoilt", range(450))
    c.wait_ready()
    copied = tmp_path / "copy"
    shutil.copytree(server.data_dir, copied, ignore=shutil.ignore_patterns("*-shm", "LOCK"))
    uuid = sqlite3.connect(copied / "registry.db").execute("SELECT uuid FROM collections WHERE name = 'spoilt'")
    folder = copied / "c" / uuid.fetchone()[0]
    for segment in (folder / "segments").glob("*.h5"):
        segment.unlink()
    with pytest.raises(errors.FolderError, match=r"\.h5 is gone"):
        seedvec.open(copied)["spoilt"]
    with sqlite3.connect(folder / "catalog.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(errors.FolderError, match="format 99, of a later seedvec"):
        seedvec.open(copied)["spoilt"]
