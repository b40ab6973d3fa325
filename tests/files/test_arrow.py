"""Parquet and Arrow as others write them, and as nobody should."""

import datetime
import decimal
import json
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from storage.files.contract import BadFile, Batch, ReadOptions
from tests.files.tripping import dense, read, sparse

N = 200
X = np.random.default_rng(3).standard_normal((N, 6)).astype(np.float32)
Write = Callable[[pa.Table, Path], Any]


def stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=64)


def file(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, tuple[str, Write]] = {
    "parquet": ("parquet", lambda table, path: pq.write_table(table, path, row_group_size=77)),
    "parquet, version 1": (
        "parquet",
        lambda table, path: pq.write_table(table, path, version="1.0", store_schema=False),
    ),
    "feather": ("arrow", lambda table, path: pyarrow.feather.write_feather(table, str(path), "lz4", chunksize=90)),
    "a file": ("arrow", file),
    "a stream": ("arrow", stream),
}
VECTORS: dict[str, Callable[[], pa.Array]] = {
    "fixed size": lambda: pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 6),
    "lists": lambda: pa.array(list(X), pa.list_(pa.float32())),
    "large lists": lambda: pa.array(list(X), pa.large_list(pa.float32())),
    "tensors": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(X),
}


def table(**columns: Any) -> pa.Table:
    return pa.table({"embedding": VECTORS["fixed size"](), **columns})


def back(kind: str, found: pa.Table, path: Path, **options: Any) -> Batch:
    name, write = WRITERS[kind]
    write(found, path)
    return read(name, path, ReadOptions(**options))


@pytest.mark.parametrize("vectors", VECTORS)
@pytest.mark.parametrize("kind", WRITERS)
def test_vectors_ids_and_the_rest(kind: str, vectors: str, tmp_path: Path) -> None:
    columns = {
        "title": [f"t{i}" for i in range(N)],
        "id": pa.array(range(N), pa.uint32()),
        "embedding": VECTORS[vectors](),
    }
    found = back(kind, pa.table(columns), tmp_path / "f")
    assert found.vectors.tobytes() == X.tobytes()  # type: ignore[union-attr]
    assert found.ids == list(range(N))
    assert found.metadata == [f'{{"title":"t{i}"}}'.encode() for i in range(N)]


def test_slices_begin_where_they_say(tmp_path: Path) -> None:
    """Arrow's arrays can begin anywhere in their buffers."""
    whole = table(id=[f"ü{i}" for i in range(N)], n=range(N))
    for kind in ("a file", "a stream", "parquet"):
        found = back(kind, whole.slice(50, 100), tmp_path / kind)
        assert found.vectors.tobytes() == X[50:150].tobytes()  # type: ignore[union-attr]
        assert found.ids == [f"ü{i}" for i in range(50, 150)] and found.metadata is not None
        assert json.loads(found.metadata[99] or b"") == {"n": 149}


VALUES: dict[str, tuple[pa.DataType, Any, Any]] = {
    "int64": (pa.int64(), 2**62 + 1, 2**62 + 1),
    "uint64": (pa.uint64(), 2**64 - 1, 2**64 - 1),
    "float32": (pa.float32(), 0.5, 0.5),
    "float16": (pa.float16(), np.float16(0.25), 0.25),
    "NaN": (pa.float64(), float("nan"), None),
    "bool": (pa.bool_(), True, True),
    "text": (pa.large_string(), "größer", "größer"),
    "codes": (pa.dictionary(pa.int8(), pa.string()), "red", "red"),
    "a list": (pa.list_(pa.int16()), [1, None, 3], [1, None, 3]),
    "an object": (
        pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]),
        {"a": 1, "b": ["x"]},
        {"a": 1, "b": ["x"]},
    ),
    "a map": (pa.map_(pa.string(), pa.int8()), {"a": 1}, {"a": 1}),
    "bytes": (pa.binary(), b"\x00\xff", "AP8="),
    "date": (pa.date32(), datetime.date(2024, 2, 29), "2024-02-29"),
    "time": (pa.time64("ns"), datetime.time(1, 2, 3), "01:02:03"),
    "naive": (pa.timestamp("ms"), datetime.datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),  # noqa: DTZ001
    "UTC": (pa.timestamp("ns", "UTC"), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), "2024-01-02T00:00:00Z"),
    "a zone": (
        pa.timestamp("us", "Europe/Berlin"),
        datetime.datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin")),
        "2024-07-01T12:00:00+02:00",
    ),
    "duration": (pa.duration("ns"), datetime.timedelta(days=1, seconds=30), "P1DT30S"),
    "decimal": (pa.decimal128(20, 2), decimal.Decimal("12.30"), 12.3),
    "uuid": (pa.uuid(), uuid.UUID(int=7).bytes, str(uuid.UUID(int=7))),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_a_value_becomes(name: str, tmp_path: Path) -> None:
    """A null is a field that the row does not have."""
    kind, value, wanted = VALUES[name]
    column = pa.array([value, None] * (N // 2), kind)
    for fmt in ("parquet", "a file"):
        found = back(fmt, table(v=column), tmp_path / fmt).metadata
        assert found is not None and [json.loads(found[0] or b""), found[1]] == [{"v": wanted}, None]
    inside = pa.StructArray.from_arrays([column], ["in"])
    found = back("a file", table(v=inside), tmp_path / "nested").metadata
    if name != "uuid":  # Of extensions in objects only what they are stored as is left.
        assert found is not None and json.loads(found[0] or b"") == {"v": {"in": wanted}}


def test_a_column_of_metadata_is_the_object(tmp_path: Path) -> None:
    texts = [None if i % 3 else f'{{"a":{i}}}' for i in range(N)]
    typed = pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), pa.array(texts, pa.utf8()))
    objects = pa.array([None if i % 3 else {"a": i} for i in range(N)])
    for column in (pa.array(texts), typed, objects):
        found = back("a file", table(metadata=column), tmp_path / "f").metadata
        assert found == [None if text is None else text.encode() for text in texts]
        found = back("a file", table(metadata=column, n=range(N)), tmp_path / "f").metadata
        assert found is not None and found[:2] == [b'{"a":0,"n":0}', b'{"n":1}']
    assert back("a file", table(metadata=texts, n=range(N)), tmp_path / "f", metadata="n").metadata[0] == b'{"n":0}'  # type: ignore[index]
    with pytest.raises(BadFile, match="neither a JSON object") as e:
        back("a file", table(metadata=["{}"] * 150 + ["words"] * 50), tmp_path / "f")
    assert e.value.row == 150


