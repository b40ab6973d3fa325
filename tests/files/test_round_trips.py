"""What is written to a file comes back: vectors bit for bit, ids and metadata equal, whatever the format."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from storage.files.contract import Batch, IdKind, Outline, WriteOptions
from storage.files.formats import FORMATS, guess
from tests.files.kit import DENSE, batches_of, options_for, outline_of, path_of, read, rows_of, same_bits, write


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", DENSE)
def test_every_dtype(name: str, dtype: str, tmp_path: Path) -> None:
    rows, path = rows_of(200, dtype=dtype), path_of(tmp_path, FORMATS[name])
    write(FORMATS[name], path, rows)
    assert guess(path).name == name
    assert same_bits(read(name, path, options_for(name, dtype, 5)).vectors, rows.vectors)


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("ids", [None, "int", "str"])
@pytest.mark.parametrize("name", DENSE)
def test_ids_and_metadata(name: str, ids: IdKind | None, metadata: bool, tmp_path: Path) -> None:
    rows, path = rows_of(150, ids=ids, metadata=metadata), path_of(tmp_path, FORMATS[name])
    write(FORMATS[name], path, rows, ids)
    got = read(name, path, options_for(name, "float32", 5))
    assert same_bits(got.vectors, rows.vectors)
    assert np.array_equal(got.ids, rows.ids) if ids else got.ids is None
    assert got.metadata == rows.metadata


@pytest.mark.parametrize("name", DENSE)
def test_no_rows_at_all(name: str, tmp_path: Path) -> None:
    rows, path = rows_of(0, ids="str", metadata=True), path_of(tmp_path, FORMATS[name])
    write(FORMATS[name], path, rows, "str")
    got = read(name, path, options_for(name, "float32", 5))
    assert got.rows == 0 and got.ids == [] and got.metadata == []


@given(
    vectors=arrays.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(1, 20), st.integers(1, 9)),
        elements=st.floats(width=16),
    ),
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30),
        min_size=20,
        max_size=20,
    ),
    batch=st.integers(1, 30),
)
@settings(max_examples=25, deadline=None)
def test_any_numbers_and_texts(vectors: Any, texts: list[str], batch: int, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = Batch(vectors, texts[: len(vectors)])
    for name in DENSE:
        path = path_of(folder, FORMATS[name]).with_stem(name)
        write(FORMATS[name], path, rows, "str")
        got = read(name, path, options_for(name, vectors.dtype.name, vectors.shape[1]), batch)
        assert same_bits(got.vectors, vectors) and got.ids == rows.ids


@pytest.mark.parametrize("name", [name for name in DENSE if FORMATS[name].streams])
def test_a_pipe_gets_the_same_bytes_as_a_file(name: str, tmp_path: Path) -> None:
    fmt, rows = FORMATS[name], rows_of(300, 40)
    pipe, path = tmp_path / "pipe", path_of(tmp_path, fmt)
    os.mkfifo(pipe)
    got: list[bytes] = []
    reading = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reading.start()
    write(fmt, pipe, rows)
    reading.join()
    path.write_bytes(got[0])
    assert same_bits(read(name, path, options_for(name, "float32", 40)).vectors, rows.vectors)


@pytest.mark.parametrize("name", DENSE)
def test_an_aborted_file_is_gone(name: str, tmp_path: Path) -> None:
    rows = rows_of(100)
    writer = FORMATS[name].write(path_of(tmp_path, FORMATS[name]), outline_of(rows), WriteOptions())
    writer.write(batches_of(rows)[0])
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("came", [63, 65])
@pytest.mark.parametrize("name", DENSE)
def test_another_number_of_rows_than_announced_is_refused(name: str, came: int, tmp_path: Path) -> None:
    outline = Outline(5, "float32", 64)
    writer = FORMATS[name].write(path_of(tmp_path, FORMATS[name]), outline, WriteOptions())
    with pytest.raises(ValueError, match="64 were announced"):
        for batch in batches_of(rows_of(came)):
            writer.write(batch)
        writer.finish()
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", DENSE)
def test_what_a_format_does_not_write_is_refused(name: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, FORMATS[name])
    with pytest.raises(ValueError, match="number of rows"):
        FORMATS[name].write(path, Outline(5, "float32", None), WriteOptions())
    with pytest.raises(ValueError, match="bfloat16"):
        FORMATS[name].write(path, Outline(5, "bfloat16", 1), WriteOptions())
    with pytest.raises(ValueError, match="zstd"):
        FORMATS[name].write(path, Outline(5, "float32", 1), WriteOptions(compression="zstd"))
    assert list(tmp_path.iterdir()) == []
