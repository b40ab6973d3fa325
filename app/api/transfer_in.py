"""The body and the query of an import, as `Upload`s and `ImportAsked`."""

from collections.abc import AsyncIterator
from email.message import Message
from typing import Annotated, Literal
from urllib.parse import urlsplit

import xxhash
from msgspec import UNSET, Meta, Struct, UnsetType

from app.api.limits import IDEMPOTENCY_KEY
from app.api.multipart import Part, boundary_of, parts
from app.api.refusals import UnsupportedMediaType, one
from app.api.resource import Call
from app.engine.errors import Invalid, Malformed
from app.engine.types import Idempotency, ImportAsked, Upload

MULTIPART = "multipart/form-data"
TAR = "application/x-tar"
PLACES = ("vectors", "ids", "metadata")

Key = Annotated[str, Meta(max_length=1000)]


class ImportQuery(Struct, forbid_unknown_fields=True):
    """How a file is to be read, and what is to become of its rows."""

    format: Annotated[str, Meta(description="default: by the file's name, or by how it begins")] | UnsetType = UNSET
    mode: Annotated[
        Literal["add", "upsert"], Meta(description="upsert replaces what is there; add refuses ids that exist")
    ] = "add"
    bad: Annotated[
        Literal["fail", "skip"], Meta(description="skip leaves rows out that cannot be stored, and says how many")
    ] = "fail"
    vectors: Annotated[Key, Meta(description="key, dataset or column of the vectors")] | UnsetType = UNSET
    ids: Annotated[Key, Meta(description="the same of the ids")] | UnsetType = UNSET
    metadata: Annotated[Key, Meta(description="the same of the metadata")] | UnsetType = UNSET
    dtype: Annotated[Key, Meta(description="of raw numbers, as `float32` or `>f4`")] | UnsetType = UNSET
    shape: (
        Annotated[str, Meta(description="of raw numbers: `rows,d` or `d`", pattern=r"^-?\d{1,18}(,\d{1,9}){0,8}$")]
        | UnsetType
    ) = UNSET
    flatten: Annotated[Literal[0, 1], Meta(description="1: items of several dimensions become one vector")] = 0
    append: Annotated[
        Literal[0, 1], Meta(description="1: a file without ids may go into a collection that is not empty")
    ] = 0


def import_asked(call: Call) -> ImportAsked:
    """Raises Invalid's family."""
    query = call.query(ImportQuery)
    given = {name: value for name in ("format", *PLACES, "dtype") if (value := getattr(query, name)) is not UNSET}
    shape = None if query.shape is UNSET else tuple(int(part) for part in query.shape.split(","))
    if shape is not None and any(n < 1 for n in shape[1:]):
        raise one(Invalid, "shape", "only the first number, of the rows, may be -1 (as many as there are) or 0")
    once = idempotency(call, call.scope["query_string"])
    return ImportAsked(
        mode=query.mode,
        bad=query.bad,
        shape=shape,
        flatten=bool(query.flatten),
        append=bool(query.append),
        once=once,
        **given,
    )


def idempotency(call: Call, said: bytes) -> Idempotency | None:
    """said: what the request says besides its path. Raises Invalid."""
    key = call.header(b"idempotency-key")
    if key is None:
        return None
    if IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise one(Invalid, "Idempotency-Key", "must be 1 to 255 printable ASCII characters without spaces")
    return Idempotency(key, xxhash.xxh3_64(call.scope["path"].encode() + b"\0" + said).hexdigest())


def body_size(call: Call) -> int | None:
    """Bytes to come, where the client says so."""
    length = call.header(b"content-length")
    return int(length) if length is not None and length.isdecimal() else None


async def uploads(call: Call) -> AsyncIterator[Upload]:
    """One file as the body, or several as parts. Raises UnsupportedMediaType, Malformed, ClientGone."""
    _refuse_other_pages(call)
    given = call.header(b"content-type") or ""
    essence = given.partition(";")[0].strip().lower()
    if essence != MULTIPART:
        name = "body.tar" if essence == TAR else _filename(call)
        yield Upload("vectors", name, call.chunks())
        return
    async for part in parts(call.chunks(), boundary_of(given)):
        yield _upload(part)


def _filename(call: Call) -> str:
    """What the client calls the file: its ending says its format."""
    message = Message()
    message["content-disposition"] = call.header(b"content-disposition") or "attachment"
    found = message.get_param("filename", header="content-disposition")
    return found if isinstance(found, str) else ""


def _upload(part: Part) -> Upload:
    for place in PLACES:
        if part.name == place:
            return Upload(place, part.filename, part.chunks)  # type: ignore[arg-type]
    raise Malformed(f"a part is named {part.name[:80]!r}: parts are named vectors, ids and metadata")


def _refuse_other_pages(call: Call) -> None:
    """A body of any type, as `curl -T` sends it, is also what a web page elsewhere may send without asking first; but a
    browser says from where."""
    if call.header(b"content-encoding") is not None:
        raise UnsupportedMediaType("a Content-Encoding is not taken: send the file as it is")
    origin = call.header(b"origin")
    if origin is not None and urlsplit(origin).netloc != call.header(b"host"):
        raise UnsupportedMediaType(f"a page of {origin} may not send files here")
