"""`.pt` as people save them, and as nobody should."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.files.contract import BadFile, Batch, ReadOptions
from storage.files.formats import FORMATS
from storage.files.torch_write import PICKLE_BYTES_MAX
from tests.files.tripping import dense, read
from tests.harness import ROOT

N = 200
X = torch.from_numpy(np.random.default_rng(2).standard_normal((N, 12)).astype(np.float32))
IDS = [f"ü{i}" for i in range(N)]


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def back(path: Path, value: object, **options: Any) -> Batch:
    return read("pt", saved(path, value), ReadOptions(**options))


def notes(path: Path) -> str:
    reader = FORMATS["pt"].read([path], ReadOptions())
    reader.close()
    return " ".join(reader.outline.notes)


@pytest.mark.parametrize(
    "tensor",
    [
        X,
        X.double(),
        X.half(),
        X.t().contiguous().t(),
        X[50:150],
        torch.nn.Parameter(X),
        X.reshape(N, 3, 4),
        X[0],
        torch.empty((0, 12)),
    ],
    ids=["float32", "float64", "float16", "by columns", "a slice", "a parameter", "flattened", "one row", "no row"],
)
def test_a_tensor(tensor: torch.Tensor, tmp_path: Path) -> None:
    reader = FORMATS["pt"].read([saved(tmp_path / "x.pt", tensor)], ReadOptions(flatten=tensor.dim() == 3))
    wanted = tensor.detach().reshape(-1, 12).numpy()
    found = np.concatenate([np.empty((0, 12), wanted.dtype), *(batch.vectors for batch in reader.batches(33))])
    reader.close()
    assert found.dtype == wanted.dtype and found.tobytes() == np.ascontiguousarray(wanted).tobytes()


def test_bfloat16_is_widened_and_said_so(tmp_path: Path) -> None:
    found = back(tmp_path / "x.pt", X.bfloat16())
    assert found.vectors.tobytes() == X.bfloat16().float().numpy().tobytes()  # type: ignore[union-attr]
    assert "bfloat16 is widened to float32" in notes(tmp_path / "x.pt")


def test_a_dict_with_ids_and_what_else_is_as_long(tmp_path: Path) -> None:
    value = {
        "emb": X,
        "ids": torch.arange(N) * 5,
        "label": torch.arange(N, dtype=torch.int8),
        "place": {"at": torch.stack([torch.arange(N), torch.arange(N)], 1), "name": IDS},
        "epoch": 3,
        "model": "clip",
    }
    found = back(tmp_path / "x.pt", value)
    assert found.vectors.tobytes() == X.numpy().tobytes()  # type: ignore[union-attr]
    assert found.ids == list(range(0, 5 * N, 5)) and found.metadata is not None
    assert found.metadata[7] == '{"label":7,"place":{"at":[7,7],"name":"ü7"}}'.encode()
    assert "left out, being no value for each row: epoch, model" in notes(tmp_path / "x.pt")
    only = back(tmp_path / "x.pt", value, metadata="place/name")
    assert only.metadata is not None and only.metadata[7] == '{"name":"ü7"}'.encode()


def test_a_dict_with_nested_metadata(tmp_path: Path) -> None:
    """A dict: its values by row, or the same for all; or a list of dicts."""
    fields = {"n": list(range(N)), "model": "clip", "in": {"flag": torch.arange(N) > 3, "by": None}}
    found = back(tmp_path / "x.pt", {"a": {"vectors": X}, "ids": IDS, "metadata": fields}, vectors="a/vectors")
    assert found.ids == IDS and found.metadata is not None
    assert found.metadata[4] == b'{"n":4,"model":"clip","in":{"flag":true,"by":null}}'
    items: list[Any] = [None if i % 2 else {"i": i, "x": float("nan"), "t": torch.ones(2)} for i in range(N)]
    found = back(tmp_path / "x.pt", {"emb": X, "other": X, "metadata": items}, vectors="emb")
    assert found.metadata is not None and found.metadata[:2] == [b'{"i":0,"x":null,"t":[1.0,1.0]}', None]


def test_a_list_of_dicts(tmp_path: Path) -> None:
    """One item each, tensors of their own or views of one; metadata carried over."""
    for rows in (X, [row.clone() for row in X]):
        items = [
            {"embedding": row, "id": i, "title": f"t{i}", "mean": row.mean(), "metadata": {"deep": {"er": [i]}}}
            for i, row in enumerate(rows)
        ]
        found = back(tmp_path / "x.pt", items)
        assert found.vectors.tobytes() == X.numpy().tobytes()  # type: ignore[union-attr]
        assert found.ids == list(range(N)) and found.metadata is not None
        mean = float(X[3].mean())
        assert found.metadata[3] == f'{{"deep":{{"er":[3]}},"title":"t3","mean":{mean}}}'.encode()
    assert back(tmp_path / "x.pt", list(X.half())).vectors.tobytes() == X.half().numpy().tobytes()  # type: ignore[union-attr]


def test_torch_opens_what_is_written(tmp_path: Path) -> None:
    """Mapped, weights only; its bytes lie where a processor wants them."""
    for dtype, kind in (("float32", "str"), ("float16", "int"), ("float64", None)):
        made = dense(300, dtype, kind, kind is not None)
        path = made.write("pt", tmp_path / "x.pt")
        found = torch.load(path, weights_only=True, mmap=True)
        assert found["vectors"].numpy().tobytes() == made.batch.vectors.tobytes()  # type: ignore[union-attr]
        assert found["vectors"].data_ptr() % 64 == 0
        if kind is not None:
            ids = found["ids"] if kind == "str" else found["ids"].tolist()
            assert ids == list(made.batch.ids)  # type: ignore[arg-type]
            assert found["metadata"][:2] == [None, {"n": 1, "text": "größer ☃"}]
        # Also by whoever does not map, and by zip programs.
        assert torch.load(path)["vectors"].shape == (300, 33)
        assert zipfile.ZipFile(path).testzip() is None


def test_more_metadata_than_torch_should_hold_is_not_written(tmp_path: Path) -> None:
    made = dense(300, "float32", None, True)
    writer = FORMATS["pt"].write(tmp_path / "x.pt", made.outline, made.options)
    big = b'{"a": "' + b"x" * (PICKLE_BYTES_MAX // 299) + b'"}'
    with pytest.raises(ValueError, match="export to Parquet"):
        writer.write(Batch(made.batch.vectors, None, [big] * 300))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


# What must not be read.


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def laughs() -> object:
    """A list of two of a list of two of …: 2^40 parts in a few bytes."""
    found: Any = ["ha"]
    for _ in range(40):
        found = [found, found]
    return found


def loop() -> object:
    found: dict[str, Any] = {}
    found["again"] = found
    return found


REFUSED = {
    "no tensor": (3, "no tensor and nothing that holds some"),
    "nothing": ([], "empty list"),
    "no vectors": ({"a": 1}, "nothing that can be vectors"),
    "which": ({"a": X, "b": X}, "say which"),
    "whole numbers": ({"vectors": torch.ones((3, 4), dtype=torch.int32)}, "nothing that can be vectors"),
    "sparse": (X.to_sparse(), "dense"),
    "complex": (torch.ones((3, 4), dtype=torch.complex64), "dense"),
    "expanded": (torch.ones((1, 12)).expand(10**9, 12), "a view of another"),
    "every second": (X[::2], "a view of another"),
    "other shapes": ([{"x": X[0]}, {"x": X[0, :5]}], "the first is"),
    "none in the second": ([{"x": X[0]}, {"y": X[0]}], "has no tensor 'x'"),
    "ids missing": ({"vectors": X, "ids": IDS[:-1]}, "199 ids and 200 vectors"),
    "ids of two kinds": ({"vectors": X, "ids": [*IDS[:-1], 3]}, "an id is no text"),
    "ids below 0": ({"vectors": X, "ids": torch.arange(N) - 1}, "not in 0"),
    "true as an id": ({"vectors": X, "ids": [*range(N - 1), True]}, "no whole number"),
    "unlike JSON": ({"vectors": X, "metadata": [{"a": 1j}] * N}, "complex"),
    "laughs": ({"vectors": X, "metadata": [{"a": laughs()}] * N}, "parts"),
    "a loop": ({"vectors": X, "metadata": [loop()] * N}, "parts, or is nested too deep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    value, words = REFUSED[name]
    with pytest.raises(BadFile, match=words):
        back(tmp_path / "x.pt", value)


def test_pickles_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (Evil(), {"vectors": X, "metadata": Evil()}):
        with pytest.raises(BadFile):
            back(tmp_path / "x.pt", value)
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadFile, match=r"no file of torch\.save"):
        read("pt", tmp_path / "x.pt")
    assert not (tmp_path / "harmed").exists()


def rezipped(good: Path, change: dict[str, bytes | None], method: int = zipfile.ZIP_STORED) -> bytes:
    """The same zip with other members; None: without it."""
    out = io.BytesIO()
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(out, "w", method) as new:
        names = dict.fromkeys([*(name.partition("/")[2] for name in old.namelist()), *change])
        for name in names:
            data = change[name] if name in change else old.read(f"x/{name}")
            if data is not None:
                new.writestr(f"x/{name}", data)
    return out.getvalue()


def pickled(numel: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    """A tensor that claims such a storage."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> Any:
            return ("storage", torch.FloatStorage, key, "cpu", numel) if isinstance(value, Storage) else None

        def reducer_override(self, value: object) -> Any:
            if not isinstance(value, Evil):
                return NotImplemented
            rebuild = torch._utils._rebuild_tensor_v2  # type: ignore[attr-defined]
            return rebuild, (Storage(), offset, shape, strides, False, OrderedDict())

    out = io.BytesIO()
    Pickler(out, protocol=2).dump(Evil())
    return out.getvalue()


