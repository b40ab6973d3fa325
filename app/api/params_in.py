"""The expert's search parameters on their way in: an object in a body, the JSON text of one in a query string."""

from collections.abc import Mapping

from msgspec.json import Decoder

from app.api.json_in import decode
from app.api.refusals import one
from app.engine.errors import Invalid, Malformed

_PARAMS = Decoder(dict[str, int])


def params_in(given: Mapping[str, int] | str) -> dict[str, int]:
    """Names and ranges are the engine's to check. Raises Invalid's family, naming the place."""
    if not isinstance(given, str):
        return dict(given)
    try:
        return decode(_PARAMS, given.encode(), "params")
    except Malformed as refused:
        # Of a body the whole is malformed; here it is one parameter.
        raise one(Invalid, "params", refused.detail) from None
