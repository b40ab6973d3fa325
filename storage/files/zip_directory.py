"""The directory of a zip file, from whoever wrote it: how many members and bytes it may have is bounded, each must lie
where no other does, and none is touched but what is asked for. Python's own zipfile would make objects of as many
members as a file of gigabytes can name.
"""

import struct
from itertools import pairwise
from typing import Final, NamedTuple

from storage.files.contract import BadFile
from storage.files.source import Source, read

MEMBERS_MAX: Final = 10_000
ENTRY_BYTES_MAX: Final = 400
"""Of a member in the directory, on average."""
STORED: Final = 0
DEFLATED: Final = 8
_ENCRYPTED: Final = 1
_COMMENT_BYTES_MAX: Final = 1 << 16
_END: Final = struct.Struct("<4s4H2LH")
_END64_PLACE: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_SEE_EXTRA: Final = 0xFFFFFFFF
_EXTRA64: Final = 1
_UTF8: Final = 1 << 11


class Member(NamedTuple):
    """One file in the zip."""

    method: int
    """STORED or DEFLATED."""
    crc: int
    packed: int
    """Its bytes in the file."""
    size: int
    """Its bytes unpacked, as the directory says."""
    local: int
    """Where its local header begins."""


def members(source: Source, most: int = MEMBERS_MAX) -> dict[str, Member]:
    """By name. Raises BadFile: no zip, damaged, encrypted, over `most` members, two of one name or in one place."""
    directory, offset, count = _directory(source, most)
    found: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        name, member, at = _entry(directory, at)
        if name in found:
            raise BadFile(f"the zip has two members {name[:60]!r}")
        found[name] = member
    if at != len(directory):
        raise BadFile("the zip's directory is damaged")
    spans = sorted((m.local, m.local + _LOCAL.size + m.packed) for m in found.values())
    if any(end > start for (_, end), (start, _) in pairwise([*spans, (offset, offset)])):
        raise BadFile("members of the zip overlap")
    return found


def data_offset(source: Source, name: str, member: Member) -> int:
    """Where the member's own bytes begin. Raises BadFile where its local header is none."""
    header = _unpacked(_LOCAL, read(source, member.local, min(_LOCAL.size, source.size - member.local)), b"PK\x03\x04")
    offset = member.local + _LOCAL.size + header[9] + header[10]
    if offset + member.packed > source.size:
        raise BadFile(f"{name[:60]!r} is cut")
    return offset


def _directory(source: Source, most: int) -> tuple[bytes, int, int]:
    """The directory's bytes, where it begins, and how many members it has."""
    tail_at = max(0, source.size - _COMMENT_BYTES_MAX - _END.size)
    tail = read(source, tail_at, source.size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise BadFile("no zip file, or it is cut: its end is not there")
    end = _END.unpack_from(tail, at)
    count, size, offset = end[4], end[5], end[6]
    place_at = tail_at + at - _END64_PLACE.size
    if _SEE_EXTRA in (size, offset) or count == 0xFFFF:
        count, size, offset = _end64(source, place_at)
    if count > most or size > most * ENTRY_BYTES_MAX:
        raise BadFile(f"the zip says that it has {count:,} members, named in {size:,} bytes")
    if offset + size > tail_at + at:
        raise BadFile("the zip's directory is not where it should be")
    return read(source, offset, size), offset, count


def _end64(source: Source, place_at: int) -> tuple[int, int, int]:
    if place_at < 0:
        raise BadFile("the zip's end is damaged")
    at = _unpacked(_END64_PLACE, read(source, place_at, _END64_PLACE.size), b"PK\x06\x07")[2]
    if at + _END64.size > place_at:
        raise BadFile("the zip's end is damaged")
    end = _unpacked(_END64, read(source, at, _END64.size), b"PK\x06\x06")
    return end[7], end[8], end[9]


def _entry(directory: bytes, at: int) -> tuple[str, Member, int]:
    """Name, member, and where the next entry begins."""
    fields = _unpacked(_ENTRY, directory[at : at + _ENTRY.size], b"PK\x01\x02")
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    name_length, extra_length, comment_length, local = fields[10], fields[11], fields[12], fields[16]
    name_at = at + _ENTRY.size
    extra_at = name_at + name_length
    name = directory[name_at:extra_at].decode("utf-8" if flags & _UTF8 else "cp437", "replace")
    size, packed, local = _wide(directory[extra_at : extra_at + extra_length], size, packed, local)
    if flags & _ENCRYPTED or method not in (STORED, DEFLATED):
        raise BadFile(f"the zip's {name[:60]!r} is encrypted, or packed otherwise than by deflate")
    if method == STORED and packed != size:
        raise BadFile(f"the zip's {name[:60]!r} has two sizes")
    return name, Member(method, crc, packed, size, local), extra_at + extra_length + comment_length


def _wide(extra: bytes, *values: int) -> list[int]:
    """The values that do not fit 32 bits stand in the extra field, in their order."""
    numbers: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _EXTRA64:
            field = extra[at + 4 : at + 4 + length]
            numbers = [int.from_bytes(field[i : i + 8], "little") for i in range(0, len(field) - 7, 8)]
        at += 4 + length
    wide = []
    for value in values:
        if value == _SEE_EXTRA:
            if not numbers:
                raise BadFile("the zip's directory is damaged")
            value = numbers.pop(0)
        wide.append(value)
    return wide


def _unpacked(layout: struct.Struct, raw: bytes, magic: bytes) -> tuple[int, ...]:
    if len(raw) != layout.size or not raw.startswith(magic):
        raise BadFile("the zip is damaged, or cut")
    return layout.unpack(raw)
