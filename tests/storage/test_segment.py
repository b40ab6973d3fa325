"""A segment is what `docs/formats.md` says, to h5py, to a memory map, and to our own reader alike."""

import random
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from seedvec.segment import SegmentError, open_segment
from storage.hashing import file_xxh3
from storage.segment import SegmentFile, SegmentWriter, write_segment

N, D = 3000, 96
STR_IDS = [f"wörd/{i}" if i % 3 else f"w{i}" for i in range(N)]


def columns(n: int = N, d: int = D, dtype: str = "float32") -> dict[str, Any]:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((n, d)).astype(dtype)
    keys = np.cumsum(rng.integers(1, 5, n)).astype(np.uint64)
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1).astype(np.float32)
    return {"vectors": vectors, "keys_rel": keys, "norms": norms}


def write(path: Path, ids: Any = None, dtype: str = "float32", n: int = N) -> SegmentFile:
    ids = np.arange(n)[::-1].copy() if ids is None else ids
    return write_segment(path, ids=ids, metric="cosine", **columns(n, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("ids", [None, STR_IDS], ids=["int", "str"])
def test_h5py_a_memory_map_and_the_reader_see_the_same(tmp_path: Path, ids: Any, dtype: str) -> None:
    path = tmp_path / "s.h5"
    written = write(path, ids, dtype)
    sent = columns(dtype=dtype)
    with h5py.File(path, "r") as file:
        offset = file["vectors"].id.get_offset()
        assert file["vectors"][:].tobytes() == sent["vectors"].tobytes()
        assert (file["keys"][:] == sent["keys_rel"]).all() and (file["norms"][:] == sent["norms"]).all()
        assert all(dataset.id.get_offset() % 4096 == 0 for dataset in file.values())
        assert dict(file.attrs) == {
            "format": b"seedvec-segment", "version": 1, "metric": b"cosine", "rows": N, "dimension": D,
        }  # fmt: skip
    mapped = np.memmap(path, dtype, "r", offset=offset, shape=(N, D))
    assert mapped.tobytes() == sent["vectors"].tobytes()
    segment = open_segment(path)
    for willneed in (False, True):
        segment.advise(willneed=willneed)
    for rows in ([], [-1, -1], [0], [N - 1, 3, 3, -1], list(range(N))):
        segment.read_ahead(np.array([rows], np.int64))
    assert segment.vectors.tobytes() == sent["vectors"].tobytes() and not segment.vectors.flags.writeable
    assert (segment.keys_rel == sent["keys_rel"]).all() and (segment.norms == sent["norms"]).all()
    assert (segment.rows, segment.dimension, segment.metric) == (N, D, "cosine")
    wanted: list[Any] = list(range(N))[::-1] if ids is None else ids
    assert segment.ids_at(range(N)) == wanted and segment.ids_at([5, 2]) == [wanted[5], wanted[2]]
    assert (written.bytes, written.xxh3) == file_xxh3(path) == (path.stat().st_size, written.xxh3)


@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_goes_while_it_is_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """A reader tells by the name whether it is still the same file that is gone. late: HDF5 had opened it already, and
    cannot ask about it any more."""
    path = tmp_path / "s.h5"
    write(path)
    opened = h5py.File

    def takes_it_away(*args: Any, **options: Any) -> h5py.File:
        path.unlink()
        if late:
            raise OSError("Unable to synchronously open file (can't retrieve stat info for file)")
        return opened(*args, **options)

    monkeypatch.setattr(h5py, "File", takes_it_away)
    with pytest.raises(FileNotFoundError) as gone:
        open_segment(path)
    assert gone.value.filename == str(path)


def test_all_string_ids_at_once(tmp_path: Path) -> None:
    for name, ids in {"ascii": [f"id-{i}" for i in range(N)], "not": STR_IDS}.items():
        write(tmp_path / name, ids)
        segment = open_segment(tmp_path / name)
        assert not isinstance(segment.ids, np.ndarray)
        assert segment.ids.all() == ids and segment.ids.consistent()


def test_block_hashes_as_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write(path)
    raw = path.read_bytes()
    with h5py.File(path, "r") as file:
        end, stored = file["block_xxh3"].id.get_offset(), file["block_xxh3"][:]
    assert end > 1 << 20, "more than one block, or this shows nothing"
    expected = [xxhash.xxh3_64_intdigest(raw[at : min(at + (1 << 20), end)]) for at in range(0, end, 1 << 20)]
    assert stored[: len(expected)].tolist() == expected and not stored[len(expected) :].any()
    assert len(raw) == end + stored.nbytes, "HDF5 put something behind the numbers, which no block covers"


@pytest.mark.parametrize("ids", [None, STR_IDS], ids=["int", "str"])
def test_written_in_chunks_it_is_the_same_file(tmp_path: Path, ids: Any) -> None:
    whole = write(tmp_path / "whole.h5", ids)
    ids = np.arange(N)[::-1].copy() if ids is None else ids
    total = None if isinstance(ids, np.ndarray) else sum(len(i.encode()) for i in ids)
    c = columns()
    with SegmentWriter(tmp_path / "parts.h5", N, D, np.float32, "cosine", total) as writer:
        for a, b in [(0, 1), (1, 1), (1, 2000), (2000, N)]:
            writer.append(c["vectors"][a:b], c["keys_rel"][a:b], ids[a:b], c["norms"][a:b])
        parts = writer.finish()
    assert parts == whole
    assert (tmp_path / "parts.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    """HDF5 puts times into its headers unless told not to, to the second."""
    first = write(tmp_path / "1.h5")
    time.sleep(1.1)
    assert write(tmp_path / "2.h5") == first


def test_arrays_outlive_the_file_and_its_segment(tmp_path: Path) -> None:
    write(tmp_path / "s.h5")
    vectors = open_segment(tmp_path / "s.h5").vectors
    (tmp_path / "s.h5").unlink()
    assert vectors.tobytes() == columns()["vectors"].tobytes()


def _bad(change: dict[str, Any]) -> dict[str, Any]:
    return {"ids": np.arange(N), "metric": "l2", **columns(), **change}


BAD: dict[str, dict[str, Any]] = {
    "no rows": _bad({**{k: v[:0] for k, v in columns().items()}, "ids": np.arange(0)}),
    "keys that repeat": _bad({"keys_rel": np.zeros(N, np.uint64)}),
    "keys that fall": _bad({"keys_rel": columns()["keys_rel"][::-1]}),
    "too few ids": _bad({"ids": np.arange(N - 1)}),
    "float64": _bad({"vectors": columns(dtype="float64")["vectors"]}),
    "a metric of our own": _bad({"metric": "manhattan"}),
    "an empty id": _bad({"ids": ["", *STR_IDS[1:]]}),
    "an id of 513 bytes": _bad({"ids": ["x" * 513, *STR_IDS[1:]]}),
    "a negative id": _bad({"ids": np.arange(N) - 1}),
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_segment_may_hold_is_refused_and_leaves_no_file(tmp_path: Path, what: str) -> None:
    with pytest.raises(ValueError):
        write_segment(tmp_path / "s.h5", **BAD[what])
    assert list(tmp_path.iterdir()) == []


def test_too_few_and_too_many_rows_leave_no_file(tmp_path: Path) -> None:
    c = columns()
    row: tuple[Any, ...] = (c["vectors"][:10], c["keys_rel"][:10], np.arange(10), c["norms"][:10])
    for announced in (9, 11):
        with pytest.raises(ValueError), SegmentWriter(tmp_path / "s", announced, D, "f4", "l2", None) as w:
            w.append(*row)
            w.finish()
        assert list(tmp_path.iterdir()) == []


def _replaced(file: h5py.File, name: str, data: NDArray[Any], **how: Any) -> None:
    del file[name]
    file.create_dataset(name, data=data, **how)


def _chunked(file: h5py.File, folder: Path) -> None:
    _replaced(file, "vectors", file["vectors"][:], chunks=(100, D))


def _external(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(b"x" * N * 4)
    del file["norms"]
    file.create_dataset("norms", (N,), "f4", external=[(str(folder / "secret"), 0, N * 4)])


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((N,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "norms", (N,))
    del file["norms"]
    file.create_virtual_dataset("norms", layout)


def _linked(file: h5py.File, folder: Path) -> None:
    file.move("norms", "elsewhere")
    file["norms"] = h5py.SoftLink("/elsewhere")


def _linked_out(file: h5py.File, folder: Path) -> None:
    del file["norms"]
    file["norms"] = h5py.ExternalLink(str(folder / "other.h5"), "norms")


def _group(file: h5py.File, folder: Path) -> None:
    del file["norms"]
    file.create_group("norms")


def _unaligned(file: h5py.File, folder: Path) -> None:
    file.create_dataset("pad", data=np.zeros(3, "u1"))
    file.create_dataset("more", data=np.zeros(N, "f4"))
    del file["norms"]
    file.move("more", "norms")


SPOILS: dict[str, Any] = {
    "not contiguous": _chunked,
    "external": _external,
    "not contiguous (virtual)": _virtual,
    "is a link": _linked,
    "is a link (out)": _linked_out,
    "no dataset": _group,
    "missing": lambda file, folder: file.__delitem__("keys"),
    "not a seedvec segment": lambda file, folder: file.attrs.modify("format", np.bytes_(b"another")),
    "not a seedvec segment (text in the heap)": lambda file, folder: file.attrs.create("format", "seedvec-segment"),
    "version 3": lambda file, folder: file.attrs.modify("version", 3),
    "unknown metric": lambda file, folder: file.attrs.modify("metric", np.bytes_(b"xx")),
    "should be": lambda file, folder: file.attrs.modify("rows", N - 1),
    "0 rows": lambda file, folder: file.attrs.modify("rows", 0),
    "multiple of 4096": _unaligned,
    "of type >f4": lambda file, folder: _replaced(file, "vectors", np.zeros((N, D), ">f4")),
}


@pytest.mark.parametrize("why", SPOILS)
def test_the_reader_refuses(tmp_path: Path, why: str) -> None:
    path = tmp_path / "s.h5"
    write(path)
    with h5py.File(path, "r+") as file:
        SPOILS[why](file, tmp_path)
    with pytest.raises(SegmentError, match=why.split(" (")[0]):
        open_segment(path)


@pytest.mark.parametrize("length", [0, 100, 4096, 30_000, -4096, -8, -1])
def test_the_reader_refuses_a_file_that_was_cut(tmp_path: Path, length: int) -> None:
    path = tmp_path / "s.h5"
    write(path)
    raw = path.read_bytes()
    path.write_bytes(raw[:length])
    with pytest.raises(SegmentError):
        open_segment(path)


def test_flipped_bits_in_the_headers_are_refused_or_harmless(tmp_path: Path) -> None:
    """Text attributes of variable length hung HDF5 for good here, and undamaged-looking offsets would be worse."""
    path, damaged = tmp_path / "s.h5", tmp_path / "d.h5"
    write(path, n=40)
    raw, sound = path.read_bytes(), open_segment(path)
    headers = range(sound.extents["vectors"].offset)
    written = [i for i in headers if raw[i]]
    rng, refused = random.Random(3), 0
    for _ in range(400):
        spoilt = bytearray(raw)
        for _ in range(rng.choice([1, 1, 3, 20])):
            spoilt[rng.choice(written)] ^= 1 << rng.randrange(8)
        damaged.write_bytes(spoilt)
        try:
            found = open_segment(damaged)
            assert found.extents == sound.extents and found.metric == sound.metric
        except SegmentError:
            refused += 1
    assert refused > 100
