"""Columns of metadata: what is written is what is read, and what is not sound is refused."""

import json
import random
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import columns_build, columns_gather, columns_npz, columns_order, columns_texts, errors
from storage.columns import Column, Columns, ColumnsBuilder, ColumnsFileError, check, open_columns, write
from storage.columns_dictionary import FIRST_NUMBER, Dictionary
from storage.columns_file import Entry
from storage.columns_order import sorted_texts
from storage.columns_texts import texts_of
from storage.hashing import file_xxh3
from tests.filter_strategies import make_metadata

WORDS = ["null", "false", "true", "object", "array"]
"""What the codes from 1 on stand for."""


def encoded(docs: list[Any]) -> list[bytes | None]:
    return [None if doc is None else json.dumps(doc, ensure_ascii=False).encode() for doc in docs]


def built(docs: list[Any]) -> Columns:
    builder = ColumnsBuilder(len(docs))
    builder.add(encoded(docs))
    return builder.finish()


def metadata(seed: int, rows: int) -> list[Any]:
    rng = random.Random(seed)
    return [make_metadata(rng) for _ in range(rows)]


def fields(doc: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every path of one item and what stands there."""
    for key, value in (doc or {}).items():
        yield (*prefix, key), value
        if isinstance(value, dict):
            yield from fields(value, (*prefix, key))


def meant(value: Any) -> Any:
    """A value as the columns know it."""
    if value is None or isinstance(value, bool | dict):
        return {None: "null", False: "false", True: "true"}[value] if not isinstance(value, dict) else "object"
    if isinstance(value, list):
        return [meant(element) for element in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return ("text", value) if isinstance(value, str) else value


def values_of(dictionary: Dictionary) -> list[Any]:
    """What each code stands for, from 1 on: put together from the parts by their documented order."""
    numbers: list[Any] = [*dictionary.ints.tolist(), *dictionary.fractions.tolist(), *dictionary.huge]
    return [*WORDS, *sorted(numbers), *(("text", text.decode()) for text in dictionary.strings)]


def read_back(column: Column) -> dict[int, Any]:
    """Row → value."""
    rows = range(column.rows) if column.at is None else column.at.tolist()
    values = values_of(column.dictionary)
    out = {row: values[code - 1] for row, code in zip(rows, column.codes.tolist(), strict=True) if code}
    arrays = {row for row, value in out.items() if value == "array"}
    if column.arrays is None:
        assert not arrays
        return out
    a = column.arrays
    assert set(a.rows.tolist()) == arrays
    for row, (first, last) in zip(a.rows.tolist(), pairwise(a.offsets.tolist()), strict=True):
        out[row] = [values[code - 1] for code in a.codes[first:last].tolist()]
    return out


def expected(docs: list[Any]) -> dict[tuple[str, ...], dict[int, Any]]:
    out: dict[tuple[str, ...], dict[int, Any]] = {}
    for row, doc in enumerate(docs):
        for path, value in fields(doc):
            out.setdefault(path, {})[row] = meant(value)
    return out


def flat(value: Any) -> Any:
    """In an array's elements, arrays are no more than that."""
    return ["array" if isinstance(e, list) else e for e in value] if isinstance(value, list) else value


def assert_holds(columns: Columns, docs: list[Any]) -> None:
    wanted = expected(docs)
    assert columns.rows == len(docs)
    assert set(columns.paths()) == set(wanted)
    check(columns)
    for path, values in wanted.items():
        column = columns.column(path)
        assert column is not None
        assert read_back(column) == {row: flat(value) for row, value in values.items()}
        assert [type(v) for v in read_back(column).values()] == [type(flat(values[r])) for r in read_back(column)]


@pytest.mark.parametrize("seed", range(25))
def test_everything_reads_back(tmp_path: Path, seed: int) -> None:
    docs = metadata(seed, rows=(0, 1, 3, 50, 200)[seed % 5])
    columns = built(docs)
    assert_holds(columns, docs)
    path = tmp_path / "columns.npz"
    assert write(path, columns) == file_xxh3(path)
    assert path.stat().st_size == file_xxh3(path)[0]
    assert_holds(open_columns(path), docs)


def members(columns: Columns) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in columns.arrays().items()}


