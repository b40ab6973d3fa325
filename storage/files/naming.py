"""Which of the things that a file holds are the vectors, the ids, the metadata."""

from collections.abc import Collection
from typing import Final

from storage.files.contract import BadFile

VECTORS: Final = "vectors"
IDS: Final = "ids"
METADATA: Final = "metadata"
"""What they are called in files written here."""
_SHOWN_MAX: Final = 10


def the_vectors(held: Collection[str], asked: str | None) -> str:
    """The name asked for, else VECTORS, else the only one that is there. held: all that could be vectors.

    Raises BadFile where none or several could be meant.
    """
    if asked is not None:
        return _found(held, asked)
    if VECTORS in held:
        return VECTORS
    if len(held) == 1:
        return next(iter(held))
    if not held:
        raise BadFile("holds nothing that can be vectors")
    raise BadFile(f"holds {_shown(held)}: say which are the vectors (vectors=)")


def beside_them(held: Collection[str], asked: str | None, usual: str) -> str | None:
    """The name asked for, else the usual one where it is there. Raises BadFile where the one asked for is not."""
    if asked is not None:
        return _found(held, asked)
    return usual if usual in held else None


def _found(held: Collection[str], asked: str) -> str:
    if asked not in held:
        raise BadFile(f"holds no {asked!r}, but {_shown(held) or 'nothing of that kind'}")
    return asked


def _shown(held: Collection[str]) -> str:
    some = ", ".join(repr(name[:60]) for name in sorted(held)[:_SHOWN_MAX])
    return some + (f" and {len(held) - _SHOWN_MAX} more" if len(held) > _SHOWN_MAX else "")
