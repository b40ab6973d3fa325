"""A member of a zip file as bytes by offset: a stored one where it lies, a deflated one unpacked as it is read.

Both are held to the directory's checksum and size when their last byte is read.
"""

import zlib
from typing import BinaryIO, Final

from storage.files.contract import BadFile
from storage.files.source import CHUNK_BYTES, Part, Source, read
from storage.files.zip_directory import DEFLATED, Member, data_offset

RATIO_MAX: Final = 100
"""An array that unpacks to more than that times its packed bytes is taken for a bomb: deflate reaches 1,030, embeddings
1.2. Texts may be so repetitive; they are bounded by the line and by the number of rows."""
ALWAYS_BYTES: Final = 64 << 20
"""A member of up to this unpacks whatever its ratio: a matrix of zeros to try something out is no bomb."""


def open_member(
    file: BinaryIO, whole: Source, name: str, member: Member, ratio_max: float = RATIO_MAX
) -> "Stored | Inflated":
    """Raises BadFile: cut, or too large for what it is packed into."""
    part = Part(file, data_offset(whole, name, member), member.packed)
    if member.method == DEFLATED:
        if member.size > max(ALWAYS_BYTES, ratio_max * member.packed):
            raise BadFile(f"{name[:60]!r} would unpack from {member.packed:,} to {member.size:,} bytes")
        return Inflated(part, name, member)
    return Stored(part, name, member)


class _Checked:
    """The checksum of a member as far as it was read without a gap."""

    def __init__(self, name: str, member: Member) -> None:
        self._name = name
        self._member = member
        self._crc = 0
        self._done = 0

    def see(self, data: memoryview, offset: int) -> None:
        new = data[self._done - offset :] if offset <= self._done < offset + len(data) else data[:0]
        self._crc = zlib.crc32(new, self._crc)
        self._done += len(new)
        if self._done == self._member.size and self._crc != self._member.crc:
            raise BadFile(f"{self._name[:60]!r} is damaged: its checksum is another")


class Stored:
    """Bytes of the file itself."""

    def __init__(self, part: Part, name: str, member: Member) -> None:
        self.size = member.size
        self._part = part
        self._checked = _Checked(name, member)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self._part.read_into(buffer, offset)
        self._checked.see(buffer, offset)


class Inflated:
    """Unpacked from the front on: reading before what was read last begins anew, reading behind it passes over it."""

    def __init__(self, part: Part, name: str, member: Member) -> None:
        self.size = member.size
        self._part = part
        self._name = name
        self._checked = _Checked(name, member)
        self._rewind()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        if offset + len(buffer) > self.size:
            raise BadFile(f"{self._name[:60]!r} ends too soon")
        if offset < self._at:
            self._rewind()
        while self._at < offset:
            self._next(min(CHUNK_BYTES, offset - self._at))
        done = 0
        while done < len(buffer):
            data = self._next(min(CHUNK_BYTES, len(buffer) - done))
            buffer[done : done + len(data)] = data
            done += len(data)
        # Also on the way over it: a member whose stream goes on behind its last byte is not what the directory says.
        if self._at == self.size and self._inflate(1):
            raise BadFile(f"{self._name[:60]!r} unpacks to more than {self.size:,} bytes")

    def _rewind(self) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed_at = 0
        self._at = 0

    def _next(self, most: int) -> bytes:
        data = self._inflate(most)
        if not data:
            raise BadFile(f"{self._name[:60]!r} ends too soon")
        self._checked.see(memoryview(data), self._at)
        self._at += len(data)
        return data

    def _inflate(self, most: int) -> bytes:
        """1 to `most` bytes; none at the end of the stream."""
        data = b""
        while not data and not self._stream.eof:
            packed = self._stream.unconsumed_tail
            if not packed:
                packed = read(self._part, self._packed_at, min(CHUNK_BYTES, self._part.size - self._packed_at))
                self._packed_at += len(packed)
            try:
                data = self._stream.decompress(packed, most)
            except zlib.error as e:
                raise BadFile(f"{self._name[:60]!r} is damaged: {e}") from None
            if not packed and not data:
                break
        return data