def test_what_is_written_is_read_by_arrow(tmp_path: Path) -> None:
    """Types that say what they hold: a list of fixed size, text, JSON."""
    made = dense(300, "float32", "str", True)
    for name in ("parquet", "arrow"):
        path = made.write(name, tmp_path / name)
        found = pq.read_table(path) if name == "parquet" else pyarrow.feather.read_table(path)
        assert found.schema.types == [
            pa.list_(pa.field("item", pa.float32(), False), 33),
            pa.utf8(),
            pa.json_(pa.utf8()),
        ]
        assert found["id"].to_pylist() == made.batch.ids
        assert found["vector"].combine_chunks().flatten().to_numpy().tobytes() == made.batch.vectors.tobytes()  # type: ignore[union-attr]
    # However small the batches were, a group of rows is a large one.
    assert pq.ParquetFile(tmp_path / "parquet").num_row_groups == 1


def test_sparse_columns(tmp_path: Path) -> None:
    """Indices in any order, and twice: summed. Indices alone are ones."""
    both = pa.array([{"indices": [3, 1, 3], "values": [1.0, 2.0, 0.5]}, {"indices": [], "values": []}])
    alone = pa.array([[4, 0], [4]], pa.list_(pa.uint16()))
    found = pa.table({"v": both, "w": alone})
    for kind in ("parquet", "a file"):
        summed = back(kind, found, tmp_path / kind, vectors="v", shape=(-1, 5)).vectors
        assert summed.toarray().tolist() == [[0, 2, 0, 1.5, 0], [0] * 5]  # type: ignore[union-attr]
        ones = back(kind, found, tmp_path / kind, vectors="w", shape=(5,)).vectors
        assert ones.toarray().tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 0, 1]]  # type: ignore[union-attr]
        with pytest.raises(BadFile, match="say it: shape="):
            back(kind, found, tmp_path / kind, vectors="v")
        with pytest.raises(BadFile, match="a column of 4, and there are 4") as e:
            back(kind, found, tmp_path / kind, vectors="w", shape=(4,))
        assert e.value.row == 0
    made = sparse(300, "int", False)
    path = made.write("parquet", tmp_path / "p")
    assert pq.read_table(path)["vector"][7].as_py()["indices"] == sorted(
        pq.read_table(path)["vector"][7].as_py()["indices"]
    )


LISTS = [[1.0, 2.0]] * 150


def column(*more: Any, kind: Any = None) -> pa.Table:
    return pa.table({"v": pa.array([*LISTS, *more], kind or pa.list_(pa.float32()))})


