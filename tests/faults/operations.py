"""The script's operations: a fixed plan by seed, and each operation's deed beside what it must make of the world.

An operation depends on (seed, n) and the world before it alone, so that after a crash it can be made again, the same.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.types import CollectionSettings, Idempotency, IndexSpec, Rows, Written
from tests.faults.hands import Hands, turn_over
from tests.faults.ledger import Effect, Id, Stored, World, digest
from tests.faults.reading import assert_read

DIMENSION = 8
OPERATIONS = 240
LARGE = 280
"""Rows of a write that gets a segment of its own, and an index."""
KINDS: dict[str, CollectionSettings] = {
    "ints": CollectionSettings(DIMENSION, "l2", "float32", "int", IndexSpec("hnsw", {"m": 8})),
    "strs": CollectionSettings(DIMENSION, "cosine", "float16", "str", IndexSpec("ivf", {"nlist": 4})),
    "autos": CollectionSettings(DIMENSION, "dot", "float32", "auto", IndexSpec("flat")),
    "brief": CollectionSettings(DIMENSION, "l2", "float16", "auto", IndexSpec("flat")),
    "names": CollectionSettings(DIMENSION, "cosine", "float32", "str", IndexSpec("flat")),
}
"""Collections by name. In `autos` and `names` the server assigns ids."""
NOTHING = Effect("nothing")
Act = Callable[[Hands], Awaitable["list[Id] | None"]]
"""Returns the ids that the server assigned."""


@dataclass(frozen=True, slots=True)
class Planned:
    """kind: name of a function below; rows: how many; again: the operation that this one repeats by its key."""

    kind: str
    collection: str = ""
    rows: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    effect: Effect
    act: Act


TOUR = [
    *(Planned("create", name) for name in ("ints", "strs", "autos", "names")),
    Planned("add", "ints", 30, {"key": True}),
    Planned("repeat", "ints", 30, {"of": 4}),
    Planned("add", "strs", 20),
    Planned("assign", "autos", 12),
    Planned("assign", "names", 1),
    Planned("read", "ints"),
    Planned("upsert", "ints", 10),
    Planned("delete", "ints", 6, {"key": True}),
    Planned("patch", "strs"),
    Planned("patch_vector", "strs"),
    Planned("seal"),
    Planned("upsert", "ints", 8),
    Planned("delete", "strs", 5),
    Planned("patch", "ints"),
    Planned("patch_vector", "ints"),
    Planned("seal"),
    Planned("tidy"),
    Planned("build"),
    Planned("add", "ints", LARGE, {"key": True}),
    Planned("repeat", "ints", LARGE, {"of": 22}),
    Planned("upsert", "strs", LARGE),
    Planned("assign", "names", LARGE),
    Planned("build"),
    Planned("read", "ints"),
    Planned("read", "strs"),
    Planned("delete", "ints", 90),
    Planned("build"),
    Planned("tidy"),
    Planned("create", "brief"),
    Planned("add", "brief", 5),
    Planned("drop", "brief"),
    Planned("rebuild", "ints", 0, {"spec": IndexSpec("flat")}),
    Planned("build"),
    Planned("delete_all", "autos", 0, {"key": True}),
    Planned("recall", "strs"),
    Planned("rebuild", "ints", 0, {"spec": IndexSpec("hnsw", {"m": 6})}),
    Planned("build"),
    Planned("tidy"),
]
"""Everything that can happen, once, quickly: it comes before the random mix."""
MIX = {
    "add": 10,
    "upsert": 12,
    "assign": 6,
    "delete": 10,
    "patch": 8,
    "patch_vector": 6,
    "keyed": 4,
    "repeat": 4,
    "large": 2,
    "delete_all": 1,
    "rebuild": 1,
    "recall": 1,
    "brief": 4,
    "read": 5,
    "seal": 9,
    "build": 4,
    "tidy": 3,
}
"""Kind → weight in the mix."""


def plan(seed: int, count: int = OPERATIONS) -> list[Planned]:
    """The same for the same seed."""
    rng = np.random.default_rng(seed)
    names, weights = list(MIX), np.array(list(MIX.values()), float)
    made = list(TOUR)
    keyed = 22
    brief = False
    while len(made) < count:
        kind = str(rng.choice(names, p=weights / weights.sum()))
        collection = str(rng.choice(["ints", "strs"]))
        some = int(rng.integers(1, 25))
        if kind == "keyed":
            keyed = len(made)
            made.append(Planned("add", collection, some, {"key": True}))
        elif kind == "repeat":
            made.append(Planned("repeat", made[keyed].collection, made[keyed].rows, {"of": keyed}))
        elif kind == "large":
            made.append(Planned(str(rng.choice(["add", "upsert"])), collection, 80 + some))
        elif kind == "assign":
            made.append(Planned("assign", "autos", some) if some % 2 else Planned("assign", "names", 1))
        elif kind == "delete_all":
            made.append(Planned("delete_all", str(rng.choice(["strs", "autos", "names"]))))
        elif kind == "rebuild":
            spec = IndexSpec("hnsw", {"m": 4 + some % 4}) if some % 3 else IndexSpec("ivf", {"nlist": 2 + some % 4})
            made.append(Planned("rebuild", collection, 0, {"spec": spec}))
        elif kind == "brief":
            made.append(Planned("drop" if brief else "create", "brief"))
            brief = not brief
        elif kind in ("seal", "build", "tidy"):
            made.append(Planned(kind))
        else:
            made.append(Planned(kind, collection, some))
    return made


def operation(planned: Planned, seed: int, n: int, world: World) -> Operation:
    """What operation n of the plan does in this world."""
    of = planned.options.get("of", n)
    return _MAKERS[planned.kind](planned, np.random.default_rng([seed, of]), of, world)


# ------------------------------------------------------------------ what is drawn


def _vectors(rng: np.random.Generator, n: int, name: str) -> NDArray[Any]:
    return rng.standard_normal((n, DIMENSION)).astype(KINDS[name].dtype)


def _metadata(rng: np.random.Generator, n: int, of: int) -> list[Any]:
    """A third has none. Some is large enough to fill pages of SQLite's."""
    drawn = rng.integers(0, 6, n)
    return [
        None if kind < 2 else {"of": of, "i": i, "tags": ["a", "ä"], "text": "word " * (150 if kind == 5 else 1)}
        for i, kind in enumerate(drawn.tolist())
    ]


