"""Files that lie, are cut, or are made to harm: a BadFile, never another exception, never memory that they ask for."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.files import npz, sidecars
from storage.files.contract import DIMENSION_MAX, BadFile, Batch, ReadOptions
from storage.files.formats import FORMATS
from tests.files.kit import DENSE, options_for, path_of, read, rows_of, same_bits, write

MEMORY_BYTES = 24 << 20
"""What any of these small files may take: chunks and headers, nothing that grows with what they claim."""
WHOLE = rows_of(12, ids="str", metadata=True)


@contextmanager
def little_memory() -> Iterator[None]:
    """Nothing within may allocate more than MEMORY_BYTES at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


def npy(text: str, data: bytes = b"") -> bytes:
    """A `.npy` of that header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str, shape: list[Any], *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def saved(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


GOOD = saved(np.ones((3, 4), np.float32))
ZIP = zipped({"vectors.npy": GOOD}, zipfile.ZIP_STORED)
DIRECTORY = ZIP.rindex(b"PK\x01\x02")
END = ZIP.rindex(b"PK\x05\x06")
F4 = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
NPY = {
    "empty": b"",
    "text": b"1,2,3\n4,5,6\n",
    "512 TB": npy(F4 % "(1000000000000, 128)"),
    "an extent of 400 digits": npy(F4 % f"({'9' * 400}, 4)"),
    "negative": npy(F4 % "(-1, 4)", bytes(16)),
    "negative twice": npy(F4 % "(-1, -4)", bytes(16)),
    "NaN": npy(F4 % "(nan, 4)", bytes(16)),
    "a float": npy(F4 % "(1.0, 4)", bytes(16)),
    "no dimension": npy(F4 % "()", bytes(4)),
    "a width of 0": npy(F4 % "(4, 0)"),
    "too wide": npy(F4 % f"(1, {DIMENSION_MAX + 1})", bytes(4 * DIMENSION_MAX + 4)),
    "one number too few": GOOD[:-4],
    "one byte more": GOOD + b"\0",
    "pickles": saved(np.array([[{}]], object), allow_pickle=True),
    "a pickle": pickle.dumps(np.ones((2, 2))),
    "a structure": saved(np.zeros(3, [("a", "<f4")])),
    "complex": saved(np.zeros((3, 2), np.complex64)),
    "long doubles": saved(np.zeros((3, 2), np.longdouble)),
    "whole numbers": saved(np.zeros((3, 2), np.int32)),
    "a header bomb": npy("(" * 9000),
    "a call": npy("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (1, 1)}"),
}
NPZ = {
    "empty": b"",
    "no zip": GOOD,
    "an empty zip": zipped({}),
    "no array": zipped({"a.txt": b"x"}),
    "a bomb of zeros": zipped({"vectors.npy": npy(F4 % "(200000, 128)", bytes(200_000 * 512))}),
    "a member that says it is small": changed(ZIP, DIRECTORY + 24, struct.pack("<L", 20)),
    "two sizes": changed(ZIP, DIRECTORY + 20, struct.pack("<L", 20)),
    "encrypted": changed(ZIP, DIRECTORY + 8, b"\x01"),
    "packed in another way": changed(ZIP, DIRECTORY + 10, b"\x0c"),
    "a member behind the directory": changed(ZIP, DIRECTORY + 42, struct.pack("<L", len(ZIP))),
    "a member of 2^64 bytes": changed(ZIP, DIRECTORY + 20, b"\xff" * 8),
    "more members than there are": changed(ZIP, END + 10, b"\x09"),
    "a directory elsewhere": changed(ZIP, END + 16, struct.pack("<L", 1)),
    "the wrong checksum": changed(ZIP, DIRECTORY + 16, b"abcd"),
    "a bit more in the numbers": changed(ZIP, ZIP.index(b"\x80?") + 40, b"\x81"),
    "no UTF-8 in an id": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.array([b"a", b"\xff", b"c"]))}),
    "an id of half a character": zipped(
        {"vectors.npy": GOOD, "ids.npy": saved(np.array([0x41, 0xD800, 0x42], "<u4")).replace(b"<u4", b"<U1")}
    ),
    "an id past Unicode": zipped(
        {"vectors.npy": GOOD, "ids.npy": saved(np.array([0x41, 0x7FFFFFFF, 0x42], "<u4")).replace(b"<u4", b"<U1")}
    ),
    "an id past 2^63": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.array([1, 2**63, 3], np.uint64))}),
    "a negative id": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.array([1, -2, 3]))}),
    "ids that are floats": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.ones(3))}),
    "ids of no width": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.zeros(3, "S1")).replace(b"|S1", b"|S0")}),
    "wide ids": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.zeros(3, "U4000"))}),
    "pickled ids": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.array(["a"], object), allow_pickle=True)}),
    "too few ids": zipped({"vectors.npy": GOOD, "ids.npy": saved(np.arange(2))}),
    "too few lines": zipped({"vectors.npy": GOOD, "metadata.jsonl": b"{}\nnull\n"}),
    "too many lines": zipped({"vectors.npy": GOOD, "metadata.jsonl": b"{}\n" * 4}),
    "an empty line": zipped({"vectors.npy": GOOD, "metadata.jsonl": b"{}\n\n{}"}),
    "a line that is no object": zipped({"vectors.npy": GOOD, "metadata.jsonl": b"{}\n[1]\n{}"}),
    "a line of 30 MB": zipped({"vectors.npy": GOOD, "metadata.jsonl": b"{" + b" " * 30_000_000 + b"}"}),
}
ONE = tensor("F32", [3, 4], 0, 48)
SAFETENSORS = {
    "empty": b"",
    "a length alone": b"\x10" + bytes(7),
    "a length of 2^63": safetensors({"x": ONE}, bytes(48), 2**63),
    "a header of 99 MB": safetensors({"x": ONE}, bytes(48), 99_000_000),
    "no JSON": safetensors(b"{nope", bytes(48)),
    "no UTF-8": safetensors(b'{"\xff": 1}', bytes(48)),
    "an array": safetensors([ONE], bytes(48)),
    "deep": safetensors(b"[" * 100_000),
    "NaN": safetensors(b'{"x": {"dtype": "F32", "shape": [NaN, 4], "data_offsets": [0, 48]}}', bytes(48)),
    "a number of 5,000 digits": safetensors(b'{"x": ' + b"9" * 5000 + b"}", bytes(48)),
    "a name twice": safetensors(b'{"x": 1, "x": 1}', bytes(48)),
    "512 TB": safetensors({"x": tensor("F32", [10**12, 128], 0, 512 * 10**12)}, bytes(48)),
    "more than it has": safetensors({"x": tensor("F32", [3, 5], 0, 60)}, bytes(48)),
    "less than it has": safetensors({"x": tensor("F32", [3, 3], 0, 36)}, bytes(48)),
    "a gap": safetensors({"x": tensor("F32", [3, 3], 12, 48)}, bytes(48)),
    "overlapping": safetensors({"x": ONE, "y": ONE}, bytes(48)),
    "negative": safetensors({"x": tensor("F32", [-3, -4], 0, 48)}, bytes(48)),
    "backwards": safetensors({"x": tensor("F32", [3, 4], 48, 0)}, bytes(48)),
    "another size": safetensors({"x": tensor("F32", [3, 4], 0, 44), "y": tensor("U8", [4], 44, 48)}, bytes(48)),
    "true": safetensors({"x": tensor("F32", [True, 12], 0, 48)}, bytes(48)),
    "a dtype of no one": safetensors({"x": tensor("F33", [3, 4], 0, 48)}, bytes(48)),
    "a dtype that is a list": safetensors({"x": tensor([], [3, 4], 0, 48)}, bytes(48)),  # type: ignore[arg-type]
    "100,000 dimensions": safetensors({"x": tensor("F32", [1] * 10**5, 0, 4)}, bytes(4)),
    "nothing but whole numbers": safetensors({"x": tensor("I32", [3, 4], 0, 48)}, bytes(48)),
    "8 bit floats": safetensors({"x": tensor("F8_E4M3", [3, 4], 0, 12)}, bytes(12)),
    "ids of three dimensions": safetensors({"x": ONE, "ids": tensor("U8", [3, 1, 1], 48, 51)}, bytes(51)),
    "ids that are floats": safetensors({"x": ONE, "ids": tensor("F32", [3], 48, 60)}, bytes(60)),
    "metadata that are numbers": safetensors({"x": ONE, "metadata": tensor("I64", [1], 48, 56)}, bytes(56)),
}
FILES = [
    *(("npy", what, data) for what, data in NPY.items()),
    *(("npz", what, data) for what, data in NPZ.items()),
    *(("safetensors", what, data) for what, data in SAFETENSORS.items()),
]


@pytest.mark.parametrize(("name", "what", "data"), FILES, ids=[f"{name}: {what}" for name, what, _ in FILES])
def test_hostile(name: str, what: str, data: bytes, tmp_path: Path) -> None:
    path = path_of(tmp_path, FORMATS[name])
    path.write_bytes(data)
    with little_memory(), pytest.raises(BadFile) as refused:
        read(name, path)
    assert 10 < len(refused.value.detail) < 500, refused.value.detail


def conf(**changes: Any) -> bytes:
    notes = {"class_name": "tensorblob._blob.TensorBlob"}
    return json.dumps({"__notes__": notes, "block_size": 2, "dtype": "float32", "shape": [2], **changes}).encode()


def stat(**changes: Any) -> bytes:
    return json.dumps({"len": 3, "bds": ["a", "b"], **changes}).encode()


BLOBS: dict[str, dict[str, bytes]] = {
    "no JSON": {".conf": b"{"},
    "no object": {".stat": b"[]"},
    "another class": {".conf": conf(__notes__={"class_name": "os.system"})},
    "no notes": {".conf": b'{"block_size": 2, "dtype": "float32", "shape": [2]}'},
    "notes that are a list": {".conf": conf(__notes__=[])},
    "a dtype of no one": {".conf": conf(dtype="quint8")},
    "whole numbers": {".conf": conf(dtype="int32")},
    "a dtype that is a list": {".conf": conf(dtype=[])},
    "512 TB": {".conf": conf(block_size=10**12), ".stat": stat(len=10**12)},
    "512 TB in a row": {".conf": conf(shape=[10**14])},
    "a negative shape": {".conf": conf(shape=[-2])},
    "a shape of nothing": {".conf": conf(shape=[0])},
    "a shape of floats": {".conf": conf(shape=[2.0])},
    "100,000 dimensions": {".conf": conf(shape=[1] * 10**5)},
    "a block of nothing": {".conf": conf(block_size=0)},
    "a block of true": {".conf": conf(block_size=True)},
    "a negative length": {".stat": stat(len=-1)},
    "NaN rows": {".stat": b'{"len": NaN, "bds": ["a", "b"]}'},
    "more rows than blocks": {".stat": stat(len=5)},
    "a block that is not there": {".stat": stat(bds=["a", "c"])},
    "a block elsewhere": {".stat": stat(bds=["a", "../x.blob/b"])},
    "a block above": {".stat": stat(bds=["a", ".."])},
    "a block at the root": {".stat": stat(bds=["a", "/etc/hostname"])},
    "a block without a name": {".stat": stat(bds=["a", ""])},
    "a block of a long name": {".stat": stat(bds=["a", "b" * 5000])},
    "a block named so": {".stat": stat(bds=["a", "b\0"])},
    "a block named half": {".stat": stat(bds=["a", "\ud800"])},
    "a block that is a number": {".stat": stat(bds=["a", 7])},
    "a block that is cut": {"b": bytes(15)},
    "a block that is too long": {"b": bytes(17)},
    "too much to say": {".stat": stat(bds=["a"] * 2 * 10**6)},
    "deep": {".stat": b'{"len": ' + b"[" * 100_000},
    "a database": {".conf": conf(__notes__={"class_name": "tensorblob._db.TensorDB"}, schema={"x": ["float32", [2]]})},
    "a database of itself": {
        ".conf": conf(__notes__={"class_name": "tensorblob._db.TensorDB"}, schema={"": 1, "..": 2, ".": 3})
    },
}


@pytest.mark.parametrize("what", BLOBS)
def test_hostile_tensorblobs(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "x.blob"
    folder.mkdir()
    for name, data in {".conf": conf(), ".stat": stat(), "a": bytes(16), "b": bytes(16), **BLOBS[what]}.items():
        (folder / name).write_bytes(data)
    with little_memory(), pytest.raises(BadFile):
        read("tensorblob", folder)


def test_the_tensorblob_that_those_are_made_of_is_sound(tmp_path: Path) -> None:
    for name, data in {".conf": conf(), ".stat": stat(), "a": bytes(16), "b": bytes(16)}.items():
        (tmp_path / name).write_bytes(data)
    assert same_bits(read("tensorblob", tmp_path).vectors, np.zeros((3, 2), np.float32))


def test_a_link_in_a_tensorblob_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "x.blob"
    folder.mkdir()
    for name, data in {".conf": conf(), ".stat": stat(), "a": bytes(16)}.items():
        (folder / name).write_bytes(data)
    (folder / "b").symlink_to(tmp_path / "secret")
    with pytest.raises(BadFile, match="not there"):
        read("tensorblob", folder)


def test_members_of_a_zip_that_overlap(tmp_path: Path) -> None:
    """One member's bytes named again and again: a small file that unpacks to a large one."""
    entry, end = ZIP[DIRECTORY:END], ZIP[END:]
    twice = entry + entry.replace(b"vectors.npy", b"another.npy")
    counts = struct.pack("<2HL", 2, 2, len(twice))
    (tmp_path / "x.npz").write_bytes(ZIP[:DIRECTORY] + twice + end[:8] + counts + end[16:])
    with pytest.raises(BadFile, match="overlap"):
        read("npz", tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes(ZIP[:DIRECTORY] + entry * 2 + end[:8] + counts + end[16:])
    with pytest.raises(BadFile, match="two members"):
        read("npz", tmp_path / "x.npz")


def test_a_zip_of_a_million_names(tmp_path: Path) -> None:
    entry = ZIP[DIRECTORY:END]
    place = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, len(entry) * 10**6, DIRECTORY)
    at = DIRECTORY + len(entry) * 10**6
    with open(tmp_path / "x.npz", "wb") as file:
        file.write(ZIP[:DIRECTORY])
        for _ in range(100):
            file.write(entry * 10_000)
        file.write(place + struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1) + ZIP[END : END + 8] + b"\xff" * 12 + b"\0\0")
    with little_memory(), pytest.raises(BadFile, match="1,000,000 members"):
        read("npz", tmp_path / "x.npz")


