"""Snapshots as tar streams: out and in again the same, and nothing else is taken in."""

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine.recovery import recover
from app.engine.restoring import is_possible, judged
from app.restoring import answer
from storage import errors, manifest, snapshot_tar
from storage.catalogue import Settings, now
from storage.check import check
from storage.hashing import file_xxh3, hex16
from storage.layout import SEGMENTS_NAME
from storage.manifest import MANIFEST_NAME, Entry, Manifest
from storage.snapshot_take import write_manifest
from storage.snapshot_tar import BLOCK, END, OCTAL_MAX, header
from tests.storage.snapshotting import filled, rows, take

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot's folder."""
    data = tmp_path_factory.mktemp("taken")
    filled(data).close()
    return take(data, "monday")[0]


@pytest.fixture(scope="module")
def tar(taken: Path) -> bytes:
    return b"".join(snapshot_tar.stream(taken))


def received(data: Path, body: bytes, piece: int = 1 << 20) -> Path:
    data.mkdir(exist_ok=True)
    stage, _ = snapshot_tar.unpack((body[i : i + piece] for i in range(0, len(body), piece)), data)
    return stage


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def named(whole: Manifest, folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in [MANIFEST_NAME, *(e.path for e in whole.files)]}


def test_out_and_in_again(taken: Path, tar: bytes, tmp_path: Path) -> None:
    whole = manifest.read(taken)
    assert len(tar) == snapshot_tar.length(taken)
    assert tar == b"".join(snapshot_tar.stream(taken)), "the same snapshot, the same bytes"
    for piece in (1 << 20, 511, 4097):
        stage = received(tmp_path / str(piece), tar, piece)
        assert files(stage) == named(whole, taken)
        assert check(stage).sound and rows(stage) == rows(taken)


def test_any_tar_can_read_it(taken: Path, tar: bytes, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(tmp_path, filter="data")
    assert files(tmp_path) == named(manifest.read(taken), taken)


def test_packed_by_another_tar_it_is_taken_too(tar: bytes, tmp_path: Path) -> None:
    """With owners, times, `./` before the names, and another order behind the manifest."""
    members = unpacked(tar)
    members[1:] = members[:0:-1]
    for info, _ in members:
        info.name, info.mtime, info.uname, info.uid = f"./{info.name}", 1_800_000_000, "somebody", 1000
    assert check(received(tmp_path, packed(members))).sound


@pytest.mark.parametrize("size", [0, 1, OCTAL_MAX - 1, OCTAL_MAX, 5 * 2**40])
def test_lengths_of_any_size(size: int) -> None:
    path = f"c/{'0' * 32}/{SEGMENTS_NAME}/000001-{'0' * 32}.columns-123456789.npz"
    info = tarfile.TarInfo.frombuf(header(path, size), "ascii", "strict")
    assert (info.name, info.size, info.isreg()) == (path, size, True)


# -------------------------------------------------------------------- what is refused


def unpacked(tar: bytes) -> Members:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = []
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None
            found.append((info, file.read()))
        return found


def packed(members: Members) -> bytes:
    parts = []
    for info, content in members:
        parts += [info.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % BLOCK)]
    return b"".join([*parts, END])


def odd(kind: bytes, name: str = "c", link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def plain(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def with_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], None]:
    """With a manifest that says something else, under a checksum that is right."""

    def act(members: Members) -> None:
        body = json.loads(members[0][1])
        del body["xxh3"]
        change(body)
        raw = json.dumps({**body, "xxh3": manifest._checksum(body)}).encode()
        members[0] = plain(MANIFEST_NAME, raw)

    return act


def renamed(path: str) -> Callable[[Members], None]:
    """A file of the snapshot under another path, in the manifest too."""

    def act(members: Members) -> None:
        old = members[-2][0].name
        members[-2][0].name = path

        def change(body: dict[str, Any]) -> None:
            next(f for f in body["files"] if f["path"] == old)["path"] = path

        with_manifest(change)(members)

    return act


def cut(members: Members) -> None:
    info, content = members[-1]
    info.size -= 1
    members[-1] = (info, content[:-1])


def flipped(members: Members) -> None:
    info, content = members[2]
    members[2] = (info, content[:-1] + bytes([content[-1] ^ 1]))