@pytest.mark.parametrize("cut_rows, cut_bytes", [(1, 1 << 20), (7, 1 << 20), (1 << 15, 1), (1 << 15, 300)])
def test_cut_in_any_way_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch, cut_rows: int, cut_bytes: int) -> None:
    docs = metadata(1, 100)
    whole = members(built(docs))
    monkeypatch.setattr(columns_build, "BATCH_ROWS", cut_rows)
    monkeypatch.setattr(columns_build, "BATCH_BYTES", cut_bytes)
    rng = random.Random(2)
    for _ in range(5):
        builder, at = ColumnsBuilder(), 0
        while at < len(docs):
            step = rng.randrange(1, 40)
            builder.add(encoded(docs[at : at + step]))
            at += step
        assert members(builder.finish()) == whole


def test_many_distinct_strings_leave_the_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    docs = [{"a": rng.choice(["x", str(rng.random())]), "t": [str(rng.randrange(400))] * 2} for _ in range(500)]
    whole = members(built(docs))
    monkeypatch.setattr(columns_gather, "FEW_TEXTS", 10)
    monkeypatch.setattr(columns_build, "BATCH_ROWS", 50)
    few = built(docs)
    assert members(few) == whole
    assert_holds(few, docs)


def test_codes_are_as_narrow_as_they_can_be() -> None:
    for distinct, width in ((1 << 8, 1), ((1 << 8) + 1, 2), (1 << 16, 2), ((1 << 16) + 1, 4)):
        n = distinct - FIRST_NUMBER
        column = built([{"a": i} for i in range(n)]).column(("a",))
        assert column is not None and column.dictionary.size == distinct
        assert column.codes.dtype.itemsize == width
        assert np.array_equal(column.codes, np.arange(n) + FIRST_NUMBER)


def test_numbers_have_one_order() -> None:
    numbers = [2**53, 2**53 + 1, 0.5, -0.5, 0, 1, 1.0, 2.0**53, 2**64, -(2**64), 1e300, 2**63, -(2**63), 5e-324]
    column = built([{"a": n} for n in numbers]).column(("a",))
    assert column is not None
    ranks = {n: i for i, n in enumerate(sorted(set(numbers)))}
    assert column.codes.tolist() == [ranks[n] + FIRST_NUMBER for n in numbers]
    for n in (*numbers, 3, -7.25, 2**70, -(2**70), 2**62, -0.25):
        d = column.dictionary
        plain = int(n) if isinstance(n, float) and n.is_integer() else n
        assert d.place(plain) - FIRST_NUMBER == sum(m < n for m in ranks)
        assert d.has(plain) == (n in ranks)
        assert d.codes_of_numbers([plain]).tolist() == ([ranks[n] + FIRST_NUMBER] if n in ranks else [])


def test_few_rows_are_kept_sparse() -> None:
    docs: list[Any] = [None] * 1000
    docs[3], docs[900] = {"a": "x", "o": {"b": [1, None]}}, {"a": 5}
    columns = built(docs)
    column = columns.column(("a",))
    assert column is not None and column.at is not None and column.at.tolist() == [3, 900]
    assert columns.nbytes < 2000
    assert_holds(columns, docs)


def test_a_key_with_a_dot_is_nobodys_path() -> None:
    columns = built([{"a.b": 1, "a": {"b": 2, "c.d": 3}}])
    assert list(columns.paths()) == [("a",), ("a", "b")]
    column = columns.column(("a", "b"))
    assert column is not None and column.dictionary.ints.tolist() == [2]
    assert columns.column(()) is None


@pytest.mark.parametrize("bad", [b"[]", b"1", b"null", b"", b"{", b'{"a":1}x', b"\xff"])
def test_what_is_no_json_object_is_damage(bad: bytes) -> None:
    builder = ColumnsBuilder()
    builder.add([b"{}", bad, None])
    with pytest.raises(errors.Damaged):
        builder.finish()


def test_as_many_rows_as_announced() -> None:
    builder = ColumnsBuilder(3)
    builder.add([b"{}", None])
    with pytest.raises(ValueError, match="2 rows"):
        builder.finish()


# Texts ----------------------------------------------------------------------------------------------------------

TEXTS = st.lists(
    st.one_of(
        st.text(alphabet="ab\0é", max_size=30),
        st.text(max_size=12),
        st.sampled_from(["", "\0", "a", "https://example.com/item/0001", "https://example.com/item/0001\0"]),
        st.integers(0, 5).map(lambda n: "prefix " * 5 + str(n)),
        st.integers(0, 9).map(lambda n: "h" * 130 + str(n) + "t" * 20),  # all of one print
    ),
    max_size=60,
)