def test_a_bit_more_in_fortran_order(tmp_path: Path) -> None:
    """Read by columns, which passes by no byte in order."""
    data = bytearray(zipped({"vectors.npy": saved(np.ones((3, 4), np.float32, order="F"))}, zipfile.ZIP_STORED))
    data[data.index(b"\x80?") + 1] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(BadFile, match="its checksum is another"):
        read("npz", tmp_path / "x.npz")


def test_fortran_order_that_would_have_to_be_unpacked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", np.ones((3, 4), np.float32, order="F"))
    assert read("npz", tmp_path / "x.npz").rows == 3
    monkeypatch.setattr(npz, "ALWAYS_BYTES", 100)
    with pytest.raises(BadFile, match="save it in C order"):
        read("npz", tmp_path / "x.npz")


def test_other_members_are_not_touched(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.npy": GOOD, "bomb.npy": npy(F4 % "(200000, 128)", bytes(200_000 * 512))}))
    (tmp_path / "x.npz").write_bytes(data)
    with little_memory():
        assert read("npz", tmp_path / "x.npz", ReadOptions(vectors="a")).rows == 3


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(BadFile, match="no such file"):
        read("npy", tmp_path / "x.npy")


SIDECARS: dict[str, tuple[bytes | None, bytes | None]] = {
    "too few ids": (saved(np.arange(11)), None),
    "too many ids": (saved(np.arange(13)), None),
    "ids of two dimensions": (saved(np.arange(12).reshape(12, 1)), None),
    "no ids": (b"", None),
    "too few lines": (None, b"{}\n" * 11),
    "too many lines": (None, b"{}\n" * 13),
    "no line": (None, b""),
    "two objects in a line": (None, b"{}\n" * 11 + b"{},"),
}


@pytest.mark.parametrize("what", SIDECARS)
def test_hostile_sidecars(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    write(FORMATS["npy"], path, Batch(WHOLE.vectors))
    for place, data in zip(sidecars.beside(path, FORMATS["npy"]), SIDECARS[what], strict=True):
        if data is not None:
            place.write_bytes(data)
    with pytest.raises(BadFile):
        read("npy", path)


def part_of(name: str, folder: Path) -> tuple[Path, dict[Path, bytes]]:
    """A sound file or folder, and the bytes of its files: those of the format itself."""
    path = path_of(folder, FORMATS[name])
    held = WHOLE if FORMATS[name].holds_ids else Batch(WHOLE.vectors)
    write(FORMATS[name], path, held, "str" if FORMATS[name].holds_ids else None)
    return path, {p: p.read_bytes() for p in ([path] if path.is_file() else sorted(path.iterdir()))}


def judged(name: str, path: Path, right: Callable[[Batch], bool]) -> None:
    """BadFile, or what `right` says is so."""
    try:
        got = read(name, path, options_for(name, "float32", 5), 5)
    except BadFile:
        return
    assert right(got)


def is_whole(got: Batch) -> bool:
    return same_bits(got.vectors, WHOLE.vectors)


def is_of_its_shape(got: Batch) -> bool:
    return all(len(column) == got.rows for column in (got.ids, got.metadata) if column is not None)


@pytest.mark.parametrize("name", DENSE)
def test_cut_at_every_byte(name: str, tmp_path: Path) -> None:
    path, files = part_of(name, tmp_path)
    for file, data in files.items():
        # The block of a tensorblob is long, and all cuts of it are alike.
        for length in range(0, len(data), 1 if len(data) < 1000 else 7 if len(data) < 5000 else 10_007):
            file.write_bytes(data[:length])
            # Of raw numbers nothing says how many there were: any whole number of rows is a file.
            judged(name, path, lambda got: name in ("raw", "shards") and got.rows < WHOLE.rows)
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["npy", "npz", "safetensors", "tensorblob"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_flipped_bits(name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path, files = part_of(name, tmp_path_factory.mktemp("flips"))
    file = data.draw(st.sampled_from(sorted(files)))
    flipped = bytearray(files[file])
    for at in data.draw(st.lists(st.integers(0, min(len(flipped), 4000) - 1), min_size=1, max_size=6)):
        flipped[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(flipped)
    with little_memory():
        # A zip has checksums; nothing else can tell a number from another.
        judged(name, path, is_whole if name == "npz" else is_of_its_shape)
