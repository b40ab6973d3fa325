"""Several files as one: in which order, and that they must agree."""

from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from storage.files import raw
from storage.files.contract import BadFile, ReadOptions
from storage.files.formats import FORMATS, guess
from storage.files.order import files_of
from tests.files.kit import read, rows_of, same_bits, whole, write

RAW = ReadOptions(dtype="float32", shape=(-1, 5))


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    names = ["part-10.raw", "part-9.raw", "part-1.raw", "part-010.raw", "a", "10", "9b"]
    for name in [*names, ".hidden"]:
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [p.name for p in files_of(tmp_path)] == [
        "9b", "10", "a", "part-1.raw", "part-9.raw", "part-010.raw", "part-10.raw",
    ]  # fmt: skip
    assert files_of(tmp_path / "a") == files_of(tmp_path / "none") == []


def test_uuids_go_by_their_digits(tmp_path: Path) -> None:
    names = [UUID(int=time << 80 | 7 << 76 | 2 << 62) for time in (0x10, 0x9, 0xA0, 0x9B)]
    for name in names:
        (tmp_path / f"{name}.raw").touch()
    assert [p.stem for p in files_of(tmp_path)] == [str(names[i]) for i in (1, 0, 3, 2)]


def test_shards_are_written_in_the_order_they_are_read_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "SHARD_BYTES", 10 * 20)
    rows = rows_of(95)
    write(FORMATS["shards"], tmp_path / "x", rows)
    assert len(files_of(tmp_path / "x")) == 10
    reader = guess(tmp_path / "x").read([tmp_path / "x"], RAW)
    assert reader.outline.rows == 95 and reader.outline.notes == ()
    assert same_bits(whole(reader).vectors, rows.vectors)
    with pytest.raises(BadFile, match="hold 95 rows, and shape says 94"):
        read("shards", tmp_path / "x", ReadOptions(dtype="float32", shape=(94, 5)))


def test_random_names_are_said_to_be_so(tmp_path: Path) -> None:
    for _ in range(2):
        rows_of(3).vectors.tofile(tmp_path / str(uuid4()))  # type: ignore[union-attr]
    reader = FORMATS["shards"].read([tmp_path], RAW)
    assert "random" in reader.outline.notes[0] and reader.outline.rows == 6


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors"])
def test_a_folder_of_files_is_one(name: str, tmp_path: Path) -> None:
    parts = [rows_of(n, ids="int", metadata=True) for n in (70, 1, 0, 30)]
    fmt = FORMATS[name]
    for i, part in enumerate(parts):
        write(
            fmt,
            tmp_path / f"part-{i + 8}{fmt.suffixes[0]}",
            part if fmt.holds_ids else part._replace(ids=None, metadata=None),
            "int" if fmt.holds_ids else None,
        )
    assert guess(tmp_path) == fmt
    got = whole(fmt.read([tmp_path], ReadOptions()))
    assert same_bits(got.vectors, np.concatenate([np.asarray(part.vectors) for part in parts]))
    if fmt.holds_ids:
        assert np.array_equal(got.ids, np.concatenate([part.ids for part in parts]))  # type: ignore[arg-type]
        assert got.metadata == [item for part in parts for item in part.metadata or ()]


def test_files_that_differ_are_not_one(tmp_path: Path) -> None:
    write(FORMATS["npy"], tmp_path / "a.npy", rows_of(3))
    write(FORMATS["npy"], tmp_path / "b.npy", rows_of(3, 6))
    write(FORMATS["npy"], tmp_path / "c.npy", rows_of(3, dtype="float64"))
    for other, what in (("b.npy", "dimension is 6"), ("c.npy", "dtype is float64")):
        with pytest.raises(BadFile, match=f"{other}: its {what}"):
            FORMATS["npy"].read([tmp_path / "a.npy", tmp_path / other], ReadOptions())


def test_what_is_wrong_names_the_file_and_counts_rows_through(tmp_path: Path) -> None:
    for i in range(2):
        np.savez(tmp_path / f"{i}.npz", vectors=np.ones((4, 2)), ids=np.array([1, 2, 3 - 9 * i, 4]))
    reader = FORMATS["npz"].read([tmp_path], ReadOptions())
    with pytest.raises(BadFile, match=r"^1\.npz: ids: an id is not in 0") as refused:
        list(reader.batches(3))
    assert refused.value.row == 4 + 2
    reader.close()


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        FORMATS["npy"].read([tmp_path / "none.npy"], ReadOptions())
    with pytest.raises(BadFile, match="no such file"):
        FORMATS["npy"].read([tmp_path], ReadOptions())
    with pytest.raises(BadFile, match="no file"):
        FORMATS["shards"].read([tmp_path], RAW)
    with pytest.raises(BadFile, match="no known ending"):
        guess(tmp_path / "x.xyz")