@given(TEXTS, st.sampled_from([0, 1 << 40]))
@settings(max_examples=500, deadline=None)
def test_texts_in_order(texts: list[str], few: int) -> None:
    parts = [text.encode() for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns_order, "FEW", few)
        ordered, ranks = sorted_texts(b"".join(parts), np.array([len(part) for part in parts], np.int64))
    wanted = sorted(set(parts))
    assert list(ordered) == wanted
    assert ranks.tolist() == [wanted.index(part) for part in parts]
    assert [text.decode() for text in ordered] == sorted(set(texts))


@given(TEXTS, TEXTS, st.sampled_from([(0, 0.0), (0, 1e9), (10**6, 0.0)]))
@settings(max_examples=300, deadline=None)
def test_texts_are_found(texts: list[str], asked: list[str], ways: tuple[int, float]) -> None:
    steps, bisect_us = ways
    here = sorted({text.encode() for text in texts})
    found = texts_of(here)
    with pytest.MonkeyPatch.context() as patch:
        # Whichever way is the cheaper one must not matter.
        patch.setattr(columns_texts, "WALK_STEPS", steps)
        patch.setattr(columns_texts, "BISECT_US", bisect_us)
        patch.setattr(columns_texts, "BLOCK_BYTES", 40)
        patch.setattr(columns_texts, "BLOCK_TEXTS", 7)
        wanted = {text.encode() for text in asked} | set(here[::3])
        assert sorted(found.find_all(sorted(wanted)).tolist()) == [i for i, t in enumerate(here) if t in wanted]
        for part in (*(text.encode()[:3] for text in asked), b"", b"a", b"aa", b"b\0", b"x " * 40):
            assert found.containing(part).tolist() == [i for i, t in enumerate(here) if part in t]
            first, last = found.beginning(part)
            assert here[first:last] == [t for t in here if t.startswith(part)]
            assert found.place(part) == sum(t < part for t in here)
            assert found.find(part) == (here.index(part) if part in here else -1)


# The file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "columns.npz"
    write(path, built(metadata(5, 60)))
    return path


def test_numpy_reads_it(written: Path) -> None:
    with np.load(written, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in opened.files}
    mine = open_columns(written).arrays()
    assert arrays.keys() == mine.keys()
    for name, array in arrays.items():
        assert array.dtype == mine[name].dtype
        assert array.tobytes() == mine[name].tobytes()
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None


def test_numpy_alone_reads_a_column(tmp_path: Path) -> None:
    """As docs/formats.md says."""
    docs = [{"é": text, "n": i} for i, text in enumerate(["b", "日本", "", "b", "a" * 300])]
    write(tmp_path / "c.npz", built(docs))
    file = np.load(tmp_path / "c.npz", allow_pickle=False)
    paths, ends = file["path_text"].tobytes(), file["path_offsets"]
    i = [paths[a:b].decode() for a, b in pairwise(ends.tolist())].index("é")
    e = file["table"][i]
    offsets = file[f"pool_u{e['strings_width']}"][e["strings_offsets_at"] :][: e["strings_n"] + 1]
    text = file["pool_u1"][e["strings_text_at"] :].tobytes()
    strings = [text[a:b].decode() for a, b in pairwise(offsets)]
    assert strings == ["", "a" * 300, "b", "日本"]
    codes = file[f"pool_u{e['codes_width']}"][e["codes_at"] :][: e["codes_n"]]
    assert e["rows_at"] == -1
    assert [strings[code - 6] for code in codes] == [doc["é"] for doc in docs]


@pytest.mark.parametrize("zip64_above", [1 << 30, 0])
def test_members_are_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zip64_above: int) -> None:
    monkeypatch.setattr(columns_npz, "_ZIP64_ABOVE", zip64_above)
    path, docs = tmp_path / "columns.npz", metadata(6, 60)
    write(path, built(docs))
    columns = open_columns(path)
    arrays = columns.arrays()
    del arrays["head"]  # made anew
    assert all(array.ctypes.data % 64 == 0 for array in arrays.values() if len(array))
    assert_holds(columns, docs)
    with np.load(path) as opened:
        assert opened["head"].tolist()[2] == 60


def test_a_mapped_column_cannot_be_written_to(written: Path) -> None:
    column = open_columns(written).column(("a",))
    assert column is not None
    with pytest.raises(ValueError, match="read-only"):
        column.codes[0] = 1


