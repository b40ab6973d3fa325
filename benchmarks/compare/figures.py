"""What the records of a run come to: medians over rounds, ratios within rounds, and the limit of the machine."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.settings import Setting, of

Record = dict[str, Any]
HTTP_S = 40e-6
"""Bare HTTP and decoding of one request, on one core."""
OURS, PLAIN = "seedvec", "plain"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours by theirs: the median of what each round gave, and the least and most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.least)}–{short(self.most)})"


def short(value: float) -> str:
    """Three figures."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def chosen(records: Iterable[Record], system: str, setting: Setting) -> list[Record]:
    """Of one system and setting, by round."""
    own = [r for r in records if "round" in r and r["system"] == system and of(r) == setting]
    return sorted(own, key=lambda record: int(record["round"]))


def medians(records: Sequence[Record]) -> dict[str, float]:
    """Of every figure that each of them has."""
    skip = {"system", "round", *Setting.__dataclass_fields__}
    names = [name for name in records[0] if name not in skip] if records else []
    numbers = {name: [r[name] for r in records if isinstance(r.get(name), int | float)] for name in names}
    return {name: statistics.median(values) for name, values in numbers.items() if values}


def ratio(ours: Sequence[Record], theirs: Sequence[Record], figure: str) -> Ratio | None:
    """Of the rounds that both have. A peer that was asked in fewer rounds is compared in those."""
    other = {record["round"]: record[figure] for record in theirs if record.get(figure)}
    found = [r[figure] / other[r["round"]] for r in ours if r.get(figure) and r["round"] in other]
    return Ratio(statistics.median(found), min(found), max(found)) if found else None


def limit_qps(cores: int, search_s: float, qps: float, client_us: float) -> float:
    """What the machine allows at most: the cores that the client leaves, each busy with plain Faiss's search and bare
    HTTP alone. search_s: plain Faiss, one query, one thread; qps, client_us: as measured, what the client takes."""
    return max(0.0, cores - qps * client_us * 1e-6) / (search_s + HTTP_S)


def shares_of_limit(records: Sequence[Record], setting: Setting, cores: int) -> list[tuple[float, float]]:
    """(limit in queries/s, our share of it) of each round in which plain Faiss was asked by one client as well."""
    alone = chosen(records, PLAIN, Setting("search", setting.recall, 1))
    search_s = {record["round"]: 1 / record["qps"] for record in alone if record["qps"]}
    found = []
    for record in chosen(records, OURS, setting):
        if record["round"] in search_s:
            limit = limit_qps(cores, search_s[record["round"]], record["qps"], record["client_us"])
            found.append((limit, record["qps"] / limit if limit else 0.0))
    return found


def fact(records: Iterable[Mapping[str, Any]], system: str, what: str) -> Mapping[str, Any]:
    """What was found out once about a system: `filled`, `size`, `kind`; empty where nothing was."""
    return next((r for r in records if r["system"] == system and r.get("what") == what), {})