REFUSED: dict[str, tuple[Callable[[], pa.Table], dict[str, Any], str, int | None]] = {
    "another length": (lambda: column([1.0]), {}, "a vector of 1 numbers, the first has 2", 150),
    "no vector": (lambda: column(None), {}, r"a vector is missing \(null\)", 150),
    "no number": (lambda: column([1.0, None]), {}, r"a number in a vector is missing", 150),
    "none at all": (lambda: pa.table({"v": ["a"]}), {}, "nothing that can be vectors", None),
    "which": (lambda: pa.table({"v": LISTS, "w": LISTS}), {}, "say which", None),
    "text as vectors": (lambda: pa.table({"v": ["a"]}), {"vectors": "v"}, "lists of floats", None),
    "whole numbers": (lambda: column([1, 2], kind=pa.list_(pa.int8(), 2)), {"vectors": "v"}, "floats", None),
    "no row": (lambda: column().slice(0, 0), {}, "nobody knows how long", None),
    "empty vectors": (lambda: pa.table({"v": pa.array([[]], pa.list_(pa.float32()))}), {}, "a row has 0 numbers", None),
    "a wide one": (
        lambda: pa.table({"v": pa.array([[0.5] * 65_537], pa.list_(pa.float32()))}), {}, "65,537 numbers", None
    ),
    "an id missing": (lambda: table(id=[*range(N - 1), None]), {}, "an id is missing", N - 1),
    "an id below 0": (lambda: table(id=[*range(N - 1), -1]), {}, "not in 0", N - 1),
    "a long id": (lambda: table(id=["a"] * (N - 1) + ["b" * 513]), {}, "513 bytes", N - 1),
    "dates as ids": (lambda: table(d=[datetime.date(2024, 1, 1)] * N), {"ids": "d"}, "whole numbers or text", None),
    "no such column": (lambda: table(), {"metadata": "a"}, "no 'a'", None),
    "two of a name": (lambda: pa.Table.from_arrays([pa.array(LISTS)] * 2, ["v", "v"]), {}, "two columns", None),
    "an interval": (
        lambda: table(v=pa.array([pa.MonthDayNano([1, 2, 3])] * N)), {}, "which JSON cannot say", None
    ),
    "far in the future": (
        lambda: table(v=pa.array([2**62] * N, pa.timestamp("us"))), {}, "Arrow cannot read it", None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    make, options, words, row = REFUSED[name]
    for kind in ("a file", "a stream"):
        with pytest.raises(BadFile, match=words) as e:
            back(kind, make(), tmp_path / kind, **options)
        assert e.value.row == row


def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    """And pandas' own index is none of the metadata."""
    odd = pa.array([pa.MonthDayNano([1, 2, 3])] * N)
    found = back("a file", table(odd=odd, n=range(N)), tmp_path / "f", metadata="n")
    assert found.metadata is not None and found.metadata[3] == b'{"n":3}'
    assert back("parquet", table(__index_level_0__=range(N)), tmp_path / "f").metadata is None


def test_offsets_that_lie(tmp_path: Path) -> None:
    """Arrow itself believes them, and would read what lies beyond."""
    found = pa.table({"v": pa.array(LISTS, pa.list_(pa.float32())), "id": [f"item {i}" for i in range(150)]})
    path = tmp_path / "f"
    file(found, path)
    good = path.read_bytes()
    offsets = np.arange(0, 302, 2, dtype="<i4").tobytes()
    ends = np.cumsum([0] + [len(f"item {i}") for i in range(150)]).astype("<i4").tobytes()
    for raw in (offsets, ends):
        at = good.index(raw) + 400
        for lie in (2**31 - 1, -1):
            path.write_bytes(good[:at] + struct.pack("<i", lie) + good[at + 4 :])
            with pytest.raises(BadFile, match="Arrow cannot read it"):
                read("arrow", path)


def test_text_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file(table(id=[f"item {i:03}" for i in range(N)]), path)
    path.write_bytes(path.read_bytes().replace(b"item 007", b"item \xff07"))
    with pytest.raises(BadFile, match="UTF8"):
        read("arrow", path)


@pytest.mark.parametrize("kind", ["parquet", "a file", "a stream"])
def test_cut_anywhere(kind: str, tmp_path: Path) -> None:
    """A stream may end anywhere between its batches: that, and no other cut, cannot be told."""
    name, write = WRITERS[kind]
    path = tmp_path / "f"
    write(table(id=range(N)), path)
    good = path.read_bytes()
    whole = 0
    for length in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:length])
        try:
            found = read(name, path)
        except BadFile:
            continue
        whole += 1
        assert kind == "a stream" and found.vectors.tobytes() == X[: len(found.vectors)].tobytes()  # type: ignore[union-attr]
    assert whole <= 4


def test_neither_is_read_as_the_other(tmp_path: Path) -> None:
    for data in (
        b"",
        b"PAR1",
        b"ARROW1",
        b"ARROW1\0\0" * 9,
        b"PAR1" + b"\xff" * 50 + b"PAR1",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    ):
        (tmp_path / "f").write_bytes(data)
        for name in ("parquet", "arrow"):
            with pytest.raises(BadFile):
                read(name, tmp_path / "f")
