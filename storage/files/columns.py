"""A reader of vectors that lie row by row, with ids and metadata beside them where there are any."""

from collections.abc import Callable
from contextlib import ExitStack

from storage.files.contract import Outline
from storage.files.numbers import BFLOAT16_NOTE, Rows, stored_as
from storage.files.parts import IdRows, Parts, Texts, Vectors


def reader_of(
    vectors: Rows, ids: IdRows | None = None, metadata: Texts | None = None, notes: tuple[str, ...] = ()
) -> Parts:
    """notes: what is to be said of the file besides. Raises BadFile where there are more or fewer ids than vectors."""
    widened = (BFLOAT16_NOTE,) if vectors.bfloat16 else ()
    outline = Outline(vectors.width, stored_as(vectors), vectors.rows, notes=widened + notes)
    return Parts(Vectors(outline, vectors.take), ids, metadata)


def opened(make: Callable[[ExitStack], Parts]) -> Parts:
    """What `make` makes of files that it enters into the stack: they are closed with it, or at once where it fails."""
    with ExitStack() as files:
        made = make(files)
        made.files = files.pop_all()
    return made