def _fresh(name: str, of: int, n: int) -> list[Id]:
    if KINDS[name].id_type == "str":
        return [f"{of}/ä {i}" for i in range(n)]
    return [of * 1000 + i for i in range(n)]


def _live(rng: np.random.Generator, stored: Stored, n: int) -> list[Id]:
    """Some of those that are there, in an order of their own."""
    there = sorted(stored.rows, key=str)
    chosen: list[int] = rng.permutation(len(there))[:n].tolist()
    return [there[i] for i in chosen]


def _rows(ids: Any, vectors: NDArray[Any], metadata: list[Any]) -> Rows:
    # Several JSON texts mean the same: what comes back is compared by meaning.
    texts = [None if m is None else json.dumps(m).encode() for m in metadata]
    return Rows(vectors, ids, texts)


def _put(name: str, ids: list[Id] | list[None], vectors: NDArray[Any], metadata: list[Any]) -> Effect:
    rows = [[id_, digest(v), m] for id_, v, m in zip(ids, vectors, metadata, strict=True)]
    return Effect("put", name, rows)


def _key(planned: Planned, of: int) -> Idempotency | None:
    return Idempotency(f"key-{of}", f"{of:016x}") if planned.options.get("key") or planned.kind == "repeat" else None


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, written down once more from its own text."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


# ------------------------------------------------------------------ the kinds


