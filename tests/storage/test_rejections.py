"""What is not tried again: written down with the segment, and gone with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import errors
from storage.catalogue import IndexRow, Rejection
from tests.engine.rig import Rig

SPEC = 1


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "data")
    made.upsert_directly([1, 2, 3])
    made.upsert_directly([4, 5])
    yield made
    made.close()


def rejected(rig: Rig) -> list[Rejection | None]:
    return [segment.rejected for segment in rig.segments()]


def test_it_is_read_with_the_segment(rig: Rig) -> None:
    first = Rejection(rig.segments()[0].seq, SPEC, "build", "found 0.5")
    rig.building_publisher.reject(first)
    assert rejected(rig) == [first, None]
    again = Rejection(first.seq, SPEC + 1, "merge", "found 0.6")
    rig.building_publisher.reject(again)
    assert rejected(rig) == [again, None]
    rig.assert_sound(notes=False)


def test_it_goes_with_the_segment(rig: Rig) -> None:
    inputs = rig.segments()
    rig.building_publisher.reject(Rejection(inputs[0].seq, SPEC, "build", "found 0.5"))
    rig.merge()
    assert rejected(rig) == [None]
    assert rig.db.one("SELECT count(*) FROM rejections") == (0,)
    with pytest.raises(errors.Stale):
        rig.building_publisher.reject(Rejection(inputs[0].seq, SPEC, "build", "found 0.5"))


def test_it_goes_when_all_is_deleted(rig: Rig) -> None:
    rig.building_publisher.reject(Rejection(rig.segments()[0].seq, SPEC, "build", "found 0.5"))
    rig.delete_all()
    assert rig.db.one("SELECT count(*) FROM rejections") == (0,)


def test_an_index_takes_its_place(rig: Rig) -> None:
    seq = rig.segments()[0].seq
    rig.building_publisher.reject(Rejection(seq, SPEC, "build", "found 0.5"))
    rig.building_publisher.add_index(IndexRow(seq, "x.faiss", "ivf", SPEC, 1, "0" * 16, {}))
    assert rejected(rig) == [None, None]
