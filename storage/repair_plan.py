"""What of one collection can be saved: decided here, written by `storage/repair_write.py`.

A row is live if and only if `items` gives its id that key. Where `items` cannot be read for an id, `deaths` decides
(whatever stopped being live is in it); where neither can, the newest key of an id wins, and the item is listed as
doubtful: that it was deleted or replaced cannot be known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage import errors
from storage.catalogue import SegmentRow, Settings, State, now
from storage.layout import SEGMENTS_NAME
from storage.repair_probe import Unreadable, Wreck
from storage.repair_report import CollectionReport, Loss
from storage.repair_segment import Salvaged, salvage

DEFAULT_RECALL = 0.95


@dataclass(slots=True)
class Found:
    """A vector that was found whole. source: number of the segment, or None: it pends; row: there."""

    key: int
    source: int | None
    row: int


@dataclass(slots=True)
class Source:
    """row: what the catalogue says of the file; None: it names none such. A sound one is taken over as it is."""

    rows: Salvaged
    row: SegmentRow | None

    @property
    def sound(self) -> bool:
        return self.row is not None and not self.rows.damage


@dataclass(slots=True)
class Plan:
    """kept: id → where its vector is; metadata: key → JSON; pending: (key, id, vector) of all that could be read."""

    folder: Path
    report: CollectionReport
    settings: Settings | None = None
    state: State = field(default_factory=State)
    sources: list[Source] = field(default_factory=list)
    pending: list[tuple[int, Any, bytes]] = field(default_factory=list)
    kept: dict[Any, Found] = field(default_factory=dict)
    metadata: dict[int, bytes] = field(default_factory=dict)
    given: NDArray[np.float32] | None = None
    """Queries to calibrate on. Where they cannot be read they are given up: no item depends on them."""


def plan(folder: Path, name: str) -> Plan:
    """Changes nothing. report.outcome says whether there is anything to be done, and whether anything can be."""
    made = Plan(folder, CollectionReport(name, folder.name))
    if not folder.is_dir():
        made.report.outcome = "lost"
        made.report.damage.append("its folder is gone")
        return made
    try:
        wreck = Wreck(folder)
    except errors.OtherVersion as e:
        made.report.outcome = "left"
        made.report.notes.append(f"{e}: it was left alone")
        return made
    try:
        _plan(made, wreck)
    finally:
        wreck.close()
    return made


def _plan(made: Plan, wreck: Wreck) -> None:
    report = made.report
    report.damage += wreck.damage
    made.settings = wreck.settings
    _find_sources(made, wreck)
    made.settings = made.settings or _settings_of(made.sources)
    made.state = _counters(made, wreck)
    made.given = wreck.given
    if not report.damage:
        report.live = made.state.live
        return
    if made.settings is None:
        report.outcome = "lost"
        report.notes.append("neither its settings nor a segment can be read: nothing was changed")
        return
    report.outcome = "repaired"
    if wreck.settings is not None:
        made.pending = list(wreck.pending())
    else:
        report.notes.append("its settings are those of its segments: recall and index are the defaults")
    _decide(made, wreck)
    _read_metadata(made, wreck)
    _count_forgotten(made, wreck)
    report.live = len(made.kept)


def _find_sources(made: Plan, wreck: Wreck) -> None:
    segments = made.folder / SEGMENTS_NAME
    for row in wreck.segments or []:
        found = salvage(segments / row.file, row.seq, made.settings, row, row.base_key)
        if isinstance(found, str):
            last = row.base_key + row.span - 1
            made.report.damage.append(f"{found}; it held {row.rows:,} rows with keys {row.base_key} to {last}")
            continue
        made.report.damage += [found.damage] * bool(found.damage)
        made.sources.append(Source(found, row))
    if made.report.damage and segments.is_dir():
        _find_unnamed(made, {row.file for row in wreck.segments or []})


def _find_unnamed(made: Plan, named: set[str]) -> None:
    """Files that the catalogue may have named in the part that is lost. Keys of those that do not say what they count
    from are taken as newer than all others."""
    files = sorted(f for f in (made.folder / SEGMENTS_NAME).glob("*.h5") if f.name not in named and f.is_file())
    for path in files:
        seq = int(path.name.partition("-")[0]) if path.name.partition("-")[0].isdigit() else 0
        found = salvage(path, seq, made.settings, None, 0)
        if isinstance(found, str):
            made.report.damage.append(found)
            continue
        if made.settings is not None and _stranger(found, made.settings):
            made.report.notes.append(f"{path.name} belongs to another collection: it is left out")
            continue
        base = found.file.base_key
        if base is None:
            base = 1 + max((int(s.rows.keys[-1]) for s in made.sources), default=0)
            made.report.notes.append(f"{path.name} does not say how old its rows are: they count as the newest")
        found.keys += base
        made.sources.append(Source(found, None))


def _stranger(found: Salvaged, settings: Settings) -> bool:
    file = found.file
    wanted = (settings.dimension, settings.metric, settings.vector_dtype, settings.sparse)
    other_ids = settings.id_type not in ("auto", file.id_type)
    return other_ids or (file.dimension, file.metric, file.vectors.dtype, file.sparse) != wanted


def _settings_of(sources: list[Source]) -> Settings | None:
    if not sources:
        return None
    file = sources[0].rows.file
    spec: dict[str, Any] = {"kind": "auto", "params": {}}
    dtype = file.vectors.dtype.name
    return Settings(file.dimension, file.metric, dtype, file.id_type, DEFAULT_RECALL, spec, now(), file.sparse)


def _counters(made: Plan, wreck: Wreck) -> State:
    """No key, id, position or number that may have been given is given again."""
    state = replace(wreck.state) if wreck.state is not None else State()
    for name, value in (wreck.known or {}).items():
        setattr(state, name, max(getattr(state, name), value))
    for source in made.sources:
        state.next_key = max(state.next_key, int(source.rows.keys[-1]) + 1)
        state.next_seq = max(state.next_seq, source.rows.seq + 1)
    return state


# -------------------------------------------------------------------- which rows are live


def _decide(made: Plan, wreck: Wreck) -> None:
    # What the catalogue knew last, before it was cut off: newer keys than that it cannot judge.
    judged = wreck.state.next_key if wreck.behind and wreck.state is not None else None
    newest = _newest(made)
    for id_, found in newest.items():
        by_key = {f.key: f for f in found}
        _decide_one(made, wreck, id_, by_key, judged)
    for id_, key, why in _harmed(made):
        if id_ not in newest:
            _lose_if_live(made, wreck, id_, key, why)
    lost = {loss.id for loss in made.report.losses if loss.what == "vector"}
    for id_, key in wreck.items():
        if id_ not in made.kept and id_ not in lost:
            made.report.losses.append(Loss("vector", id_, key, "its vector is in no segment that can be read"))


def _newest(made: Plan) -> dict[Any, list[Found]]:
    """id → its vectors that are whole. One key found twice counts once: what the catalogue names comes first."""
    found: dict[Any, list[Found]] = {}
    seen: set[int] = set()
    for at, (key, id_, _) in enumerate(made.pending):
        seen.add(key)
        found.setdefault(id_, []).append(Found(key, None, at))
    for number, source in enumerate(made.sources):
        ids = source.rows.ids()
        keys = source.rows.keys.tolist()
        for row in source.rows.whole.nonzero()[0].tolist():
            if keys[row] not in seen:
                seen.add(keys[row])
                found.setdefault(ids[row], []).append(Found(keys[row], number, row))
    return found


def _decide_one(made: Plan, wreck: Wreck, id_: Any, by_key: dict[int, Found], judged: int | None) -> None:
    last = by_key[max(by_key)]
    doubt = ""
    if judged is not None and last.key >= judged:
        doubt = "it was written after the last state that the catalogue has"
    else:
        try:
            key = wreck.key_of(id_)
        except Unreadable:
            dead = _is_dead(wreck, last.key)
            if dead:
                return
            doubt = "whether it was still there cannot be read" if dead is None else ""
        else:
            if key is None:
                return
            if key not in by_key:
                made.report.losses.append(Loss("vector", id_, key, "its vector lies where the damage is"))
                return
            last = by_key[key]
    made.kept[id_] = last
    if doubt:
        made.report.losses.append(Loss("doubtful", id_, last.key, doubt))


def _is_dead(wreck: Wreck, key: int) -> bool | None:
    try:
        return wreck.is_dead(key)
    except Unreadable:
        return None


def _harmed(made: Plan) -> Iterator[tuple[Any, int | None, str]]:
    """(id, key, why) of rows whose key and id are proven, but not their vector."""
    for source in made.sources:
        ids: list[Any] | None = None
        for row in (source.rows.known & ~source.rows.whole).nonzero()[0].tolist():
            ids = source.rows.ids() if ids is None else ids
            yield ids[row], int(source.rows.keys[row]), f"its vector lies in a damaged block of {source.rows.path.name}"
        unknown = int((~source.rows.known).sum())
        if unknown:
            where = f"{unknown:,} rows of {source.rows.path.name} whose ids or keys lie in damaged blocks"
            made.report.notes.append(f"{where}: those that were live and could be named are listed")


def _lose_if_live(made: Plan, wreck: Wreck, id_: Any, key: int | None, why: str) -> None:
    try:
        live = wreck.key_of(id_) == key
    except Unreadable:
        live = key is None or not _is_dead(wreck, key)
    if live:
        made.report.losses.append(Loss("vector", id_, key, why))


def _read_metadata(made: Plan, wreck: Wreck) -> None:
    for id_, found in made.kept.items():
        try:
            text = wreck.metadata(found.key)
        except Unreadable:
            made.report.losses.append(Loss("metadata", id_, found.key, "where it stood cannot be read"))
            continue
        if text is not None:
            made.metadata[found.key] = text


def _count_forgotten(made: Plan, wreck: Wreck) -> None:
    """What was lost without a trace, by the counters: keys given that nobody has, and positions of the change log."""
    if wreck.sound:
        return
    found = {key for key, _, _ in made.pending}
    for source in made.sources:
        found.update(source.rows.keys[source.rows.known].tolist())
    named = {loss.key for loss in made.report.losses}
    if wreck.state is None and wreck.known is None:
        made.report.notes.append("how many rows pended when the catalogue was lost is not known: they are lost")
    made.report.unnamed = max(0, made.state.next_key - 1 - len(found | named))
    if wreck.behind and wreck.state is not None:
        made.report.forgotten = made.state.log_pos - wreck.state.log_pos