U = "0" * 32
HOSTILE: dict[str, Callable[[Members], object]] = {
    "no manifest": lambda m: m.pop(0),
    "the manifest last": lambda m: m.append(m.pop(0)),
    "two manifests": lambda m: m.insert(1, m[0]),
    "nothing but the manifest": lambda m: m.__delitem__(slice(1, None)),
    "a file is missing": lambda m: m.pop(),
    "a file comes twice": lambda m: m.append(m[2]),
    "a file too many": lambda m: m.append(plain("extra")),
    "a file cut off": cut,
    "a flipped bit": flipped,
    "a symbolic link": lambda m: m.insert(1, odd(tarfile.SYMTYPE, "c", "/etc")),
    "a symbolic link in a file's place": lambda m: m.__setitem__(1, odd(tarfile.SYMTYPE, m[1][0].name, "/etc/passwd")),
    "a hard link": lambda m: m.insert(1, odd(tarfile.LNKTYPE, "a", "/etc/passwd")),
    "a folder": lambda m: m.insert(1, odd(tarfile.DIRTYPE, "c/")),
    "a device": lambda m: m.insert(1, odd(tarfile.CHRTYPE)),
    "a pipe": lambda m: m.insert(1, odd(tarfile.FIFOTYPE)),
    "a sparse file": lambda m: m.insert(1, odd(tarfile.GNUTYPE_SPARSE)),
    "a long name": lambda m: m.insert(1, odd(tarfile.GNUTYPE_LONGNAME)),
    "pax headers": lambda m: m.insert(1, odd(tarfile.XHDTYPE)),
    "a way up": lambda m: m.append(plain("../../escaped")),
    "an absolute path": lambda m: m.append(plain("/tmp/escaped")),
    "a way up, named": renamed("../escaped"),
    "a way up within": renamed(f"c/{U}/{SEGMENTS_NAME}/../../../escaped"),
    "an absolute path, named": renamed("/escaped"),
    "NUL": renamed("c/a\0b"),
    "the lock": renamed("LOCK"),
    "another's segments": renamed(f"c/{U}/{SEGMENTS_NAME}/000001-{U}.h5"),
    "a write lock": renamed(f"c/{U}/write.lock"),
    "a manifest of another format": with_manifest(lambda b: b.__setitem__("format", "other")),
    "a manifest of a later version": with_manifest(lambda b: b.__setitem__("version", 99)),
    "a version that is none": with_manifest(lambda b: b.__setitem__("version", "1")),
    "a collection's name that is none": with_manifest(lambda b: b["collections"][0].__setitem__("name", "../x")),
    "a uuid that is none": with_manifest(lambda b: b["collections"][0].__setitem__("uuid", "..")),
    "a collection twice": with_manifest(lambda b: b["collections"].append(b["collections"][0])),
    "a file named twice": with_manifest(lambda b: b["files"].append(b["files"][0])),
    "a negative length": with_manifest(lambda b: b["files"][0].__setitem__("bytes", -1)),
    "a length that is none": with_manifest(lambda b: b["files"][0].__setitem__("bytes", 1e9)),
    "a count that no answer can hold": with_manifest(lambda b: b["collections"][0].__setitem__("live", 1 << 63)),
    "a count that is none": with_manifest(lambda b: b["collections"][0].__setitem__("live", True)),
    "a time that no answer can hold": with_manifest(lambda b: b.__setitem__("created", "\ud800")),
    "no collections": with_manifest(lambda b: b.__setitem__("collections", [])),
    "no files": with_manifest(lambda b: b.__setitem__("files", [])),
    "lists for names": with_manifest(lambda b: b.__setitem__("name", ["monday"])),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_snapshot_is_refused(tar: bytes, tmp_path: Path, what: str) -> None:
    members = unpacked(tar)
    HOSTILE[what](members)
    with pytest.raises(errors.Damaged):
        received(tmp_path / "data", packed(members))
    assert list((tmp_path / "data" / "snapshots").iterdir()) == [], "something is left of it"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("end", [b"", b"\0" * BLOCK + b"more"])
def test_a_stream_that_does_not_end_as_a_tar(tar: bytes, tmp_path: Path, end: bytes) -> None:
    with pytest.raises(errors.Damaged):
        received(tmp_path, tar[: -len(END)] + end)


def test_more_than_there_is_room_for(tar: bytes, tmp_path: Path) -> None:
    """The manifest says so: nothing is written for hours first."""
    members = unpacked(tar)
    with_manifest(lambda b: b["files"][0].__setitem__("bytes", 1 << 60))(members)
    with pytest.raises(OSError, match="No space left"):
        received(tmp_path, packed(members))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_bytes_changed_anywhere(tar: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """It is refused, or it makes no difference (an owner's name)."""
    body = bytearray(tar)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.sampled_from([len(body), len(body) // 2, len(body) - 1]))]
    try:
        stage = received(tmp_path, bytes(body))
    except errors.Damaged:
        return
    assert {e.path for e in manifest.read(stage).files} <= files(stage).keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("name", "created", "collections", "files", "version")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.binary(max_size=200))
def test_manifests_of_anything(body: dict[str, Any], noise: bytes) -> None:
    full: dict[str, Any] = {"format": manifest.FORMAT, "version": 1, "name": "a", "created": now()}
    full |= {"collections": [], "files": []} | body
    for raw in (json.dumps({**full, "xxh3": manifest._checksum(full)}).encode(), noise):
        with pytest.raises(errors.Damaged):
            manifest.parse(raw)


# -------------------------------------------------------------------- catalogues from outside


def altered(folder: Path, into: Path, change: Callable[[apsw.Connection], object]) -> Path:
    """The same snapshot with another catalogue, and a manifest to match."""
    whole = manifest.read(folder)
    for entry in whole.files:
        (into / entry.path).parent.mkdir(parents=True, exist_ok=True)
        (into / entry.path).write_bytes((folder / entry.path).read_bytes())
    (catalogue,) = into.glob("c/*/catalog.db")
    with closing(apsw.Connection(str(catalogue))) as db:
        db.pragma("journal_mode", "delete")
        change(db)
        db.pragma("journal_mode", "wal")
    size, digest = file_xxh3(catalogue)
    path = str(catalogue.relative_to(into))
    entries = [Entry(path, size, hex16(digest)) if e.path == path else e for e in whole.files]
    write_manifest(into, Manifest(whole.name, whole.created, whole.collections, tuple(entries)))
    return into


def statements(*sql: str) -> Callable[[apsw.Connection], None]:
    def act(db: apsw.Connection) -> None:
        for one in sql:
            db.execute(one)

    return act


CRAFTED = {
    "a trigger": statements("CREATE TRIGGER t AFTER UPDATE ON state BEGIN DELETE FROM items; END"),
    "a view": statements("CREATE VIEW v AS SELECT 1"),
    "a virtual table": statements("CREATE VIRTUAL TABLE v USING fts5(x)"),
    "a check that takes long": statements("CREATE TABLE t(x CHECK (length(hex(randomblob(100000000))) > 0))"),
    "a column that is reckoned": statements("CREATE TABLE t(x, y AS (hex(zeroblob(x))))"),
    "an index of an expression": statements("CREATE INDEX i ON deaths(hex(zeroblob(pos)))"),
    "a way up": statements("UPDATE segments SET file = '../../../../registry.db' WHERE seq = 1"),
    "no state": statements("DELETE FROM state"),
    "no table of items": statements("DROP TABLE items"),
    "settings that none can have": statements("UPDATE settings SET metric = 'mine'"),
    "a dimension that is none": statements("UPDATE settings SET dimension = 1 << 40"),
    "text for counters": statements("UPDATE state SET next_key = 'x'"),
    "JSON that is none": statements("UPDATE settings SET index_spec = '[['"),
    "rows that are not there": statements("UPDATE items SET key = key + 100000"),
    "marked as dropped": statements("UPDATE state SET dropped = 1"),
    "another application's": statements("PRAGMA application_id = 7"),
    "of a later version": statements("PRAGMA user_version = 99"),
    "another count than the manifest's": statements("UPDATE state SET live = live + 1"),
    "a time that is none": statements("UPDATE settings SET created = x'ff'"),
    "a counter at its end": statements("UPDATE state SET log_pos = 9223372036854775807"),
    "a counter that is none": statements("UPDATE state SET next_id = 1e300"),
    "metadata that are no JSON": statements("UPDATE metadata SET json = x'ff'"),
    "metadata that are no object": statements("UPDATE metadata SET json = CAST('[1]' AS BLOB)"),
    "metadata that are a number": statements("UPDATE metadata SET json = 7"),
    "a page of noise": lambda db: None,
}


@pytest.mark.parametrize("what", CRAFTED)
def test_a_catalogue_that_none_of_ours_has_written(taken: Path, tmp_path: Path, what: str) -> None:
    """Whatever it does to who reads it, nothing of it is served."""
    folder = altered(taken, tmp_path / "snapshot", CRAFTED[what])
    if what == "a page of noise":
        (catalogue,) = folder.glob("c/*/catalog.db")
        with catalogue.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(b"\xff" * 4096)
    data = tmp_path / "data"
    data.mkdir()
    order = {"data": str(data), "snapshot": str(folder), "wanted": {"words": "words"}, "trusted": False}
    assert answer(order).keys() == {"damaged"}
    assert list(data.glob("snapshots/*")) == []


def test_settings_that_a_client_can_give_are_taken() -> None:
    auto = {"kind": "auto", "params": {}}
    dense = Settings(65_536, "cosine", "float16", "auto", 1.0, {"kind": "ivf", "params": {"nlist": 4}}, now())
    sparse = Settings(10_000_000, "dot", "float32", "str", 0.95, auto, now(), sparse=True)
    assert is_possible(dense) and is_possible(sparse)
    assert not is_possible(replace(sparse, sparse=False)) and not is_possible(replace(dense, recall=0.0))


def test_indexes_from_outside_are_left_behind(taken: Path, tmp_path: Path) -> None:
    """Faiss believes what it reads: who sends an index could lead every worker astray."""
    for trusted, count in ((True, 1), (False, 0)):
        root = judged(tmp_path, taken, {"words": "words"}, trusted)
        assert len(list(root.glob("c/*/segments/*.faiss"))) == count
        assert rows(root) == rows(taken)


def test_a_restored_folder_is_opened_by_a_start(taken: Path, tmp_path: Path) -> None:
    root = judged(tmp_path, taken, {"x": "words"}, trusted=True)
    recover(root)
    assert check(root).findings == []
