"""Files of the programs that a format comes from are read, and theirs are the eyes that judge what is written."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from tensorblob import TensorBlob, TensorDB

from storage.files import tensorblob_folder
from storage.files.contract import BadFile, ReadOptions, WriteOptions
from storage.files.formats import FORMATS, guess
from tests.files.kit import DENSE, path_of, read, rows_of, same_bits, whole, write

ROWS = np.arange(60, dtype=np.float64).reshape(12, 5) / 7


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_numpy_files(dtype: str, order: Any, save: Any, tmp_path: Path) -> None:
    rows = np.array(ROWS, dtype=dtype, order=order)
    path = tmp_path / ("x.npy" if save is np.save else "x.npz")
    save(path, rows)
    got = whole(guess(path).read([path], ReadOptions()))
    assert same_bits(got.vectors, np.ascontiguousarray(rows, rows.dtype.newbyteorder("=")))


@pytest.mark.parametrize("order", ["C", "F"])
def test_items_of_several_dimensions_are_flattened_when_asked(order: Any, tmp_path: Path) -> None:
    items = np.array(np.arange(120, dtype=np.float32).reshape(4, 2, 3, 5), order=order)
    np.save(tmp_path / "x.npy", items)
    with pytest.raises(BadFile, match="4 dimensions"):
        FORMATS["npy"].read([tmp_path / "x.npy"], ReadOptions())
    got = whole(FORMATS["npy"].read([tmp_path / "x.npy"], ReadOptions(flatten=True)), 3)
    assert same_bits(got.vectors, items.reshape(4, 30, order="C"))


def test_one_dimension_is_one_row(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS[0])
    assert same_bits(read("npy", tmp_path / "x.npy").vectors, ROWS[:1])


def test_numpy_reads_ours(tmp_path: Path) -> None:
    rows = rows_of(100, ids="str", metadata=True)
    for compression in (None, "deflate"):
        write(FORMATS["npz"], tmp_path / "x.npz", rows, "str", WriteOptions(compression))
        with np.load(tmp_path / "x.npz") as got:
            assert same_bits(got["vectors"], rows.vectors) and got["ids"].tolist() == rows.ids
            assert got["metadata.jsonl"].splitlines()[1] == (rows.metadata or [])[1]
    write(FORMATS["npy"], tmp_path / "y.npy", rows, "str")
    assert same_bits(np.load(tmp_path / "y.npy"), rows.vectors)
    assert np.load(tmp_path / "y.ids.npy").tolist() == rows.ids
    assert (tmp_path / "y.metadata.jsonl").read_bytes() == b"".join((i or b"null") + b"\n" for i in rows.metadata or [])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_more_than_32_bits(method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any member is written when it is large: what zipfile counts as that is a constant."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        for name, rows in (("first", ROWS), ("second", ROWS * 2)):
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.save(member, rows)  # type: ignore[arg-type]
    assert same_bits(read("npz", tmp_path / "x.npz", ReadOptions(vectors="second")).vectors, ROWS * 2)


def test_any_array_of_an_npz_can_be_the_vectors(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=ROWS, b=ROWS * 2, names=np.array([f"n{i}".encode() for i in range(12)]))
    with pytest.raises(BadFile, match="holds 'a', 'b', 'names': say which"):
        read("npz", path)
    got = read("npz", path, ReadOptions(vectors="b", ids="names"))
    assert same_bits(got.vectors, ROWS * 2) and got.ids == [f"n{i}" for i in range(12)]
    with pytest.raises(BadFile, match="holds no 'c'"):
        read("npz", path, ReadOptions(vectors="c"))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint64"])
def test_ids_of_any_whole_numbers(dtype: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", vectors=ROWS, ids=np.arange(12, dtype=dtype))
    assert same_bits(read("npz", tmp_path / "x.npz").ids, np.arange(12))


@pytest.mark.parametrize(("ids", "metadata"), [(None, False), ("int", True), ("str", True)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_safetensors_package_reads_ours(dtype: str, ids: Any, metadata: bool, tmp_path: Path) -> None:
    rows, path = rows_of(33, 3, dtype, ids, metadata), tmp_path / "x.safetensors"
    write(FORMATS["safetensors"], path, rows, ids)
    got = load_file(path)
    assert same_bits(got["vectors"], rows.vectors)
    if ids == "int":
        assert same_bits(got["ids"], rows.ids)
    if ids == "str":
        assert [bytes(text).rstrip(b"\0").decode() for text in got["ids"]] == rows.ids
    if metadata:
        assert got["metadata"].tobytes().splitlines() == [item or b"null" for item in rows.metadata or ()]


def test_safetensors_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"emb": ROWS.astype(np.float16), "count": np.arange(12, dtype=np.int32)}, path, {"made by": "a test"})
    got = read("safetensors", path, ReadOptions(ids="count"))
    assert same_bits(got.vectors, ROWS.astype(np.float16)) and same_bits(got.ids, np.arange(12))
    save_torch({"x": torch.from_numpy(ROWS).bfloat16()}, path)
    assert same_bits(read("safetensors", path).vectors, torch.from_numpy(ROWS).bfloat16().float().numpy())


@pytest.mark.parametrize("n", [0, 1, 8191, 8192, 8200])
def test_tensorblob_reads_ours(n: int, tmp_path: Path) -> None:
    rows = rows_of(n, 3, "float16")
    write(FORMATS["tensorblob"], tmp_path / "x.blob", rows)
    with TensorBlob.open(tmp_path / "x.blob") as blob:
        assert len(blob) == n and blob.shape == (3,) and blob.block_size == tensorblob_folder.BLOCK_ROWS
        assert same_bits(blob.read().numpy(), rows.vectors)


def test_tensorblob_goes_on_with_ours(tmp_path: Path) -> None:
    rows, more = rows_of(8190, 3), torch.ones(5, 3)
    write(FORMATS["tensorblob"], tmp_path / "x.blob", rows)
    with TensorBlob.open(tmp_path / "x.blob", "a") as blob:
        blob.write(more)
    got = read("tensorblob", tmp_path / "x.blob")
    assert same_bits(got.vectors, np.concatenate([rows.vectors, more.numpy()]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 16, 37])
def test_blobs_of_the_package(dtype: torch.dtype, n: int, tmp_path: Path) -> None:
    tensors = torch.rand(n, 2, 3).to(dtype)
    with TensorBlob.open(tmp_path / "x", "w", dtype=dtype, shape=(2, 3), block_size=8) as blob:
        blob.write(tensors)
    got = whole(guess(tmp_path / "x").read([tmp_path / "x"], ReadOptions(flatten=True)), 11)
    wanted = tensors.float() if dtype == torch.bfloat16 else tensors
    assert same_bits(got.vectors, wanted.reshape(n, 6).numpy())


def test_a_truncated_and_extended_blob(tmp_path: Path) -> None:
    with TensorBlob.open(tmp_path / "x", "w", dtype="float32", shape=2, block_size=4) as blob:
        blob.write(torch.arange(40.0).view(20, 2))
        blob.truncate(10)
        blob.extend(blob, maintain_order=True)
        wanted = blob[:].numpy()
    assert same_bits(read("tensorblob", tmp_path / "x").vectors, wanted)


def test_a_database_of_the_package(tmp_path: Path) -> None:
    schema = {"emb": ("float32", 3), "ids": ("int64", ()), "price": ("float32", 1), "sold": ("bool", ())}
    price = torch.tensor([[0.1], [float("nan")], [3.0]])
    fields = {
        "emb": torch.rand(3, 3),
        "ids": torch.tensor([7, 8, 9]),
        "price": price,
        "sold": torch.tensor([1, 0, 1]) > 0,
    }
    with TensorDB.open(tmp_path / "x", "w", schema=schema, block_size=2) as database:
        database.write(fields)
    with TensorBlob.open(tmp_path / "x" / "price", "a") as column:
        column.write(torch.ones(1, 1))  # As a crash in the middle of a write leaves it.
    reader = guess(tmp_path / "x").read([tmp_path / "x"], ReadOptions())
    assert any("never committed" in note for note in reader.outline.notes)
    got = whole(reader)
    assert same_bits(got.vectors, fields["emb"].numpy()) and same_bits(got.ids, np.array([7, 8, 9]))
    assert got.metadata == [b'{"price":0.1,"sold":true}', b'{"sold":false}', b'{"price":3.0,"sold":true}']
    assert read("tensorblob", tmp_path / "x", ReadOptions(metadata="sold")).metadata == [
        b'{"sold":true}',
        b'{"sold":false}',
        b'{"sold":true}',
    ]


@pytest.mark.parametrize("dtype", ["float32", ">f8", "bfloat16"])
def test_raw_numbers_of_any_dtype(dtype: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, FORMATS["raw"])
    if dtype == "bfloat16":
        tensor = torch.from_numpy(ROWS).bfloat16()
        path.write_bytes(tensor.view(torch.int16).numpy().tobytes())
        wanted = tensor.float().numpy()
    else:
        path.write_bytes(ROWS.astype(dtype).tobytes())
        wanted = ROWS.astype(np.dtype(dtype).newbyteorder("="))
    for shape in ((12, 5), (-1, 5), (5,)):
        assert same_bits(read("raw", path, ReadOptions(dtype=dtype, shape=shape)).vectors, wanted)
    for shape in ((11, 5), (-1, 7), (0, 5)):
        with pytest.raises(BadFile, match="bytes are not"):
            read("raw", path, ReadOptions(dtype=dtype, shape=shape))


def test_numpy_maps_what_is_written(tmp_path: Path) -> None:
    rows = rows_of(50)
    write(FORMATS["raw"], tmp_path / "x.raw", rows)
    assert same_bits(np.array(np.memmap(tmp_path / "x.raw", np.float32, "r", shape=(50, 5))), rows.vectors)


@pytest.mark.parametrize("name", DENSE)
def test_an_option_that_means_nothing_is_refused(name: str, tmp_path: Path) -> None:
    path = path_of(tmp_path, FORMATS[name])
    write(FORMATS[name], path, rows_of(10))
    refused = ReadOptions(ids="ids", dtype="float32", shape=(5,))
    with pytest.raises(BadFile, match="means nothing here"):
        FORMATS[name].read([path], refused)
