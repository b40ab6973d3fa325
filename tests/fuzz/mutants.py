"""Bytes that are nearly right, drawn by hypothesis: what is sound, with a few changes where they hurt.

A body of parts (the members of a tar, the parts of a multipart body) is changed in its parts and packed again, so that
the changes are not all caught by the lengths and checksums around them; or it is changed as a whole.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

Pack = Callable[[Sequence[bytes]], bytes]
Change = Callable[[bytes], bytes]
Test = TypeVar("Test", bound=Callable[..., None])

NEAR = 3000
"""Headers stand within so many bytes of the front or the end: two of three changes are made there."""
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (b"0", b"-1", b"1", b"1e400", b"NaN", b"4294967296", b"9223372036854775807", b"9" * 40, b"9" * 5000, b"1.5")
TOKENS = (
    b"\0",
    b"\xff",
    b"\r\n",
    b"\n",
    b"{",
    b"[" * 300,
    b"}",
    b'"',
    b"null",
    b"../",
    b"--",
    b":",
    b",",
    b"\xc3(",
    b" ",
)
VALUES = (
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"a"',
    b"[[1]]",
    b'{"$in": [1]}',
    b'"\\ud800"',
    b"1e-400",
    b"-0.0",
    *NUMBERS,
)
"""Of JSON, whatever stood there before."""
_DIGITS = re.compile(rb"-?\d+")


@dataclass(frozen=True)
class Sound:
    """What a decoder takes as it stands: `pack(parts)`."""

    parts: tuple[bytes, ...]
    pack: Pack = b"".join

    @property
    def whole(self) -> bytes:
        return self.pack(self.parts)


@dataclass(frozen=True)
class Mutant:
    """where: the part that is changed; -1: the whole. Hypothesis keeps what it has drawn: not the bytes, but these."""

    sound: Sound
    where: int
    changes: Sequence[Change]

    @property
    def body(self) -> bytes:
        if self.where < 0:
            return applied(self.sound.whole, self.changes)
        parts = list(self.sound.parts)
        parts[self.where] = applied(parts[self.where], self.changes)
        return self.sound.pack(parts)


def mutants(sound: Sequence[Sound]) -> st.SearchStrategy[Mutant]:
    """Of any of these, with one to four changes."""
    some = st.lists(changes(), min_size=1, max_size=4)
    return st.sampled_from(sound).flatmap(
        lambda one: st.builds(Mutant, st.just(one), st.integers(-1, len(one.parts) - 1), some)
    )


def applied(data: bytes, some: Sequence[Change]) -> bytes:
    for change in some:
        data = change(data)
    return data


def changes() -> st.SearchStrategy[Change]:
    """One change to any bytes."""
    return st.one_of(
        st.builds(_flip, _place(), st.integers(0, 7)),
        st.builds(_number, _place(), st.sampled_from("bBhHiIqQ"), st.booleans(), st.sampled_from(EDGES)),
        st.builds(_digits, st.integers(0, 200), st.sampled_from(NUMBERS)),
        st.builds(_insert, _place(), st.sampled_from(TOKENS) | st.binary(max_size=20)),
        st.builds(_delete, _place(), st.integers(1, 40)),
        st.builds(_repeat, _place(), st.integers(1, 300), st.integers(1, 3)),
        st.builds(_become, st.sampled_from(VALUES)),
        st.builds(_cut, _place()),
    )


def _place() -> st.SearchStrategy[tuple[str, int]]:
    return st.tuples(st.sampled_from(("front", "back", "any")), st.integers(0, 2**24))


def _at(data: bytes, place: tuple[str, int]) -> int:
    side, number = place
    if side == "any":
        return number % (len(data) + 1)
    near = number % (min(len(data), NEAR) + 1)
    return near if side == "front" else len(data) - near


def _flip(place: tuple[str, int], bit: int) -> Change:
    def act(data: bytes) -> bytes:
        at = _at(data, place)
        return data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]

    return act


def _number(place: tuple[str, int], kind: str, big: bool, value: int) -> Change:
    """A number of that width written over what stands there, the edges of each kind among them."""
    width = struct.calcsize(kind)
    raw: bytes = (value % 2 ** (8 * width)).to_bytes(width, "big" if big else "little")

    def act(data: bytes) -> bytes:
        at = min(_at(data, place), max(0, len(data) - width))
        return data[:at] + raw + data[at + width :]

    return act


def _digits(which: int, text: bytes) -> Change:
    """Another number in the place of one that is written out."""

    def act(data: bytes) -> bytes:
        found = list(_DIGITS.finditer(data, 0, NEAR))
        if not found:
            return data
        start, stop = found[which % len(found)].span()
        return data[:start] + text + data[stop:]

    return act


def _insert(place: tuple[str, int], piece: bytes) -> Change:
    def act(data: bytes) -> bytes:
        at = _at(data, place)
        return data[:at] + piece + data[at:]

    return act


def _delete(place: tuple[str, int], count: int) -> Change:
    def act(data: bytes) -> bytes:
        at = _at(data, place)
        return data[:at] + data[at + count :]

    return act


def _repeat(place: tuple[str, int], count: int, times: int) -> Change:
    def act(data: bytes) -> bytes:
        at = _at(data, place)
        return data[:at] + data[at : at + count] * (times + 1) + data[at + count :]

    return act


def _become(value: bytes) -> Change:
    return lambda data: value


def _cut(place: tuple[str, int]) -> Change:
    return lambda data: data[: _at(data, place)]


def repeatable(cases: int, seed: int) -> Callable[[Test], Test]:
    """For what hypothesis is to try so often: always the same for a seed, and the smallest of what fails."""
    tried = settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: hypothesis.seed(seed)(tried(test))