def test_thousands_of_paths(tmp_path: Path) -> None:
    docs = [{f"k{i % 3000}": i, f"o{i % 7}": {f"k{i % 3000}": str(i)}} for i in range(6000)]
    path = tmp_path / "columns.npz"
    write(path, built(docs))
    columns = open_columns(path)
    assert columns.path_count == 3000 + 7 + len({(i % 7, i % 3000) for i in range(6000)})
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 10
    column = columns.column(("o3", "k17"))
    assert column is not None
    assert read_back(column) == {i: ("text", str(i)) for i in range(6000) if i % 7 == 3 and i % 3000 == 17}
    assert columns.column(("k3000",)) is None
    assert columns.column(("o3",)) is not None
    check(columns)


def test_a_cut_file_is_refused(written: Path) -> None:
    data = written.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1, *range(1000, len(data) - 1, 4999)):
        written.write_bytes(data[:length])
        with pytest.raises(ColumnsFileError):
            open_columns(written)


def test_another_file_is_refused(tmp_path: Path, written: Path) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ColumnsFileError):
        open_columns(path)
    arrays = open_columns(written).arrays()
    np.savez(path, allow_pickle=False, **arrays)
    with pytest.raises(ColumnsFileError):
        open_columns(path)  # not aligned
    np.savez_compressed(path, allow_pickle=False, **arrays)
    with pytest.raises(ColumnsFileError):
        open_columns(path)
    with pytest.raises(FileNotFoundError):
        open_columns(tmp_path / "none.npz")


@pytest.mark.parametrize("at, value", [(0, 7), (1, 2), (2, 61)])
def test_another_head_is_refused(tmp_path: Path, written: Path, at: int, value: int) -> None:
    arrays = open_columns(written).arrays()
    head = arrays["head"].copy()
    head[at] = value
    path = tmp_path / "other.npz"
    columns_npz.write_arrays(path, arrays | {"head": head})
    with pytest.raises(ColumnsFileError):
        open_columns(path)


@pytest.mark.parametrize("value", [-5, 3, 1 << 40, (1 << 63) - 1])
def test_a_damaged_table_is_refused_or_harmless(tmp_path: Path, value: int) -> None:
    mixed = [1, 0.5, 2**70, -(2**70), "a", "b", None, ["a", 2], [], [0.5, True], {"a": 1}]
    docs = [{"a": mixed[i % len(mixed)], "tags": ["x"] * (i % 3)} | ({"b": i} if i == 7 else {}) for i in range(60)]
    path = tmp_path / "columns.npz"
    write(path, built(docs))
    arrays = {name: array.copy() for name, array in open_columns(path).arrays().items()}
    path.unlink()  # the mapping of what is written over would change with it
    for name in Entry._fields:
        refused = 0
        for i in range(len(arrays["table"])):
            table = arrays["table"].copy()
            table[i][name] = value
            columns_npz.write_arrays(path, arrays | {"table": table})
            refused += not opens_soundly(path)
        # What has no parts may say that they lie anywhere, and a small number may happen to be right.
        assert refused or value == 3 or name.endswith("_at"), name


def test_a_flipped_bit_is_refused_or_harmless(written: Path) -> None:
    data, rng = written.read_bytes(), random.Random(8)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        written.write_bytes(damaged)
        refused += not opens_soundly(written)
    assert refused > 40


def opens_soundly(path: Path) -> bool:
    """False: it was refused, in one of the ways that are allowed."""
    try:
        columns = open_columns(path)
        check(columns)
    except ColumnsFileError:
        return False
    for key in ("a", "b", "o", "tags"):
        try:
            column = columns.column((key,))
        except ColumnsFileError:
            return False
        if column is not None:
            column.dictionary.codes_of_strings(["a", "b"])
            column.dictionary.containing("a")
            column.dictionary.codes_of_numbers([1, 2**70, 0.5])
    return True


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Writing past it fails as on a full disk, with another errno."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_oserror(tmp_path: Path) -> None:
    columns = built([{"a": i, "b": str(i)} for i in range(5000)])
    size, _ = write(tmp_path / "whole.npz", columns)
    for end in (10, 1500, size // 2, size - 10):
        with files_end_at(end), pytest.raises(OSError):
            write(tmp_path / "cut.npz", columns)
        with pytest.raises(ColumnsFileError):
            open_columns(tmp_path / "cut.npz")
    assert write(tmp_path / "again.npz", columns)[0] == size
