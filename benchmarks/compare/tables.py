"""The tables of a comparison, made from its records: for the terminal, and for docs/comparison.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import table
from benchmarks.compare.figures import OURS, Ratio, Record, chosen, fact, medians, ratio, shares_of_limit, short
from benchmarks.compare.settings import Setting, of

Cells = dict[str, str]
NOTHING = "–"
KINDS = {
    "seedvec": "server, HTTP",
    "chroma": "server, HTTP",
    "lance": "embedded",
    "milvus": "server of its own, gRPC",
    "qdrant": "embedded",
    "plain": "library, no storage",
}


@dataclass(frozen=True, slots=True)
class Table:
    """rows: heading → cell, the same headings in each."""

    title: str
    note: str
    rows: list[Cells]

    def text(self) -> str:
        note = f"({self.note})\n" if self.note else ""
        return f"{self.title}\n{note}{table.show(self.rows)}\n"

    def markdown(self) -> str:
        names = list(self.rows[0])
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(row[name] for name in names) + " |" for row in self.rows]
        note = f"{self.note}\n\n" if self.note else ""
        return f"### {self.title}\n{note}" + "\n".join(lines) + "\n"


def tables(records: Sequence[Record], cores: int) -> list[Table]:
    """Those for which there are figures."""
    settings = list(dict.fromkeys(of(r) for r in records if "round" in r))
    systems = list(dict.fromkeys(r["system"] for r in records))
    searches = [s for s in settings if s.part == "search"]
    parts = [_filled(records, systems), _ingest(records, systems)]
    parts += [_searches(records, systems, recall, searches) for recall in _values(s.recall for s in searches)]
    for setting in settings:
        if setting.part == "filtered":
            title = f"Filtered search: {setting.buckets} % of the rows pass"
            parts.append(_one(records, systems, setting, title, "QPS"))
        if setting.part == "batch":
            title = f"All queries in one request, recall ≥ {setting.recall:g}"
            parts.append(_one(records, systems, setting, title, "queries/s"))
        if setting.part == "fetch":
            parts.append(_one(records, systems, setting, "One item with its vector, by id", "QPS"))
    parts += [_cost(records, settings, cores), _left_out(records)]
    return [part for part in parts if part.rows]


def _values(found: Iterable[float | None]) -> list[float]:
    return list(dict.fromkeys(value for value in found if value is not None))


def _cell(figures: Mapping[str, object], name: str) -> str:
    value = figures.get(name)
    return short(float(value)) if isinstance(value, int | float) else NOTHING


def _beside(found: Ratio | None) -> str:
    return NOTHING if found is None else str(found)


def _filled(records: Sequence[Record], systems: Sequence[str]) -> Table:
    rows = []
    for system in systems:
        filled, size = fact(records, system, "filled"), fact(records, system, "size")
        cold = [r for r in records if r["system"] == system and r.get("part") == "cold"]
        rows.append(
            {
                "": system,
                "release": str(filled.get("version", NOTHING)),
                "kind": KINDS.get(system, ""),
                "filled, vectors/s acknowledged": _cell(filled, "rows_per_s"),
                "indexed": _cell(filled, "indexed_per_s"),
                "disk, MiB": _cell(size, "disk_mib"),
                "memory (PSS), MiB": _cell(size, "pss_mib"),
                "of it not from files": _cell(size, "anonymous_mib"),
                "cold start, s": _cell(medians(cold), "cold_s"),
            }
        )
    note = (
        "Once, before the rounds (Seedvec: one import of a `.npy` with metadata beside it). Memory of all processes "
        "after the rounds. Cold start: from the command to the first right answer, over a warm page cache."
    )
    return Table("Filling, room, start", note, rows if any("filled" in r.values() for r in records) else [])


def _ingest(records: Sequence[Record], systems: Sequence[str]) -> Table:
    rows = []
    npy, as_json = (Setting("ingest", body=body) for body in ("npy", "json"))
    ours, ours_json = (chosen(records, OURS, setting) for setting in (npy, as_json))
    for system, own in [(s, chosen(records, s, npy)) for s in systems] + [("seedvec, JSON", ours_json)]:
        if not own:
            continue
        mine = system.startswith(OURS)
        rows.append(
            {
                "": "seedvec, .npy" if system == OURS else system,
                "vectors/s acknowledged": _cell(medians(own), "rows_per_s"),
                "indexed": _cell(medians(own), "indexed_per_s"),
                "seedvec .npy ÷ it": NOTHING if mine else _beside(ratio(ours, own, "rows_per_s")),
                "seedvec JSON ÷ it": NOTHING if mine else _beside(ratio(ours_json, own, "rows_per_s")),
                "indexed, seedvec .npy ÷ it": NOTHING if mine else _beside(ratio(ours, own, "indexed_per_s")),
            }
        )
    return Table("Ingest into nothing, each round", "", rows)


def _searches(records: Sequence[Record], systems: Sequence[str], recall: float, settings: Sequence[Setting]) -> Table:
    rows = []
    own = [s for s in settings if s.recall == recall]
    for system in systems:
        found = {s: chosen(records, system, s) for s in own}
        if not any(found.values()):
            continue
        middle = {s: medians(rs) for s, rs in found.items()}
        measured = [m["recall_measured"] for m in middle.values() if "recall_measured" in m]
        row = {"": system, "recall": f"{min(measured):.3f}" if measured else NOTHING}
        row |= {f"QPS, {_clients(s)}": _cell(m, "qps") for s, m in middle.items()}
        row |= {
            f"p50 / p99 ms, {_clients(s)}": f"{_cell(m, 'p50_ms')} / {_cell(m, 'p99_ms')}" for s, m in middle.items()
        }
        for s in own:
            against = None if system == OURS else ratio(chosen(records, OURS, s), found[s], "qps")
            row[f"QPS, seedvec ÷ it, {_clients(s)}"] = _beside(against)
        rows.append(row)
    return Table(f"One query a request, recall ≥ {recall:g}", "", rows)


def _clients(setting: Setting) -> str:
    return f"{setting.clients} client" + ("s" if setting.clients != 1 else "")


def _one(records: Sequence[Record], systems: Sequence[str], setting: Setting, title: str, unit: str) -> Table:
    rows = []
    ours = chosen(records, OURS, setting)
    for system in systems:
        own = chosen(records, system, setting)
        if not own:
            continue
        figures = medians(own)
        row = {"": system, unit: _cell(figures, "qps")}
        if "p50_ms" in figures:
            row["p50 / p99 ms"] = f"{_cell(figures, 'p50_ms')} / {_cell(figures, 'p99_ms')}"
        if setting.recall is not None:
            measured = figures.get("recall_measured")
            row["recall"] = NOTHING if measured is None else f"{measured:.3f}"
        row["seedvec ÷ it"] = NOTHING if system == OURS else _beside(ratio(ours, own, "qps"))
        rows.append(row)
    if setting.part == "fetch":
        rows += _bare(records, ours, Setting("bare", clients=setting.clients, body="fetch"))
    return Table(title + (f", {_clients(setting)}" if setting.clients else ""), "", rows)


def _bare(records: Sequence[Record], ours: Sequence[Record], setting: Setting) -> list[Cells]:
    """A bare route that answers as many bytes, by the same generator."""
    own = chosen(records, OURS, setting)
    if not own:
        return []
    figures = medians(own)
    times = f"{_cell(figures, 'p50_ms')} / {_cell(figures, 'p99_ms')}"
    name = "bare route, as many bytes"
    return [
        {
            "": name,
            "QPS": _cell(figures, "qps"),
            "p50 / p99 ms": times,
            "seedvec ÷ it": _beside(ratio(ours, own, "qps")),
        }
    ]


def _cost(records: Sequence[Record], settings: Sequence[Setting], cores: int) -> Table:
    rows = []
    for setting in settings:
        own = chosen(records, OURS, setting)
        if not own or setting.part not in ("search", "binary", "filtered", "bare"):
            continue
        figures = medians(own)
        shares = shares_of_limit(records, setting, cores) if setting.part == "search" else []
        middle = sorted(shares, key=lambda share: share[1])[len(shares) // 2] if shares else None
        rows.append(
            {
                "": str(setting),
                "QPS": _cell(figures, "qps"),
                "CPU µs a request": _cell(figures, "cpu_us"),
                "in the index": _cell(figures, "index_us"),
                "outside it": _cell(figures, "outside_us"),
                "client's CPU µs": _cell(figures, "client_us"),
                "limit, QPS": NOTHING if middle is None else short(middle[0]),
                "share of it": NOTHING if middle is None else f"{middle[1]:.2f}",
                "connections by worker": _spread(own),
            }
        )
    note = (
        "The index's time is by the clock, which runs on while others have its core: what is outside it is shown for "
        f"one client alone. Limit: {cores} cores less what the client takes, each busy with plain Faiss's single query "
        "at this recall and 40 µs of HTTP. Bare: the same generator against routes that do nothing and "
        "answer as many bytes: ASGI alone is its ceiling; Starlette's route decodes the body."
    )
    return Table("What a request costs this server", note, rows)


def _spread(records: Sequence[Record]) -> str:
    """Of each round, what was seen: "4+4, 5+3"."""
    seen = ["+".join(map(str, r["spread"])) for r in records if r.get("spread")]
    return ", ".join(dict.fromkeys(seen)) or NOTHING


def _left_out(records: Sequence[Record]) -> Table:
    rows = [
        {"": r["system"], "asked": r["of"], "why not": " ".join(str(r["why"]).replace("|", "/").split())}
        for r in records
        if r.get("what") == "refused"
    ]
    return Table("Left out", "", rows)
