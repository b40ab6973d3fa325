"""A catalogue that lacks what was acknowledged is told from one that a crash cut off."""

from pathlib import Path

import pytest

from app.engine.recovery import recover
from storage import catalogue, remembered
from storage.catalogue import State
from storage.layout import WRITE_LOCK_NAME
from storage.registry import Registry
from tests.storage.filling import Collection

UUID = "0123456789abcdef" * 2


def lock_of(folder: Path, state: State) -> Path:
    path = folder / UUID / WRITE_LOCK_NAME
    path.parent.mkdir(exist_ok=True)
    with path.open("w+b") as file:
        remembered.remember(file.fileno(), state)
    return path


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = lock_of(tmp_path, State(next_key=8, log_pos=3, uuid=UUID))
    known = remembered.recall(path)
    assert known is not None and known["next_key"] == 8
    assert remembered.missing(known, State(next_key=8, log_pos=3)) == ""
    assert remembered.missing(known, State(next_key=9, log_pos=4)) == "", "a kill came between commit and this"
    assert "log_pos is 2 and was 3" in remembered.missing(known, State(next_key=8, log_pos=2))


def test_what_cannot_be_believed_says_nothing(tmp_path: Path) -> None:
    path = lock_of(tmp_path, State(next_key=8, uuid=UUID))
    whole = path.read_bytes()
    for at in range(len(whole)):
        raw = bytearray(whole)
        raw[at] ^= 1
        path.write_bytes(raw)
        assert remembered.recall(path) is None, at
    path.write_bytes(whole[:-1])
    assert remembered.recall(path) is None
    path.write_bytes(whole)
    other = tmp_path / ("f" * 32)
    other.mkdir()
    assert remembered.recall(path.rename(other / path.name)) is None, "another collection's"
    assert remembered.recall(tmp_path / "none") is None


@pytest.mark.parametrize("how", ["gone", "empty", "flipped"])
def test_a_log_that_is_lost_closes_the_collection(how: str, tmp_path: Path) -> None:
    """SQLite itself opens each of these as if nothing had happened, without the last commits."""
    filled = Collection(tmp_path / "data")
    filled.upsert([1, 2, 3])
    filled.db.truncate_log()
    filled.upsert([4, 5])
    filled.delete([1])
    log = Path(f"{filled.folder.catalogue}-wal")
    filled.db.keep_log()
    filled.close()
    if how == "gone":
        log.unlink()
    elif how == "empty":
        log.write_bytes(b"")
    else:
        raw = bytearray(log.read_bytes())
        raw[200] ^= 1
        log.write_bytes(raw)
    recover(tmp_path / "data")
    registry = Registry(tmp_path / "data")
    (entry,) = registry.read()
    registry.close()
    assert entry.reason is not None and "acknowledged" in entry.reason and "seedvec repair" in entry.reason
    assert filled.folder.catalogue.exists()


def test_the_registry_is_given_back_what_it_lost(tmp_path: Path) -> None:
    """A folder with anything in it is never swept: without its row it was."""
    filled = Collection(tmp_path / "data")
    filled.upsert([1, 2, 3])
    filled.close()
    for file in (tmp_path / "data").glob("registry.db*"):
        file.unlink()
    recover(tmp_path / "data")
    registry = Registry(tmp_path / "data")
    assert [(entry.name, entry.uuid, entry.reason) for entry in registry.read()] == [
        ("words", filled.folder.root.name, None)
    ]
    registry.close()
    db = catalogue.connect(filled.folder.root)
    assert catalogue.read_state(db).live == 3
    db.close()
