"""Ids and metadata in files beside vectors whose format holds neither."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from app.engine.sources import open_files, unpacked
from seedvec.sending import body_of, given_files
from storage.files import sidecars
from storage.files.contract import METADATA_BYTES_MAX, BadFile, Batch, ReadOptions, Sparse, WriteOptions
from storage.files.formats import FORMATS
from storage.files.lines import TAKEN_BYTES_MAX
from tests.files.kit import DENSE, batches_of, outline_of, path_of, rows_of, same_bits, whole, write


@pytest.mark.parametrize("name", DENSE)
def test_what_stands_beside_a_file_or_folder_is_found(name: str, tmp_path: Path) -> None:
    rows, path = rows_of(90, ids="str", metadata=True), path_of(tmp_path, FORMATS[name])
    write(FORMATS[name], path, rows, "str")
    raw = name in ("raw", "shards")
    options = ReadOptions(dtype="float32", shape=(90, 5)) if raw else ReadOptions()
    got = whole(open_files([path], None, None, name, options))
    assert same_bits(got.vectors, rows.vectors) and got.ids == rows.ids and got.metadata == rows.metadata


@pytest.mark.parametrize("folder", ["x.blob", "x", "v1.2"])
def test_what_stands_beside_a_folder_is_sent_with_it(folder: str, tmp_path: Path) -> None:
    rows, path = rows_of(90, ids="str", metadata=True), tmp_path / folder
    write(FORMATS["tensorblob"], path, rows, "str")
    with (tmp_path / "sent.tar").open("wb") as tar:
        tar.writelines(body_of(given_files([path], None, None)).chunks(lambda _: None))
    got = whole(open_files(unpacked(tmp_path / "sent.tar", tmp_path / "there"), None, None, None, ReadOptions()))
    assert same_bits(got.vectors, rows.vectors) and got.ids == rows.ids and got.metadata == rows.metadata


def test_names(tmp_path: Path) -> None:
    for path, name in (("a/x.npy", "npy"), ("a/x.NPY", "npy"), ("a/x", "shards"), ("a/x.blob", "tensorblob")):
        assert [str(p) for p in sidecars.beside(Path(path), FORMATS[name])] == ["a/x.ids.npy", "a/x.metadata.jsonl"]
    assert sidecars.beside(Path("x.1"), FORMATS["tensorblob"])[0] == Path("x.1.ids.npy")
    assert sidecars.beside(Path(".npy"), FORMATS["npy"])[0] == Path(".npy.ids.npy")


def test_those_given_take_the_place_of_those_in_the_file(tmp_path: Path) -> None:
    write(FORMATS["npz"], tmp_path / "x.npz", rows_of(12, ids="str", metadata=True), "str")
    np.save(tmp_path / "other.npy", np.arange(12, dtype=np.uint8))
    reader = FORMATS["npz"].read([tmp_path / "x.npz"], ReadOptions())
    got = whole(sidecars.read_beside(reader, tmp_path / "other.npy", None))
    assert same_bits(got.ids, np.arange(12)) and got.metadata == rows_of(12, metadata=True).metadata


def test_a_batch_without_what_was_announced_is_refused(tmp_path: Path) -> None:
    rows = rows_of(10, ids="int", metadata=True)
    for name in ("npy", "npz", "safetensors"):
        path = path_of(tmp_path, FORMATS[name])
        writer = sidecars.write_beside(FORMATS[name], path, outline_of(rows, "int"), WriteOptions())
        with pytest.raises(ValueError, match="does not bring"):
            writer.write(batches_of(rows)[0]._replace(ids=None))
        writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors"])
def test_long_metadata_makes_short_batches(name: str, tmp_path: Path) -> None:
    rows, path = rows_of(40, ids="str"), path_of(tmp_path, FORMATS[name])
    rows = rows._replace(metadata=[b'{"a":"%s"}' % (b"%d" % row * 500_000) for row in range(10, 50)])
    write(FORMATS[name], path, rows, "str")
    reader = open_files([path], None, None, None, ReadOptions())
    sizes = [sum(map(len, batch.metadata or ())) for batch in reader.batches(40)]
    assert len(sizes) == 5 and max(sizes) < TAKEN_BYTES_MAX + METADATA_BYTES_MAX
    got = whole(reader)
    assert same_bits(got.vectors, rows.vectors) and got.ids == rows.ids and got.metadata == rows.metadata


def test_a_part_of_sparse_rows() -> None:
    sparse = Sparse(np.array([0, 2, 2, 5]), np.array([1, 4, 0, 1, 2]), np.arange(5, dtype=np.float32))
    part = Batch(sparse, [*"abc"], [None, b"{}", None]).part(1, 3)
    assert isinstance(part.vectors, Sparse) and [a.tolist() for a in part.vectors] == [[0, 0, 3], [0, 1, 2], [2, 3, 4]]
    assert part.ids == ["b", "c"] and part.metadata == [b"{}", None] and part.rows == 2


def test_spaces_and_line_ends_in_json_do_no_harm(tmp_path: Path) -> None:
    rows = rows_of(3)._replace(metadata=[b'{\r\n"a":\n1}', None, b"{}"])
    write(FORMATS["npy"], tmp_path / "x.npy", rows)
    place = sidecars.beside(tmp_path / "x.npy", FORMATS["npy"])[1]
    assert len(place.read_bytes().splitlines()) >= 3
    place.write_bytes(place.read_bytes().rstrip().replace(b"null", b"\tnull \r"))
    got = whole(open_files([tmp_path / "x.npy"], None, None, None, ReadOptions()))
    assert got.metadata == [b'{\r "a": 1}', None, b"{}"]


def test_a_reader_that_cannot_be_had_is_closed(tmp_path: Path) -> None:
    write(FORMATS["npy"], tmp_path / "x.npy", rows_of(3))
    reader = FORMATS["npy"].read([tmp_path / "x.npy"], ReadOptions())
    with pytest.raises(BadFile):
        sidecars.read_beside(reader, tmp_path / "none", None)
    with pytest.raises(ValueError, match="closed"):
        next(reader.batches(3))


@pytest.mark.parametrize("names", [["\0"], ["x" * 300], ["a", "a/b"], ["a/b", "a"], ["../x.npy"], ["/x.npy"]])
def test_a_tar_whose_names_are_none(names: list[str], tmp_path: Path) -> None:
    """What the system says of a name is the file's fault, not the disk's."""
    with tarfile.open(tmp_path / "sent.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(BadFile) as refused:
        open_files(unpacked(tmp_path / "sent.tar", tmp_path / "there"), None, None, None, ReadOptions())
    assert str(tmp_path) not in refused.value.detail
    assert {path.name for path in tmp_path.iterdir()} <= {"sent.tar", "there"}
