"""Sparse vectors on disk: the segment file and what reads it, what `check` sees and what `repair` saves."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse

from app.folder_command import main
from index.norms import norms
from seedvec import segment as fmt
from seedvec.pending_vectors import decode, encode, is_whole
from seedvec.segment import SegmentError, open_segment
from seedvec.sparse import SparseRows, concatenate
from storage import catalogue, segment_vectors
from storage.check import check
from storage.check_sparse import sparse_faults
from storage.hashing import BLOCK_BYTES
from storage.registry import Registry
from storage.repair import repair
from storage.repair_report import RepairReport
from storage.segment import SegmentWriter, write_segment
from storage.segment_vectors import Nonzeros
from tests.bits import flip
from tests.index.sparse_data import drawn, postings
from tests.storage.filling import Collection

N, D = 500, 90


def written(path: Path, rows: SparseRows, metric: str = "dot", parts: int = 3, **about: Any) -> fmt.Segment:
    """Appended in parts, with the terms announced to be all there are, and one that no row has."""
    terms = np.union1d(Nonzeros.of(rows).terms, np.array([D - 1], np.int32))
    n = len(rows)
    with SegmentWriter(path, n, D, rows.dtype, metric, None, None, Nonzeros(rows.size, terms)) as writer:
        for some in np.array_split(np.arange(n), parts):
            part = rows[some]
            writer.append(part, some.astype(np.uint64), some.astype(np.int64), norms(part))
        writer.finish()
    return open_segment(path)


@pytest.mark.parametrize("piece", [70, segment_vectors.PIECE])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_segment_gives_back_its_rows_and_their_postings(
    tmp_path: Path, dtype: Any, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_vectors, "PIECE", piece)
    rows = drawn(1, N, D - 1, 40, dtype)
    rows = SparseRows(rows.indptr, rows.indices, rows.values, D)
    file = written(tmp_path / "s.h5", rows)
    assert file.sparse and (file.rows, file.dimension, file.vectors.dtype) == (N, D, dtype)
    found, posted, true = file.vectors, file.postings, postings(rows)
    assert isinstance(found, SparseRows) and posted is not None
    for name in ("indptr", "indices", "values"):
        assert getattr(found, name).tobytes() == getattr(rows, name).tobytes()
    assert posted.terms.tolist() == [*true.terms.tolist(), D - 1] and posted.starts[-2] == posted.starts[-1]
    assert posted.starts[:-1].tolist() == true.starts.tolist()
    assert posted.rows.tobytes() == true.rows.tobytes() and posted.values.tobytes() == true.values.tobytes()
    assert list(sparse_faults(file)) == []
    assert (file.norms == norms(rows)).all()


def test_terms_beyond_the_table_and_rows_without_a_number(tmp_path: Path) -> None:
    big = 2**31 - 1
    rows = SparseRows(
        np.array([0, 0, 2, 2, 3]), np.array([5, big - 1, 5], np.int32), np.array([1, 2, 3], np.float32), big
    )
    write_segment(
        tmp_path / "s.h5",
        vectors=rows,
        keys_rel=np.arange(4, dtype=np.uint64),
        ids=["a", "b", "c", "d"],
        norms=norms(rows),
        metric="cosine",
    )
    posted = open_segment(tmp_path / "s.h5").postings
    assert posted is not None and posted.terms.tolist() == [5, big - 1]
    assert (posted.rows.tolist(), posted.values.tolist()) == ([1, 3, 1], [1.0, 3.0, 2.0])
    nothing = SparseRows(np.zeros(3, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), D)
    file = written(tmp_path / "e.h5", nothing, parts=1)
    assert file.vectors.nbytes == 3 * 8 and list(sparse_faults(file)) == []


def test_a_recipe_with_h5py_and_scipy_alone(tmp_path: Path) -> None:
    """As in docs/formats.md."""
    rows = drawn(2, N, D, 30)
    written(tmp_path / "s.h5", rows)
    with h5py.File(tmp_path / "s.h5") as f:
        shape = f.attrs["rows"], f.attrs["dimension"]
        matrix = scipy.sparse.csr_array((f["values"][:], f["indices"][:], f["indptr"][:]), shape=shape)
    assert (matrix.toarray() == rows.dense()).all() and matrix.has_canonical_format


BAD: dict[str, Callable[[SparseRows, SegmentWriter], None]] = {
    "more than": lambda rows, w: w.append(concatenate([rows, rows])[:N], np.arange(N, dtype="u8"), range(N), rows_n(N)),
    "numbers were appended": lambda rows, w: fill(w, rows[:-1], N),
    "not announced": lambda rows, w: fill(w, SparseRows(rows.indptr, 88 - rows.indices, rows.values, D), N),
    "the segment's are sparse": lambda rows, w: w.append(
        np.zeros((N, D), np.float32), np.arange(N, dtype="u8"), range(N), rows_n(N)
    ),
}


def rows_n(n: int) -> Any:
    return np.ones(n, np.float32)


def fill(writer: SegmentWriter, rows: SparseRows, n: int) -> None:
    empty = SparseRows(np.zeros(2, np.int64), rows.indices[:0], rows.values[:0], D)
    full = rows if len(rows) == n else concatenate([rows, empty])
    writer.append(full, np.arange(n, dtype="u8"), range(n), rows_n(n))
    writer.finish()


@pytest.mark.parametrize("why", BAD)
def test_the_writer_refuses(tmp_path: Path, why: str) -> None:
    rows = drawn(3, N, 40, 30, least=1)
    rows = SparseRows(rows.indptr, rows.indices, rows.values, D)
    nonzeros = Nonzeros.of(rows[: N - 1]) if why == "more than" else Nonzeros.of(rows)
    with (
        pytest.raises(ValueError, match=why),
        SegmentWriter(tmp_path / "s.h5", N, D, np.float32, "dot", None, None, nonzeros) as w,
    ):
        BAD[why](rows, w)
    assert not (tmp_path / "s.h5").exists()


def spoil(name: str, at: int, value: int) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[name][at] = value

    return act


FAULTS = {
    "edges of its rows": spoil("indptr", 3, 10**6),
    "edges of its postings": spoil("term_starts", 3, 10**6),
    "places of its numbers": spoil("indices", 7, D),
    "terms of its postings": spoil("terms", 1, 0),
    "rows of its postings": spoil("term_rows", 0, N),
    "not the numbers of its rows": spoil("term_values", 9, 4711),
}


@pytest.mark.parametrize("what", FAULTS)
def test_check_sees_what_does_not_hold_together(tmp_path: Path, what: str) -> None:
    rows = drawn(4, N, D, 30, least=1)
    written(tmp_path / "s.h5", rows)
    FAULTS[what](tmp_path / "s.h5")
    (found,) = sparse_faults(open_segment(tmp_path / "s.h5"))
    assert what in found


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_pending_values_there_and_back(dtype: str) -> None:
    rows = drawn(5, 50, D, 20, dtype)
    values = [bytes(v) for v in encode(rows)]
    back = decode(values, D, np.dtype(dtype), True)
    assert isinstance(back, SparseRows) and (back.dense() == rows.dense()).all() and back.dtype == dtype
    assert all(is_whole(v, D, np.dtype(dtype), True) for v in values)
    longest = max(values, key=len)
    assert not is_whole(longest[:-1], D, np.dtype(dtype), True)
    assert not is_whole(longest, int(rows.indices.max()), np.dtype(dtype), True) or len(longest) == 0
    assert not is_whole(struct.pack("<ii", 4, 4) + bytes(2 * np.dtype(dtype).itemsize), D, np.dtype(dtype), True)


# -------------------------------------------------------------------- a whole folder

ROWS = 14_000
Stored = dict[Any, tuple[bytes, bytes | None]]


def stored(data: Path) -> Stored:
    registry = Registry(data)
    folder = registry.folder(registry.read()[0].uuid)
    registry.close()
    db = catalogue.connect(folder)
    vectors: dict[int, bytes] = {key: bytes(v) for key, v in db.execute("SELECT key, vector FROM pending")}
    for row in catalogue.read_segments(db):
        file = open_segment(folder / "segments" / row.file)
        values = map(bytes, encode(file.vectors))
        vectors |= {row.base_key + int(k): v for k, v in zip(file.keys_rel, values, strict=True)}
    metadata = dict(db.execute("SELECT key, json FROM metadata"))
    found = {id_: (vectors[key], metadata.get(key)) for id_, key in db.execute("SELECT id, key FROM items")}
    db.close()
    return found


@pytest.fixture(scope="module", params=["int", "str"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large segment with deaths, and pending rows; some have metadata."""
    collection = Collection(tmp_path_factory.mktemp("made") / "data", dimension=50_000, sparse=True)
    ids: list[Any] = [i if request.param == "int" else f"wörd {i}" for i in range(ROWS + 40)]
    collection.upsert(ids[:ROWS], metadata=True)
    collection.seal()
    collection.delete(ids[5:10])
    collection.upsert(ids[10:12], metadata=True)
    collection.upsert(ids[ROWS:])
    collection.db.truncate_log()
    collection.close()
    return collection.data.root


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(made, tmp_path / "data")


