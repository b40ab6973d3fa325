"""`seedvec info` says what is there."""

from pathlib import Path

import faiss
import numpy as np

from storage.info import info
from storage.lock import acquire
from tests.storage.filling import Collection


def test_a_folder_a_segment_and_an_index(tmp_path: Path) -> None:
    made = Collection(tmp_path / "data", dimension=8, dtype="float16")
    made.upsert([f"id {i}" for i in range(1234)])
    row = made.seal()
    made.upsert(["more"])
    index = faiss.IndexHNSWFlat(8, 16)
    index.add(np.zeros((1234, 8), np.float32))
    path = made.add_index(row, faiss.serialize_index(index).tobytes())

    text = info(made.data.root)
    assert "1 collections, no server" in text and f"words (c/{made.folder.root.name})" in text
    assert "8 × float16, l2, str ids" in text and "1,235 live vectors; 1 pending (80 bytes); 1 segments" in text
    assert row.file in text and row.xxh3 in text and path.name in text

    text = info(made.folder.segments / row.file)
    assert "a segment of 1,234 × 8 float16, l2, str ids" in text and "first ids: 'id 0', 'id 1', 'id 2'" in text
    assert "/vectors: <f2 (1234, 8) at byte" in text

    text = info(path)
    assert "a Faiss index (IHNf) over 1,234 × 8, l2, trained" in text and "in the catalogue" in text
    made.close()


def test_who_holds_it(tmp_path: Path) -> None:
    Collection(tmp_path / "data").close()
    lock = acquire(tmp_path / "data", "http://127.0.0.1:8080")
    assert "serving http://127.0.0.1:8080" in info(tmp_path / "data")
    lock.release()


def test_what_is_none_is_said(tmp_path: Path) -> None:
    assert "no data folder" in info(tmp_path)
    (tmp_path / "x.h5").write_bytes(b"x")
    assert "HDF5 cannot read it" in info(tmp_path / "x.h5")
    (tmp_path / "x.faiss").write_bytes(b"x")
    assert "too short" in info(tmp_path / "x.faiss")