def _create(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    name, wanted = planned.collection, KINDS[planned.collection]

    async def act(hands: Hands) -> None:
        assert await hands.engine.create(name, wanted)

    return Operation(Effect("create", name, as_json(wanted)), act)


def as_json(s: CollectionSettings) -> dict[str, Any]:
    index = {"kind": s.index.kind, "params": s.index.params}
    return {
        "dimension": s.dimension,
        "metric": s.metric,
        "dtype": s.dtype,
        "id_type": s.id_type,
        "index": index,
        "recall": s.recall,
    }


def _drop(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    async def act(hands: Hands) -> None:
        await hands.engine.drop(planned.collection)

    return Operation(Effect("drop", planned.collection), act)


def _add(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    """With a key also as a repeat: what is there already is answered, and not stored again."""
    name, n = planned.collection, planned.rows
    ids, vectors, metadata = _fresh(name, of, n), _vectors(rng, n, name), _metadata(rng, n, of)
    key = _key(planned, of)

    async def act(hands: Hands) -> None:
        assert await hands.engine.add(name, _rows(ids, vectors, metadata), key) == Written(n, None)

    effect = NOTHING if planned.kind == "repeat" else _put(name, ids, vectors, metadata)
    return Operation(effect, act)


def _assign(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    """An add whose ids the server gives. Of a run of str ids only the first is told."""
    name, n = planned.collection, planned.rows
    vectors, metadata = _vectors(rng, n, name), _metadata(rng, n, of)
    wanted = [digest(v) for v in vectors]

    async def act(hands: Hands) -> list[Id]:
        first = (await hands.engine.add(name, _rows(None, vectors, metadata))).first_id
        if isinstance(first, int):
            return [first + i for i in range(n)]
        await turn_over()
        page = await hands.engine.list(name, 1_000_000, None, frozenset({"vector"}))
        assert page.items.vectors is not None
        by_vector = {digest(v): id_ for id_, v in zip(page.items.ids, page.items.vectors, strict=True)}
        ids: list[Id] = [by_vector[d] for d in wanted]
        assert ids[0] == first
        return ids

    return Operation(_put(name, [None] * n, vectors, metadata), act)


def _upsert(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    """Two thirds of the rows replace others, where there are so many."""
    name, n = planned.collection, planned.rows
    old = _live(rng, world[name], 2 * n // 3)
    ids = old + _fresh(name, of, n - len(old))
    vectors, metadata = _vectors(rng, n, name), _metadata(rng, n, of)

    async def act(hands: Hands) -> None:
        assert await hands.engine.upsert(name, _rows(ids, vectors, metadata)) == Written(n, None)

    return Operation(_put(name, ids, vectors, metadata), act)


def _delete(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    name = planned.collection
    ids = _live(rng, world[name], planned.rows)
    missing = _fresh(name, of, 2)

    async def act(hands: Hands) -> None:
        assert await hands.engine.delete(name, ids + missing, False, _key(planned, of)) == len(ids)

    return Operation(Effect("gone", name, ids), act)


def _delete_all(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    name = planned.collection
    live = len(world[name].rows)

    async def act(hands: Hands) -> None:
        assert await hands.engine.delete_all(name, False, _key(planned, of)) == live

    return Operation(Effect("clear", name), act)


def _patch(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    """Of the metadata alone; with `patch_vector` the vector too, or alone."""
    name = planned.collection
    ids = _live(rng, world[name], 1)
    if not ids:
        return _read(planned, rng, of, world)
    vectors = _vectors(rng, 1, name) if planned.kind == "patch_vector" else None
    patch = {"of": None, "patched": of, "deep": {"a": [1, None], "i": None}}
    changes = vectors is None or of % 2 == 0
    old_vector, old = world[name].rows[ids[0]]
    new = merged(old if old is not None else {}, patch) if changes else old
    text = json.dumps(patch).encode() if changes else None

    async def act(hands: Hands) -> None:
        await hands.engine.patch(name, ids[0], text, None if vectors is None else vectors[0])

    vector = old_vector if vectors is None else digest(vectors[0])
    return Operation(Effect("put", name, [[ids[0], vector, new]]), act)


def _rebuild(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    spec: IndexSpec = planned.options["spec"]

    async def act(hands: Hands) -> None:
        await hands.engine.rebuild_index(planned.collection, spec)

    return Operation(Effect("settings", planned.collection, {"index": {"kind": spec.kind, "params": spec.params}}), act)


def _recall(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    recall = round(float(rng.uniform(0.8, 0.95)), 3)

    async def act(hands: Hands) -> None:
        await hands.engine.set_recall(planned.collection, recall)

    return Operation(Effect("settings", planned.collection, {"recall": recall}), act)


def _read(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    async def act(hands: Hands) -> None:
        await assert_read(hands.engine, planned.collection, world[planned.collection])

    return Operation(NOTHING, act)


def _background(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    async def act(hands: Hands) -> None:
        if planned.kind == "build":
            hands.build()
        else:
            hands.seal()
        if planned.kind == "tidy":
            hands.bring_home()

    return Operation(NOTHING, act)


_MAKERS: dict[str, Callable[[Planned, np.random.Generator, int, World], Operation]] = {
    "create": _create,
    "drop": _drop,
    "add": _add,
    "repeat": _add,
    "assign": _assign,
    "upsert": _upsert,
    "delete": _delete,
    "delete_all": _delete_all,
    "patch": _patch,
    "patch_vector": _patch,
    "rebuild": _rebuild,
    "recall": _recall,
    "read": _read,
    "seal": _background,
    "build": _background,
    "tidy": _background,
}