def test_zips_that_lie(tmp_path: Path) -> None:
    good = saved(tmp_path / "x.pt", X)
    count = X.numel()
    bad: dict[str, bytes] = {
        "deflated": rezipped(good, {}, zipfile.ZIP_DEFLATED),
        "no pickle": rezipped(good, {"data.pkl": None}),
        "TorchScript": rezipped(good, {"constants.pkl": b""}),
        "big-endian": rezipped(good, {"byteorder": b"big"}),
        "no storage": rezipped(good, {"data/0": None}),
        "a storage too short": rezipped(good, {"data/0": bytes(100)}),
        "a large pickle": rezipped(good, {"data.pkl": bytes(PICKLE_BYTES_MAX + 1)}),
        "more than the storage": rezipped(good, {"data.pkl": pickled(count + 1, (N, 12), (12, 1))}),
        "512 TB": rezipped(good, {"data.pkl": pickled(2**47, (2**40, 128), (128, 1))}),
        "past the storage": rezipped(good, {"data.pkl": pickled(count, (N, 12), (12, 1), offset=1)}),
        "another file's": rezipped(good, {"data.pkl": pickled(count, (N, 12), (12, 1), key="../../../x")}),
        "no pickle in it": rezipped(good, {"data.pkl": b"\x80\x02garbage"}),
        "nothing": b"",
        "cut": good.read_bytes()[:-10],
    }
    for name, data in bad.items():
        path = tmp_path / f"bad {name}"
        path.write_bytes(data)
        with pytest.raises(BadFile):
            read("pt", path)
    path.write_bytes(rezipped(good, {"data.pkl": pickled(count, (N, 12), (12, 1))}))
    assert read("pt", path).vectors.tobytes() == X.numpy().tobytes()  # type: ignore[union-attr]


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    """In the numbers, and in the pickle, by the zip's checksums."""
    good = saved(tmp_path / "x.pt", {"vectors": X, "metadata": [{"a": i} for i in range(N)]})
    raw = good.read_bytes()
    numbers = raw.index(X[5].numpy().tobytes())
    for at in (numbers, raw.index(b"vectors") + 1):
        (tmp_path / "bad.pt").write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with pytest.raises(BadFile):
            read("pt", tmp_path / "bad.pt")


def test_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        assert back(tmp_path / "x.pt", X).vectors.tobytes() == X.numpy().tobytes()  # type: ignore[union-attr]
    finally:
        torch.serialization.set_crc32_options(True)


def test_without_torch() -> None:
    """An extra, which a server can be without: that is told, and everything else goes on."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from storage.files.contract import BadFile, ReadOptions\n"
        "from storage.files.formats import FORMATS\n"
        "try: FORMATS['pt'].read([Path('x.pt')], ReadOptions())\n"
        "except BadFile as e: sys.exit(e.detail)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False, capture_output=True, text=True
    )
    assert done.stderr.strip() == "pt needs torch, which is not installed where the server runs"
