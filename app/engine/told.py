"""A refusal on its way out of a child process, and what it is there to the one who asked."""

from typing import Any

from app.engine import errors
from app.engine.errors import Fault, Refused


def refused_json(e: Refused) -> dict[str, Any]:
    faults = [[fault.where, fault.message] for fault in e.faults]
    return {"kind": type(e).__name__, "detail": e.detail, "faults": faults, "count": e.fault_count}


def refused_from(told: dict[str, Any]) -> Refused:
    """The same refusal; one of a kind that only the child knows is its nearest known one: Invalid."""
    kind = getattr(errors, str(told["kind"]), errors.Invalid)
    refusal: Refused = kind(told["detail"], [Fault(*fault) for fault in told["faults"]], told["count"])
    return refusal
