"""Is every byte that a catalogue names, and the catalogue itself, what was written? Changes nothing."""

from pathlib import Path

from seedvec.segment import SegmentError, open_segment
from storage import catalogue, errors, pages, remembered
from storage.catalogue import ColumnsRow, IndexRow, SegmentRow, Settings, State
from storage.database import Database
from storage.hashing import file_xxh3, hex16
from storage.layout import SEGMENTS_NAME, WRITE_LOCK_NAME

MANY_PAGES = 5
ADVICE = "`seedvec check` says what is lost, `seedvec repair` saves the rest (both on the data folder, repair offline)"


class Unsound(errors.Damaged):
    """Why a collection stays closed."""


def whole(db: Database, state: State) -> None:
    """Nothing that was acknowledged is missing, and it is this collection's. Before the log is brought home.

    Raises Unsound."""
    folder = db.path.parent
    if not catalogue.is_owned(db, state):
        raise Unsound(f"{db.path.name} or its log is another collection's")
    lacks = remembered.missing(remembered.recall(folder / WRITE_LOCK_NAME), state)
    if lacks:
        raise Unsound(lacks)


def undamaged(db: Database) -> None:
    """Every page is what was written. After the log was brought home. Raises Unsound."""
    bad = pages.verify(db.path)
    if bad:
        listed = ", ".join(map(str, bad[:MANY_PAGES])) + (" …" if len(bad) > MANY_PAGES else "")
        raise Unsound(f"{db.path.name} is damaged: {len(bad)} of its pages differ from their checksums ({listed})")


def verify_segment(folder: Path, segment: SegmentRow, settings: Settings) -> None:
    """Raises Unsound."""
    path = folder / SEGMENTS_NAME / segment.file
    try:
        size, digest = file_xxh3(path)
        if size != segment.bytes:
            raise Unsound(f"segment {segment.file} has {size} bytes instead of {segment.bytes}")
        if hex16(digest) != segment.xxh3:
            raise Unsound(f"segment {segment.file} is damaged: its checksum differs")
        file = open_segment(path)
    except FileNotFoundError as e:
        raise Unsound(f"segment {segment.file} is gone") from e
    except OSError as e:
        raise Unsound(f"segment {segment.file} cannot be read: {e.strerror or e}") from e
    except SegmentError as e:
        raise Unsound(str(e)) from e
    wanted = (segment.rows, settings.dimension, settings.vector_dtype, settings.metric, settings.sparse)
    if (file.rows, file.dimension, file.vectors.dtype, file.metric, file.sparse) != wanted:
        raise Unsound(f"segment {segment.file} belongs to another collection")


def verify_present(db: Database, folder: Path, segment: SegmentRow, settings: Settings) -> None:
    """The same beside a server. Raises Stale, Dropped where the catalogue names it no more: then nothing is wrong."""
    try:
        verify_segment(folder, segment, settings)
    except Unsound as e:
        if catalogue.read_state(db).dropped:
            raise errors.Dropped(str(folder)) from e
        if all(segment.seq != s.seq for s in catalogue.read_segments(db)):
            raise errors.Stale(f"segment {segment.seq} is gone") from e
        raise


def is_sound(folder: Path, row: IndexRow | ColumnsRow) -> bool:
    """A file that can be made anew."""
    try:
        size, digest = file_xxh3(folder / SEGMENTS_NAME / row.file)
    except OSError:
        return False
    return size == row.bytes and hex16(digest) == row.xxh3
