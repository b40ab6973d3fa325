"""HDF5 as others write it, and as nobody should."""

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from storage.files.contract import BadFile, ReadOptions
from storage.files.formats import FORMATS
from storage.files.ground_truth import ground_truth
from storage.files.hdf5_rows import BAND_BYTES_MAX
from tests.files.tripping import READ, matrix, read, sparse

X = np.random.default_rng(1).standard_normal((300, 20)).astype(np.float32)
LABELS = np.arange(300) % 10


def written(path: Path, fill: Callable[[h5py.File], Any], **how: Any) -> Path:
    with h5py.File(path, "w", **how) as file:
        fill(file)
    return path


def dataset(file: h5py.File, **how: Any) -> None:
    file.create_dataset("vectors", data=X, **how)


LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks that end beyond it": {"chunks": (77, 7)},
    "gzip": {"chunks": (64, 20), "compression": "gzip"},
    "gzip, shuffled, summed": {"chunks": (50, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "summed alone": {"chunks": (31, 20), "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "lzf, shuffled, summed": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "blosc": dict(hdf5plugin.Blosc()),
    "blosc, bits": {"chunks": (100, 20), **hdf5plugin.Blosc(cname="zstd", shuffle=hdf5plugin.Blosc.BITSHUFFLE)},
}


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, userblock: int, tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5", lambda file: dataset(file, **LAYOUTS[layout]), userblock_size=userblock)
    assert read("hdf5", path).vectors.tobytes() == X.tobytes()


def test_a_compact_one_and_either_byte_order(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((300, 20))
        found = h5py.h5d.create(file.id, b"vectors", h5py.h5t.IEEE_F32BE, space, how)
        found.write(h5py.h5s.ALL, h5py.h5s.ALL, X)
        file.create_dataset("big", data=X.astype(">f8"))

    path = written(tmp_path / "f.h5", fill)
    assert read("hdf5", path).vectors.tobytes() == X.tobytes()
    assert (read("hdf5", path, ReadOptions(vectors="big")).vectors == X.astype(np.float64)).all()


def test_any_path_with_what_lies_beside_it(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["a/b/emb"] = X.reshape(300, 4, 5)
        file["a/b/ids"] = [f"é{i}" for i in range(300)]
        file["a/b/label"] = LABELS
        file["fields/weight"] = np.linspace(0, 1, 300)
        file["fields/weight"][5] = np.nan
        file["fields/seen"] = LABELS > 4
        file["fields/place"] = X[:, :2].astype(np.float64)
        file["fields/name"] = np.array([f"n{i}" for i in range(300)], "S9")

    path = written(tmp_path / "f.h5", fill)
    with pytest.raises(BadFile, match="3 dimensions"):
        read("hdf5", path, ReadOptions(vectors="a/b/emb"))
    found = read("hdf5", path, ReadOptions(vectors="/a/b/emb", flatten=True, metadata="a/b/label, fields"))
    assert found.vectors.tobytes() == X.tobytes()
    assert found.ids == [f"é{i}" for i in range(300)]
    assert found.metadata is not None
    first = f'"place":[{float(X[5, 0])},{float(X[5, 1])}]'.encode()
    assert found.metadata[5] == b'{"label":5,"name":"n5",' + first + b',"seen":true,"weight":null}'


def test_whole_numbers_of_any_width_are_ids(tmp_path: Path) -> None:
    """What is no id is told by its row."""
    path = written(tmp_path / "f.h5", lambda f: (dataset(f), f.create_dataset("ids", data=np.arange(300, dtype="<u2"))))
    assert read("hdf5", path).ids == list(range(300))
    with h5py.File(path, "a") as file:
        del file["ids"]
        file["ids"] = np.array([*range(299), 2**63], np.uint64)
    with pytest.raises(BadFile, match="not in 0") as e:
        read("hdf5", path)
    assert e.value.row == 299


def test_which_are_the_vectors(tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5", lambda f: (f.create_dataset("x", data=X), f.create_dataset("label", data=LABELS)))
    assert read("hdf5", path).vectors.tobytes() == X.tobytes()
    with h5py.File(path, "a") as file:
        file["y"] = X
    with pytest.raises(BadFile, match="'x', 'y': say which"):
        read("hdf5", path)
    for asked, words in {"z": "there is none", "label": "must be float", "/q/r": "there is none"}.items():
        with pytest.raises(BadFile, match=words):
            read("hdf5", path, ReadOptions(vectors=asked))


def test_ann_benchmarks(tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        file["train"], file["test"] = X, X[:7]
        file["neighbors"] = np.arange(70).reshape(7, 10)
        file["distances"] = np.zeros((7, 10), np.float32)
        file.attrs["distance"] = "angular"

    path = written(tmp_path / "f.hdf5", fill)
    reader = FORMATS["ann"].read([path], ReadOptions())
    found = ground_truth(reader)
    reader.close()
    assert found is not None and found.metric == "cosine"
    assert (found.queries == X[:7]).all() and found.neighbors[6, 9] == 69
    with h5py.File(path, "a") as file:
        file["neighbors"][3, 3] = 300
    with pytest.raises(BadFile, match="rows that are not there"):
        read("ann", path)
    with h5py.File(path, "a") as file:
        del file["neighbors"]
    assert len(read("hdf5", path, ReadOptions(vectors="train")).vectors) == 300
    with pytest.raises(BadFile, match="no file of ann-benchmarks"):
        read("ann", path)


def test_csr_groups(tmp_path: Path) -> None:
    """As AnnData writes one, with indices alone, in the root, and as lists; where the columns must be said."""
    rows = sparse(300, None, False).batch.vectors
    wanted = matrix(rows, 500)
    lists = [rows.indices[a:b].astype(np.int32) for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)]

    def fill(file: h5py.File) -> None:
        for name in ("X", "ones", "/"):
            group = file.require_group(name)
            group["indices"], group["indptr"] = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
        file["X"].create_dataset("data", data=rows.values.astype(np.float64), compression="gzip", chunks=(100,))
        file["X"].attrs["shape"] = (300, 500)
        file["X"].attrs["encoding-type"] = "csr_matrix"
        kind = h5py.vlen_dtype(np.int32)
        made = file.create_dataset("lists", (300,), kind)
        for row, columns in enumerate(lists):
            made[row] = columns

    path = written(tmp_path / "f.h5", fill)
    assert (read("hdf5", path, ReadOptions(vectors="X")).vectors != wanted).nnz == 0
    with pytest.raises(BadFile, match="say it: shape="):
        read("hdf5", path, ReadOptions(vectors="ones"))
    for name in ("ones", "/", "lists", None):
        found = read("hdf5", path, ReadOptions(vectors=name, shape=(-1, 500))).vectors
        assert (found != (wanted != 0).astype(np.float32)).nnz == 0


# What must not be read.


def linked(name: str) -> Callable[[h5py.File], None]:
    def fill(file: h5py.File) -> None:
        file["inside/x"] = X
        file["vectors"] = {
            "soft": h5py.SoftLink("/inside/x"),
            "dangling": h5py.SoftLink("/nowhere"),
            "external": h5py.ExternalLink("other.h5", "/vectors"),
            "to itself": h5py.SoftLink("/vectors"),
        }[name]

    return fill


def external_storage(file: h5py.File) -> None:
    file.create_dataset("vectors", (300, 20), "<f4", external=[("other.raw", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((300, 20), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "vectors", (300, 20))
    file.create_virtual_dataset("vectors", layout)


def huge(file: h5py.File) -> None:
    """512 TB, of which nothing is there."""
    file.create_dataset("vectors", (2**40, 128), "<f4", chunks=(1024, 128), compression="gzip")


def never_written(file: h5py.File) -> None:
    file.create_dataset("vectors", (300, 20), "<f4")


def half_written(file: h5py.File) -> None:
    file.create_dataset("vectors", (300, 20), "<f4", chunks=(100, 20))[:100] = 1


def references(file: h5py.File) -> None:
    file["x"] = X
    file.create_dataset("vectors", (300, 2), h5py.ref_dtype)[0, 0] = file["x"].ref


def wide_chunks(file: h5py.File) -> None:
    rows = BAND_BYTES_MAX // 80 + 1
    file.create_dataset("vectors", (rows, 20), "<f4", chunks=(rows, 20), compression="gzip")
    # So large a file that what it claims could be there.
    file.create_dataset("zeros", data=np.zeros(1 << 18, np.uint8))


def another_filter(file: h5py.File) -> None:
    file.create_dataset("vectors", data=X, **hdf5plugin.Zstd())


def in_a_cycle(file: h5py.File) -> None:
    file.create_group("a")["b"] = file["/"]


def odd_floats(file: h5py.File) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    h5py.h5d.create(file.id, b"vectors", kind, h5py.h5s.create_simple((300, 20))).write(h5py.h5s.ALL, h5py.h5s.ALL, X)


def compound(file: h5py.File) -> None:
    file["vectors"] = np.zeros((300, 20), [("a", "<f4"), ("b", "<f4")])


def text(file: h5py.File) -> None:
    file["vectors"] = ["a"] * 300


def no_group(file: h5py.File) -> None:
    file["vectors/indices"] = LABELS


REFUSED: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    **{
        f"a link, {name}": (linked(name), "link to elsewhere") for name in ("soft", "dangling", "external", "to itself")
    },
    "external storage": (external_storage, "external storage"),
    "virtual": (virtual, "virtual dataset"),
    "huge": (huge, "claims 562,949,953,421,312 bytes"),
    "never written": (never_written, "no data in the file"),
    "half written": (half_written, "rows from 100 were never written"),
    "references": (references, "must be float"),
    "wide chunks": (wide_chunks, "h5repack"),
    "another filter": (another_filter, "only gzip, lzf and blosc"),
    "a cycle": (in_a_cycle, "there is none"),
    "odd floats": (odd_floats, "must be float"),
    "compound": (compound, "must be float"),
    "text": (text, "must be float"),
    "half a CSR group": (no_group, "without indices and indptr"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    fill, words = REFUSED[name]
    written(tmp_path / "other.h5", dataset)
    (tmp_path / "other.raw").write_bytes(X.tobytes())
    path = written(tmp_path / "f.h5", fill)
    with pytest.raises(BadFile, match=words):
        read("hdf5", path, ReadOptions(vectors="vectors"))


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "other.h5", lambda f: f.create_dataset("g/vectors", data=X))
    path = written(tmp_path / "f.h5", lambda f: f.__setitem__("far", h5py.ExternalLink("other.h5", "/g")))
    for name in ("far/vectors", "far"):
        with pytest.raises(BadFile, match="link to elsewhere"):
            read("hdf5", path, ReadOptions(vectors=name))


def chunked_with(path: Path, chunk: bytes, **how: Any) -> Path:
    """A dataset of one chunk of 64 KiB, stored as those bytes."""
    with h5py.File(path, "w") as file:
        made = file.create_dataset("vectors", (1024, 16), "<f4", chunks=(1024, 16), **how)
        made.id.write_direct_chunk((0, 0), chunk)
        # A file so large that the whole could be in it.
        file["more"] = np.zeros(1 << 16, np.uint8)
    return path


@pytest.mark.parametrize(
    ("chunk", "how"),
    [
        (zlib.compress(bytes(1 << 28)), {"compression": "gzip"}),
        (zlib.compress(bytes(1 << 16))[:-9], {"compression": "gzip"}),
        (zlib.compress(bytes(100)), {"compression": "gzip"}),
        (b"no zlib", {"compression": "gzip"}),
        (struct.pack("<4BIII", 2, 1, 1, 4, 2**31 - 1, 1 << 16, 16) + bytes(32), dict(hdf5plugin.Blosc())),
        (b"short", dict(hdf5plugin.Blosc())),
        (bytes(1 << 17), {"compression": "lzf"}),
        (bytes(60_000), {}),
        (bytes(1 << 16) + b"\1\2\3\4", {"fletcher32": True}),
    ],
    ids=["bomb", "cut", "too little", "no gzip", "blosc bomb", "no blosc", "long lzf", "short", "wrong sum"],
)
def test_chunks_that_lie(chunk: bytes, how: dict[str, Any], tmp_path: Path) -> None:
    path = chunked_with(tmp_path / "f.h5", chunk, **how)
    began = time.process_time()
    with pytest.raises(BadFile):
        read("hdf5", path)
    assert time.process_time() - began < 5


def test_a_heap_that_lies(tmp_path: Path) -> None:
    """Text of variable length is read past HDF5, which hangs on some of these."""
    path = written(
        tmp_path / "f.h5", lambda f: (dataset(f), f.create_dataset("ids", data=[f"item {i}" for i in range(300)]))
    )
    good = path.read_bytes()
    heap = good.index(b"GCOL")
    for at, raw in ((heap, b"XCOL"), (heap + 8, bytes(8)), (heap + 8, b"\xff" * 8), (heap + 24, b"\xff" * 8)):
        path.write_bytes(good[:at] + raw + good[at + len(raw) :])
        with pytest.raises(BadFile, match="ids"):
            read("hdf5", path)


def test_metadata_that_is_none(tmp_path: Path) -> None:
    for items, row in ((["{}"] * 200 + ["[]"] + ["{}"] * 99, 200), (["{}"] * 299, None), ([b"\xff"] * 300, 0)):
        path = written(tmp_path / "f.h5", lambda f, items=items: (dataset(f), f.create_dataset("metadata", data=items)))
        with pytest.raises(BadFile, match="metadata") as e:
            read("hdf5", path)
        assert e.value.row == row


def test_cut_anywhere(tmp_path: Path) -> None:
    path = written(
        tmp_path / "f.h5", lambda f: (dataset(f, **LAYOUTS["gzip"]), f.create_dataset("ids", data=["a"] * 300))
    )
    good = path.read_bytes()
    for length in range(0, len(good), 997):
        path.write_bytes(good[:length])
        with pytest.raises(BadFile):
            read("hdf5", path)


def test_batches_keep_to_what_they_may_hold(tmp_path: Path) -> None:
    """Bands of chunks cut the batches nowhere."""
    path = written(tmp_path / "f.h5", lambda f: dataset(f, chunks=(64, 20), compression="gzip"))
    reader = FORMATS["hdf5"].read([path], ReadOptions())
    assert [batch.rows for batch in reader.batches(READ)] == [READ] * 4 + [300 - 4 * READ]
    reader.close()


def test_long_fields_make_short_batches(tmp_path: Path) -> None:
    """Of text of either kind, and of numbers; beside ids, of which all are read."""
    for long in (
        [f"{i:060000}" for i in range(300)],
        np.array([f"{i:060000}" for i in range(300)], "S60000"),
        np.arange(300)[:, None] + np.zeros(8000, np.int64),
    ):
        path = written(
            tmp_path / "f.h5",
            lambda f, long=long: (dataset(f), f.create_dataset("ids", data=LABELS), f.create_dataset("a", data=long)),
        )
        reader = FORMATS["hdf5"].read([path], ReadOptions(metadata="a,ids"))
        batches = list(reader.batches(300))
        reader.close()
        assert sum(batch.rows for batch in batches) == 300 and max(batch.rows for batch in batches) < 200
        assert np.concatenate([batch.vectors for batch in batches]).tobytes() == X.tobytes()
        assert all(len(batch.metadata or ()) == len(list(batch.ids)) == batch.rows for batch in batches)  # type: ignore[arg-type]
