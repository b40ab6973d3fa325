"""Publishing and sweeping of files."""

from pathlib import Path

import pytest

from storage import atomic, failpoints


def test_published_under_its_name_and_no_other(tmp_path: Path) -> None:
    final = tmp_path / "a.faiss"
    tmp = atomic.temporary(final)
    tmp.write_bytes(b"whole")
    atomic.publish(tmp, final, "index")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.faiss", b"whole")]


@pytest.mark.parametrize("step", ["fsync", "rename", "fsync_dir"])
def test_after_a_failure_neither_file_is_left(tmp_path: Path, step: str) -> None:
    final = tmp_path / "a.faiss"
    tmp = atomic.temporary(final)
    tmp.write_bytes(b"whole")
    with failpoints.armed(f"index.{step}:eio"), pytest.raises(OSError):
        atomic.publish(tmp, final, "index")
    assert list(tmp_path.iterdir()) == []


def test_sweep_takes_what_nothing_names(tmp_path: Path) -> None:
    for name in ("named.h5", "stray.h5", "named.h5.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert atomic.sweep(tmp_path, {"named.h5", "absent.h5"}) == ["named.h5.tmp", "stray.h5"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "named.h5"]


def test_remove(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert atomic.remove(tmp_path / "x") and not atomic.remove(tmp_path / "x")
    atomic.remove_all([tmp_path / "x", tmp_path])
    assert tmp_path.exists()
