"""What an index offers that compares the query with every row: one plan, whatever recall is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from index.contract import Options, Plan


class OnlyExact(ABC):
    kind = "flat"

    @abstractmethod
    def all_us(self) -> float:
        """One query over all rows on one thread, µs."""

    def options(self, k: int) -> Options:
        return Options((), self.plan(k, 1.0))

    def plan(self, k: int, recall: float) -> Plan:
        return Plan({}, 1.0, self.all_us(), exact=True)

    def given(self, params: Mapping[str, int], k: int) -> Plan:
        return self.plan(k, 1.0)
