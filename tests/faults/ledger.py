"""The outside record of a script: what it was about to do, what it was told was done, and so what must be there.

One JSON line before an operation ("announced") and one after it ("acknowledged", or "refused": nothing was changed).
What was announced alone is in doubt: it is wholly there or wholly absent. Lines are appended with one write(2) each,
so the record of a process that was killed is whole; cut at any line's end it is the record of that moment.
"""

import itertools
import json
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash
from numpy.typing import NDArray

Id = int | str
Row = tuple[str, Any]
"""Hash of the vector's stored bytes, and the metadata as parsed JSON (None: it has none)."""
MAX_DOUBTS = 8
"""Each doubles the worlds that must be compared."""


def digest(vector: NDArray[Any]) -> str:
    """Of a vector in the collection's dtype, bit for bit."""
    return xxhash.xxh3_64_hexdigest(vector.tobytes())


@dataclass(slots=True)
class Stored:
    """One collection as it must be. settings: {"dimension", "metric", "dtype", "id_type", "index", "recall"},
    and "given", the digest of the queries given to calibrate on."""

    settings: dict[str, Any]
    rows: dict[Id, Row] = field(default_factory=dict)
    unnamed: list[Row] = field(default_factory=list)
    """Rows in doubt whose ids the server would have assigned, and did not live to tell."""


World = dict[str, Stored]


@dataclass(frozen=True, slots=True)
class Effect:
    """What an operation makes of the world. JSON-able by its fields.

    put: settings of a new collection ("create"), (id or None, hash, metadata) of rows ("put"), ids ("gone"), changed
    settings ("settings").
    """

    do: Literal["nothing", "create", "drop", "put", "gone", "clear", "settings"]
    collection: str = ""
    what: Any = None


@dataclass(slots=True)
class Entry:
    """One operation of the record."""

    n: int
    kind: str
    effect: Effect
    end: Literal["doubt", "acknowledged", "refused"] = "doubt"
    ids: list[Id] | None = None
    """Those that the server assigned."""


class Ledger:
    """Appends. Open one at a time on a path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def announce(self, n: int, kind: str, effect: Effect) -> None:
        self._line({"n": n, "kind": kind, "do": effect.do, "c": effect.collection, "what": effect.what})

    def acknowledge(self, n: int, ids: list[Id] | None = None) -> None:
        """ids: those that the server assigned."""
        self._line({"n": n, "end": "acknowledged", "ids": ids})

    def refuse(self, n: int) -> None:
        """The engine said that nothing was changed."""
        self._line({"n": n, "end": "refused"})

    def _line(self, record: dict[str, Any]) -> None:
        os.write(self._fd, json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def read(path: Path) -> list[Entry]:
    """In the order announced; each operation once, by its last attempt."""
    entries: dict[int, Entry] = {}
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        if "end" in record:
            entries[record["n"]].end = record["end"]
            entries[record["n"]].ids = record.get("ids")
        else:
            effect = Effect(record["do"], record["c"], record["what"])
            entries.pop(record["n"], None)
            entries[record["n"]] = Entry(record["n"], record["kind"], effect)
    return list(entries.values())


def doubts(entries: list[Entry]) -> list[Entry]:
    return [e for e in entries if e.end == "doubt"]


def worlds(entries: list[Entry]) -> Iterator[tuple[World, set[int]]]:
    """Every world that the record allows, with the numbers of the operations in doubt that it takes as done."""
    open_ = [e.n for e in doubts(entries)]
    assert len(open_) <= MAX_DOUBTS, f"{len(open_)} operations are in doubt: settle them as they come"
    for choice in itertools.product((False, True), repeat=len(open_)):
        done = {n for n, there in zip(open_, choice, strict=True) if there}
        world: World | None = {}
        for entry in entries:
            if world is not None and (entry.end == "acknowledged" or entry.n in done):
                world = after(world, entry.effect, entry.ids)
        if world is not None:
            yield world, done


def after(world: World, effect: Effect, ids: list[Id] | None = None) -> World | None:
    """The world after an effect, changed in place; None: it could not have happened in that world."""
    name, what = effect.collection, effect.what
    if effect.do == "nothing":
        return world
    if (effect.do == "create") == (name in world):
        return None
    if effect.do == "create":
        world[name] = Stored(dict(what))
    elif effect.do == "drop":
        del world[name]
    elif effect.do == "put":
        _put(world[name], what, ids)
    elif effect.do == "gone":
        for id_ in what:
            world[name].rows.pop(id_, None)
    elif effect.do == "clear":
        world[name].rows.clear()
        world[name].unnamed.clear()
    else:
        world[name].settings.update(what)
    return world


def _put(stored: Stored, rows: list[Any], assigned: list[Id] | None) -> None:
    for number, (id_, vector, metadata) in enumerate(rows):
        given = id_ if assigned is None else assigned[number]
        if given is None:
            stored.unnamed.append((vector, metadata))
        else:
            stored.rows[given] = (vector, metadata)
            fix_id_type(stored, given)


def fix_id_type(stored: Stored, id_: Id) -> None:
    """The first write does, where none was named."""
    if stored.settings["id_type"] == "auto":
        stored.settings["id_type"] = "str" if isinstance(id_, str) else "int"


def named(world: World, seen: World) -> World | None:
    """`world` with the ids that `seen` has given to its unnamed rows; None where they are not there."""
    if not any(stored.unnamed for stored in world.values()):
        return world
    world = deepcopy(world)
    for name, stored in world.items():
        there = seen[name].rows if name in seen else {}
        for wanted in stored.unnamed:
            id_ = next((i for i, row in there.items() if i not in stored.rows and row == wanted), None)
            if id_ is None:
                return None
            stored.rows[id_] = wanted
            fix_id_type(stored, id_)
        stored.unnamed.clear()
    return world


def differences(world: World, seen: World) -> list[str]:
    """What is lost or wrong, a line a collection or row."""
    found = [f"collection {name} is lost" for name in world.keys() - seen.keys()]
    found += [f"collection {name} has risen again" for name in seen.keys() - world.keys()]
    for name in sorted(world.keys() & seen.keys()):
        want, have = world[name], seen[name]
        if want.settings != have.settings:
            found.append(f"{name}: settings are {have.settings}, not {want.settings}")
        for id_ in want.rows.keys() | have.rows.keys():
            wanted, there = want.rows.get(id_, "absent"), have.rows.get(id_, "absent")
            if wanted != there:
                found.append(f"{name}: {id_!r} is {there}, not {wanted}")
    return found
