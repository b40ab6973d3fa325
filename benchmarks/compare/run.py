"""The run: each system filled and tuned, then asked in rounds, one at a time while the others lie idle."""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.compare.figures import OURS, Record
from benchmarks.compare.peer import Refused, System
from benchmarks.compare.settings import Setting
from benchmarks.compare.versions import version
from benchmarks.compare.work import FEW, Work, disk_mib, kept

FILL_S, TUNE_S = 3600.0, 1800.0
PATIENCE_S = 150.0
"""Beyond the time ordered, for one thing asked."""
SLOW_S = 45.0
"""Who takes so much longer than was ordered is not asked the same again."""
BATCHES = 3
"""Of one round, its median counts; only the first where that is slow."""


class Comparison:
    """records: what was found, a dict each. Those of a round have `round`, the setting's fields and figures; others
    have `what`: `filled`, `tuned`, `size`, or `refused` with `why`."""

    def __init__(self, work: Work, place: Path, seconds: float, ingest_rows: int) -> None:
        """place: where each system has its folder; what is filled there is used again. ingest_rows: of one round."""
        self.records: list[Record] = []
        self._work = work
        self._place = place
        self._seconds = seconds
        self._ingest_rows = ingest_rows
        self._tuned: dict[tuple[str, float, int | None], dict[str, Any]] = {}
        self._left_out: set[tuple[str, Setting]] = set()

    # -- before

    def prepare(self, system: System, settings: Sequence[Setting]) -> bool:
        """Opened, filled where it is not, and tuned to what will be asked. → False where it cannot take part."""
        try:
            self._fill(system)
        except Refused as error:
            self._refused(system, "all", str(error))
            return False
        wanted = {(s.recall, s.buckets) for s in settings if s.recall is not None}
        for recall, buckets in sorted(wanted, key=lambda w: (w[1] or 0, w[0])):
            try:
                self._tune(system, recall, buckets)
            except Refused as error:
                self._refused(system, f"recall ≥ {recall:g}" + (f" at {buckets} %" if buckets else ""), str(error))
        return True

    def _fill(self, system: System) -> None:
        folder, notes = self._place / system.name, self._place / f"{system.name}.json"
        rows, dimension = self._work.data.train.shape
        known = kept(notes)
        if "filled" not in known:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        there = system.ask("open", FILL_S, folder=folder, dimension=dimension, metric="l2")["rows"]
        if "filled" not in known:
            _say(f"{system.name}: is filled with {rows:,} rows")
            vectors = self._work.vectors(rows)
            known["filled"] = system.ask("ingest", FILL_S, vectors=vectors, bucket=True)
            notes.write_text(json.dumps(known))
        elif there != rows:
            raise Refused(f"{folder} holds {there:,} rows and not {rows:,}: remove {notes}")
        seconds = known["filled"]
        rates = {"rows_per_s": rows / seconds["acknowledged_s"], "indexed_per_s": rows / seconds["indexed_s"]}
        self.records.append(
            {"system": system.name, "what": "filled", "version": version(system.name)} | seconds | rates
        )

    def _tune(self, system: System, recall: float, buckets: int | None) -> None:
        notes = self._place / f"{system.name}.json"
        known = kept(notes)
        name = f"{recall:g}" + (f" at {buckets}" if buckets else "")
        # Ours is asked for a recall and tunes itself: what it needs to be asked for is looked up each time.
        tuned = None if system.name == OURS else known.get("tuned", {}).get(name)
        if tuned is None:
            work = self._work
            tuned = system.ask(
                "tune",
                TUNE_S,
                queries=work.queries,
                truth=work.truth(buckets),
                k=work.k,
                recall=recall,
                buckets=buckets,
            )
            known["tuned"] = known.get("tuned", {}) | {name: tuned}
            notes.write_text(json.dumps(known))
        self.records.append({"system": system.name, "what": "tuned", "for": name, "params": tuned["params"]})
        if tuned["params"] is None:
            raise Refused(f"finds {tuned['recall']:.4f} at most")
        self._tuned[system.name, recall, buckets] = tuned["params"]

    # -- rounds

    def round(self, number: int, systems: Sequence[System], settings: Sequence[Setting]) -> None:
        """Every other round in the opposite order: who comes first must not always be the same."""
        for setting in settings:
            for system in systems if number % 2 == 0 else systems[::-1]:
                if system.name == OURS or not setting.ours_alone:
                    self._measure(number, system, setting)

    def _measure(self, number: int, system: System, setting: Setting) -> None:
        if (system.name, setting) in self._left_out:
            return
        begun = time.perf_counter()
        try:
            figures = self._asked(system, setting)
        except Refused as error:
            self._left_out.add((system.name, setting))
            self._refused(system, str(setting), str(error))
            return
        self.records.append({"system": system.name, "round": number} | setting.fields() | figures)
        took_s = time.perf_counter() - begun
        if took_s > self._seconds + SLOW_S:
            self._left_out.add((system.name, setting))
            self._refused(system, str(setting), f"asked in one round alone, since that took {took_s:.0f} s")

    def _asked(self, system: System, setting: Setting) -> Record:
        work, within_s = self._work, self._seconds + PATIENCE_S
        match setting.part:
            case "ingest":
                return self._ingested(system, setting)
            case "fetch":
                clients, ids = setting.clients, work.ids
                return system.ask("fetch", within_s, ids=ids, clients=clients, seconds=self._seconds)
            case "bare":
                order = {"queries": work.queries, "k": work.k, "clients": setting.clients, "seconds": self._seconds}
                return system.ask("bare", within_s, route=setting.body, **order)
            case "cold":
                params = self._params(system, setting)
                return system.cold(work.one, work.k, params, work.answers, within_s)
            case "batch":
                return self._batched(system, setting) | {"recall_measured": work.recall()}
        order = {"queries": work.queries, "k": work.k, "params": self._params(system, setting)}
        order |= {"clients": setting.clients, "seconds": self._seconds, "buckets": setting.buckets}
        if setting.part == "binary":
            order["body"] = "npy"
        found = system.ask("search", within_s, **order, answers=work.answers)
        return found | {"recall_measured": work.recall(setting.buckets)}

    def _ingested(self, system: System, setting: Setting) -> Record:
        rows = min(self._ingest_rows, len(self._work.data.train))
        folder = self._work.folder / "afresh"
        vectors, dimension = self._work.vectors(rows), self._work.data.train.shape[1]
        took = system.ingest_afresh(vectors, str(setting.body), folder, dimension, PATIENCE_S)
        return took | {"rows_per_s": rows / took["acknowledged_s"], "indexed_per_s": rows / took["indexed_s"]}

    def _batched(self, system: System, setting: Setting) -> Record:
        """A few queries first: a batch cannot be cut short."""
        work, queries = self._work, len(self._work.data.queries)
        order = {"k": work.k, "params": self._params(system, setting), "answers": work.answers}
        few_s = float(system.ask("batch", PATIENCE_S, queries=work.few, **order)["elapsed_s"])
        if few_s / FEW * queries > SLOW_S:
            raise Refused(f"{FEW} queries take {few_s:.1f} s: {queries:,} were not asked")
        took: list[float] = []
        while len(took) < BATCHES and sum(took) < self._seconds:
            took.append(float(system.ask("batch", PATIENCE_S, queries=work.queries, **order)["elapsed_s"]))
        elapsed_s = statistics.median(took)
        return {"elapsed_s": elapsed_s, "qps": queries / elapsed_s}

    def _params(self, system: System, setting: Setting) -> dict[str, Any]:
        assert setting.recall is not None
        params = self._tuned.get((system.name, setting.recall, setting.buckets))
        if params is None:
            raise Refused(f"was not tuned to {setting.recall:g}")
        return params

    # -- after

    def sizes(self, system: System) -> None:
        """Its folder, and what its processes hold: after the rounds, when all that is searched was."""
        try:
            held = memory.measure(system.ask("pids", PATIENCE_S)["pids"])
        except Refused as error:
            self._refused(system, "memory", str(error))
            return
        sizes = {"pss_mib": held.pss / 2**20, "anonymous_mib": held.anonymous / 2**20}
        disk = disk_mib(self._place / system.name)
        self.records.append({"system": system.name, "what": "size", "disk_mib": disk} | sizes)

    def close(self, system: System) -> None:
        try:
            system.close()
        except Refused as error:
            self._refused(system, "its end", str(error))

    def _refused(self, system: System, what: str, why: str) -> None:
        # What is published names no paths of this machine.
        for place in (self._place, self._work.folder):
            why = why.replace(str(place), "…")
        _say(f"{system.name}: {what}: {why}")
        self.records.append({"system": system.name, "what": "refused", "of": what, "why": why})


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
