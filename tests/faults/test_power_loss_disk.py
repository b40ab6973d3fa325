"""The model of a disk: what is synced stays, whatever else happens; what is not may be lost, torn or reordered."""

import random
from pathlib import Path

import pytest

from tests.faults.disk import (
    PAGE_BYTES,
    ROOT,
    SECTOR_BYTES,
    Disk,
    Event,
    Fate,
    Image,
    Named,
    Record,
    Renamed,
    Resized,
    Synced,
    Unnamed,
    Wrote,
    everything,
    nothing,
)

FILE, FOLDER, OTHER = 1, 2, 3
BEFORE, AFTER = b"a", b"b"
SECTORS = 12
SIZE = SECTORS * SECTOR_BYTES
DRAWS = 200
MADE = Named(ROOT, "f", FILE, False)
ON_DISK: list[Event] = [MADE, Wrote(FILE, 0, BEFORE * SIZE), Synced(FILE), Synced(ROOT)]


def at_end(events: list[Event]) -> Disk:
    disk = Disk(Record(events, [0] * len(events)))
    disk.advance(len(events))
    return disk


def images(events: list[Event], fate: Fate, tmp_path: Path, draws: int = 1) -> list[dict[str, bytes]]:
    """Content by path; folders end in a slash."""
    found = []
    for seed in range(draws):
        target = tmp_path / str(seed)
        target.mkdir()
        Image(at_end(events), fate, random.Random(seed)).write(target)
        paths = sorted(target.rglob("*"))
        found.append(
            {str(p.relative_to(target)) + "/" * p.is_dir(): b"" if p.is_dir() else p.read_bytes() for p in paths}
        )
    return found


def some(_: int) -> float:
    return 0.5


def sectors(content: bytes) -> list[bytes]:
    return [content[i : i + SECTOR_BYTES] for i in range(0, len(content), SECTOR_BYTES)]


@pytest.mark.parametrize("fate", [Fate(everything), Fate(some, PAGE_BYTES, 1.0, False, True), Fate(nothing)])
def test_what_is_synced_stays(fate: Fate, tmp_path: Path) -> None:
    later: list[Event] = [Named(ROOT, "other", OTHER, False), Wrote(OTHER, 0, AFTER), Wrote(FILE, 0, b"")]
    for image in images(ON_DISK + later, fate, tmp_path, 20):
        assert image["f"] == BEFORE * SIZE


def test_a_file_synced_without_its_folder_has_lost_its_name(tmp_path: Path) -> None:
    events: list[Event] = [MADE, Wrote(FILE, 0, BEFORE), Synced(FILE)]
    assert images(events, Fate(everything), tmp_path) == [{}]
    assert images([*events, Synced(ROOT)], Fate(everything), tmp_path / "0") == [{"f": BEFORE}]


def test_a_folder_synced_without_its_file_has_a_name_without_content(tmp_path: Path) -> None:
    events: list[Event] = [MADE, Wrote(FILE, 0, BEFORE * SIZE), Synced(ROOT)]
    assert images(events, Fate(everything, grows=False), tmp_path) == [{"f": b""}]
    assert images(events, Fate(everything, grows=True), tmp_path / "0") == [{"f": bytes(SIZE)}]


def test_a_torn_write_leaves_each_sector_old_or_new(tmp_path: Path) -> None:
    seen = images([*ON_DISK, Wrote(FILE, 0, AFTER * SIZE)], Fate(some, torn=1.0), tmp_path, DRAWS)
    for image in seen:
        assert {*sectors(image["f"])} <= {BEFORE * SECTOR_BYTES, AFTER * SECTOR_BYTES}
    mixtures = {image["f"] for image in seen}
    later_without_earlier = [m for m in mixtures if m[:1] == BEFORE and m[-1:] == AFTER]
    assert len(mixtures) > DRAWS // 4 and later_without_earlier


def test_a_sector_holds_what_the_cache_held_after_some_write(tmp_path: Path) -> None:
    """Also where the writes do not end at sectors: bytes of a lost one may come with the next."""
    events: list[Event] = [*ON_DISK, Wrote(FILE, 10, b"1" * 20), Wrote(FILE, 20, b"2" * 20)]
    old, first, both = (
        BEFORE * 50,
        BEFORE * 10 + b"1" * 20 + BEFORE * 20,
        BEFORE * 10 + b"1" * 10 + b"2" * 20 + BEFORE * 10,
    )
    assert {image["f"][:50] for image in images(events, Fate(some), tmp_path, 40)} == {old, first, both}


def test_a_file_cut_off_may_be_whole_again(tmp_path: Path) -> None:
    events: list[Event] = [*ON_DISK, Resized(FILE, SECTOR_BYTES), Wrote(FILE, 0, AFTER)]
    seen = {image["f"] for image in images(events, Fate(some), tmp_path, 40)}
    assert {len(content) for content in seen} == {SECTOR_BYTES, SIZE}
    assert {content[:1] for content in seen} == {BEFORE, AFTER}


def test_a_rename_has_happened_or_not(tmp_path: Path) -> None:
    seen = images([*ON_DISK, Renamed(ROOT, "f", "g", FILE)], Fate(some), tmp_path, 40)
    assert {tuple(image) for image in seen} == {("f",), ("g",)}
    assert images([*ON_DISK, Renamed(ROOT, "f", "g", FILE), Synced(ROOT)], Fate(everything), tmp_path / "0") == [
        {"g": BEFORE * SIZE}
    ]


def test_names_are_lost_each_for_itself_or_in_order(tmp_path: Path) -> None:
    made: list[Event] = [Named(ROOT, "1", 1, False), Named(ROOT, "2", 2, False)]
    any_ = {tuple(image) for image in images(made, Fate(some), tmp_path, 40)}
    assert any_ == {(), ("1",), ("2",), ("1", "2")}
    (tmp_path / "order").mkdir()
    in_order = {tuple(image) for image in images(made, Fate(some, in_order=True), tmp_path / "order", 40)}
    assert in_order == {(), ("1",), ("1", "2")}


def test_a_file_removed_may_be_there_again_and_its_folder_gone_with_it(tmp_path: Path) -> None:
    events: list[Event] = [Named(ROOT, "c", FOLDER, True), Named(FOLDER, "f", FILE, False), Synced(FOLDER)]
    assert images(events, Fate(everything), tmp_path) == [{}]
    (tmp_path / "synced").mkdir()
    events += [Synced(ROOT), Unnamed(FOLDER, "f", FILE)]
    seen = {tuple(image) for image in images(events, Fate(some), tmp_path / "synced", 40)}
    assert seen == {("c/",), ("c/", "c/f")}


def test_blocks_that_were_never_written_show_zeros_or_what_lay_there(tmp_path: Path) -> None:
    events: list[Event] = [*ON_DISK, Wrote(FILE, SIZE, AFTER * SIZE)]
    assert images(events, Fate(everything), tmp_path)[0]["f"] == BEFORE * SIZE + bytes(SIZE)
    (tmp_path / "stale").mkdir()
    [image] = images(events, Fate(everything, stale=True), tmp_path / "stale")
    assert image["f"] == BEFORE * SIZE + BEFORE * SIZE
