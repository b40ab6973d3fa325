"""What is wrong with a filter, place by place.

FilterError            not a filter
├── FilterNotJson      not even JSON
├── FilterNotFinite    a number is infinite
└── FilterOutOfRange   a number has too many digits
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seedvec.errors import SeedvecError

MAX_FAULTS = 100
"""Faults listed in one refusal; the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One place in a request and what is wrong there: `items[17].vector`, `k`, `row 3`."""

    where: str
    message: str


class FilterError(SeedvecError):
    def __init__(self, detail: str, faults: Sequence[Fault] = (), fault_count: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults[:MAX_FAULTS])
        self.fault_count = len(faults) if fault_count is None else fault_count


class FilterNotJson(FilterError):
    pass


class FilterNotFinite(FilterError):
    pass


class FilterOutOfRange(FilterError):
    pass
