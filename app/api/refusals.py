"""What HTTP itself refuses, beside the engine's refusals (`app/engine/errors.py`)."""

from collections.abc import Sequence

from app.engine.errors import Fault, Invalid, OutOfRange, Refused, Unavailable


class RouteNotFound(Refused):
    code = "not-found"


class MethodNotAllowed(Refused):
    code = "method-not-allowed"

    def __init__(self, detail: str, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class Unauthorized(Refused):
    """No key, or none of ours (401)."""

    code = "unauthorized"


class Forbidden(Refused):
    """A key that may not do this (403)."""

    code = "forbidden"


class RateLimited(Unavailable):
    """The key asks faster than it may (429)."""

    code = "rate-limited"

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class UnsupportedMediaType(Refused):
    code = "unsupported-media-type"


class UnknownField(Invalid):
    code = "unknown-field"


class InvalidMetadata(Invalid):
    code = "invalid-metadata"


class NotReady(Unavailable):
    code = "not-ready"


def one(kind: type[Invalid], where: str, message: str) -> Invalid:
    """A refusal about a single place: the detail is the fault itself."""
    return kind(f"{where}: {message}", [Fault(where, message)])


def at_most(where: str, value: int, most: int) -> None:
    """Raises OutOfRange. For limits that are settings; what never changes stands in the schemas."""
    if value > most:
        raise one(OutOfRange, where, f"expected int <= {most}")


def many(kind: type[Invalid], faults: Sequence[Fault], count: int, summary: str) -> Invalid:
    """A refusal about several places; count: how many there are, of which `faults` may list only the first."""
    if count == 1:
        return one(kind, faults[0].where, faults[0].message)
    return kind(f"{summary}; the first: {faults[0].where}: {faults[0].message}", faults, count)
