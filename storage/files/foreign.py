"""Other people's libraries on other people's files: whatever they raise is a BadFile."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from storage.files.contract import BadFile

_SAID_MAX: Final = 300


@contextmanager
def told(library: str, what: str, errors: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """library: how people call it; what: the place. errors: what counts: anything, for that is what they
    raise on damaged files. So only their calls stand inside, or the errors are named."""
    try:
        yield
    except BadFile:
        raise
    except MemoryError:
        raise BadFile(f"{what}: {library} asks for more memory than it may have") from None
    except errors as e:
        said = str(e).strip().partition("\n")[0] or type(e).__name__
        raise BadFile(f"{what}: {library} cannot read it: {said[:_SAID_MAX]}") from e