def path_of(data: Path) -> Path:
    (found,) = data.glob("c/*/segments/*.h5")
    return found


def saved(data: Path, before: Stored, report: RepairReport) -> set[Any]:
    """What is there is as it was, what is not is listed. Returns the ids lost."""
    assert check(data).sound, str(check(data))
    after = stored(data)
    gone = {loss.id for loss in report.collections[0].losses if loss.what == "vector"}
    assert set(before) - set(after) == gone and all(before[id_] == item for id_, item in after.items())
    return gone


def test_a_sound_folder_is_told_as_it_is(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(data).findings == []
    assert main(["info", str(data)]) == 0 and main(["info", str(path_of(data))]) == 0
    told = capsys.readouterr().out
    assert "50000 × sparse float32, dot" in told and "/term_rows" in told


def block_of(path: Path, name: str) -> int:
    """A block in the middle of that dataset, which holds nothing else."""
    extent = open_segment(path).extents[name]
    block = (extent.offset + extent.nbytes // 2) // BLOCK_BYTES
    assert extent.offset <= block * BLOCK_BYTES and (block + 1) * BLOCK_BYTES <= extent.end
    return block


@pytest.mark.parametrize("name", [fmt.VALUES, fmt.INDICES, fmt.TERM_VALUES, fmt.TERM_ROWS])
def test_every_number_is_there_twice(data: Path, name: str) -> None:
    path, before = path_of(data), stored(data)
    flip(path, block_of(path, name) * BLOCK_BYTES + 77)
    assert f"{name} " in str(check(data))
    assert saved(data, before, repair(data, norms)) == set()


def test_with_their_numbers_lost_twice_rows_are_lost(data: Path) -> None:
    """One block of /values and one of the postings: the rows that have a number in the first, and no other."""
    path, before = path_of(data), stored(data)
    file, block = open_segment(path), block_of(path, fmt.VALUES)
    values, rows = file.extents[fmt.VALUES], file.vectors
    assert isinstance(rows, SparseRows)
    low, high = (block * BLOCK_BYTES - values.offset) // 4, ((block + 1) * BLOCK_BYTES - values.offset) // 4
    hit = np.flatnonzero((rows.indptr[:-1] < high) & (rows.indptr[1:] > low))
    flip(path, block * BLOCK_BYTES + 77)
    flip(path, block_of(path, fmt.TERM_ROWS) * BLOCK_BYTES + 5)
    assert f"values {low:,} to {high - 1:,}" in str(check(data))
    gone = saved(data, before, repair(data, norms))
    assert gone == {file.ids_at([row])[0] for row in hit if not 5 <= row < 12} and 1000 < len(gone) < ROWS - 1000


def test_a_damaged_header_costs_nothing(data: Path) -> None:
    """Where everything lies is known without it, by the sizes that stand in front; the rows come from the postings."""
    path, before = path_of(data), stored(data)
    flip(path, 1)
    with pytest.raises(SegmentError):
        open_segment(path)
    assert saved(data, before, repair(data, norms)) == set()


def test_edges_that_cannot_be_believed(data: Path) -> None:
    """Wild ones, and no postings to make the rows of: what lies behind other edges is saved."""
    path, before = path_of(data), stored(data)
    extent = open_segment(path).extents[fmt.INDPTR]
    with path.open("r+b") as file:
        file.seek(extent.offset + 8 * 100)
        file.write(np.full(50, 2**62, "<i8").tobytes())
    flip(path, block_of(path, fmt.TERM_ROWS) * BLOCK_BYTES + 5)
    gone = saved(data, before, repair(data, norms))
    assert len(gone) == ROWS - 7 and len(stored(data)) == 42, "all its edges are in the one block"
