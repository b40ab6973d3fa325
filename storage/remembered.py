"""How far the catalogue had come at the last acknowledged write, kept outside of it, in write.lock.

SQLite takes a damaged write-ahead log for one that a crash cut off, and one that is gone for one that was brought
home: what was acknowledged since the last checkpoint is then missing, and nothing says so. The counters of `state` only
grow; here they stand as they were after the last commit. They are written after its fsync, under the write lock, and
never synced themselves (a microsecond a commit): so a catalogue that is behind them has lost something, and after a
power cut they may merely be older. A file that cannot be read says nothing.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

import xxhash

from storage.catalogue import State
from storage.failpoints import declare, hit

REMEMBER: Final = declare("catalogue.remember")
MAGIC: Final = b"SeedvecR"
COUNTERS: Final = ("next_key", "next_id", "log_pos", "generation", "next_seq", "spec_seq")
"""Of `state`: those that never fall."""
_BODY: Final = struct.Struct(f"<8s32s{len(COUNTERS)}Q")
"""With the collection's uuid: another's file says nothing of this one."""
_SUM: Final = struct.Struct("<Q")


def remember(fd: int, state: State) -> None:
    """fd: of write.lock, whose lock the caller holds. The commit has succeeded."""
    body = _BODY.pack(MAGIC, state.uuid.encode(), *(getattr(state, name) for name in COUNTERS))
    # On a full disk the first of these has no room: then less is remembered, and nothing is wrong.
    with suppress(OSError):
        record = body + _SUM.pack(xxhash.xxh3_64_intdigest(body))
        hit(REMEMBER, lambda: os.pwrite(fd, record[: len(record) // 2], 0))
        os.pwrite(fd, record, 0)


def recall(path: Path) -> dict[str, int] | None:
    """The counters by name; None where there are none that can be believed."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if len(raw) < _BODY.size + _SUM.size:
        return None
    body = raw[: _BODY.size]
    magic, uuid, *values = _BODY.unpack(body)
    if (magic, uuid) != (MAGIC, path.parent.name.encode()):
        return None
    if _SUM.unpack_from(raw, _BODY.size)[0] != xxhash.xxh3_64_intdigest(body):
        return None
    return dict(zip(COUNTERS, values, strict=True))


def missing(known: dict[str, int] | None, state: State) -> str:
    """What the catalogue lacks of what was acknowledged, in words; empty: nothing that is known of.

    known: recalled before `state` was read."""
    counters = (known or {}).items()
    behind = {name: (getattr(state, name), value) for name, value in counters if getattr(state, name) < value}
    if not behind:
        return ""
    counts = ", ".join(f"{name} is {here} and was {was}" for name, (here, was) in behind.items())
    return f"its catalogue lacks acknowledged writes, as if its write-ahead log was cut, damaged or removed ({counts})"
