"""What a request must be allowed to do, and whether its key allows it.

Each route bears its `Rights`, in the one place where it is declared; one that bears none wants those to write, so that
a new route is never open by being forgotten. The reference shows them (`x-rights`), and a test walks it.
"""

from typing import Any, Literal

from starlette.types import Scope

from app.api.keys import EVERYBODY, Key
from app.api.refusals import Forbidden

Rights = Literal["open", "any", "read", "write"]
"""open: no key; any: every key; read, write: a key with that right, for the collection in the path. Where the path has
none, a key that is limited to collections does not do."""

RIGHTS = "x-rights"
KEY = "seedvec.key"


def needs(rights: Rights) -> dict[str, Any]:
    """For `openapi_extra` of a FastAPI route: `needs("read")`."""
    return {RIGHTS: rights, **({"security": []} if rights == "open" else {})}


def key_of(scope: Scope) -> Key:
    """The key that the request came with; where none is set, one that may do everything."""
    key: Key = scope.get(KEY, EVERYBODY)
    return key


def require(scope: Scope, rights: Rights, collection: str | None) -> None:
    """collection: the name as asked for, or None where the operation is about none. Raises Forbidden."""
    key = key_of(scope)
    if key.writes and key.collections is None:
        return
    if rights in ("open", "any"):
        return
    if rights == "write" and not key.writes:
        raise Forbidden(f"the key {key.name} reads, and this writes")
    if key.collections is None:
        return
    if collection is None:
        raise Forbidden(f"the key {key.name} is limited to collections, and this is about the whole server")
    if not key.reaches(collection):
        raise Forbidden(f"the key {key.name} does not reach this collection")
