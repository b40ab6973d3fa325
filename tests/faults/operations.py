"""The script's operations: each one's deed beside what it must make of the world.

An operation depends on (seed, n) and the world before it alone, so that after a crash it can be made again, the same.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.filters.parse import parse
from app.engine.types import CollectionSettings, Idempotency, IndexSpec, Rows, Written
from seedvec.filters.ast import Filter
from tests.faults.hands import Hands, turn_over
from tests.faults.ledger import Effect, Id, Stored, World, digest
from tests.faults.planned import DIMENSION, KINDS, Planned, as_matrix, of_kind
from tests.faults.reading import assert_read

NOTHING = Effect("nothing")
GIVEN = 120
Act = Callable[[Hands], Awaitable["list[Id] | None"]]
"""Returns the ids that the server assigned."""


@dataclass(frozen=True, slots=True)
class Operation:
    effect: Effect
    act: Act


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


def _rows(name: str, ids: Any, vectors: NDArray[Any], metadata: list[Any]) -> Rows:
    # Several JSON texts mean the same: what comes back is compared by meaning.
    texts = [None if m is None else json.dumps(m).encode() for m in metadata]
    return Rows(of_kind(KINDS[name], vectors), ids, texts)


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
        "sparse": s.sparse,
        "id_type": s.id_type,
        "index": index,
        "recall": s.recall,
        "given": digest(np.empty(0, np.float32)),
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
        assert await hands.engine.add(name, _rows(name, ids, vectors, metadata), key) == Written(n, None)

    effect = NOTHING if planned.kind == "repeat" else _put(name, ids, vectors, metadata)
    return Operation(effect, act)


def _assign(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    """An add whose ids the server gives. Of a run of str ids only the first is told."""
    name, n = planned.collection, planned.rows
    vectors, metadata = _vectors(rng, n, name), _metadata(rng, n, of)
    wanted = [digest(v) for v in vectors]

    async def act(hands: Hands) -> list[Id]:
        first = (await hands.engine.add(name, _rows(name, None, vectors, metadata))).first_id
        if isinstance(first, int):
            return [first + i for i in range(n)]
        await turn_over()
        page = await hands.engine.list(name, 1_000_000, None, frozenset({"vector"}))
        assert page.items.vectors is not None
        by_vector = {digest(v): id_ for id_, v in zip(page.items.ids, as_matrix(page.items.vectors), strict=True)}
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
        assert await hands.engine.upsert(name, _rows(name, ids, vectors, metadata)) == Written(n, None)

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
        await hands.engine.patch(name, ids[0], text, None if vectors is None else of_kind(KINDS[name], vectors))

    vector = old_vector if vectors is None else digest(vectors[0])
    return Operation(Effect("put", name, [[ids[0], vector, new]]), act)


def _where(rng: np.random.Generator, stored: Stored) -> tuple[Filter, list[Id]]:
    """A filter, and the ids of what it matches."""
    numbers: list[int] = rng.integers(0, 25, 3).tolist()
    ids = [
        id_ for id_, (_, metadata) in stored.rows.items() if isinstance(metadata, dict) and metadata.get("i") in numbers
    ]
    return parse(json.dumps({"i": {"$in": numbers}}).encode()), ids


def _delete_where(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    name = planned.collection
    where, ids = _where(rng, world[name])

    async def act(hands: Hands) -> None:
        assert await hands.engine.delete_where(name, where, False, _key(planned, of)) == len(ids)

    return Operation(Effect("gone", name, ids), act)


def _patch_many(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    name = planned.collection
    where, ids = _where(rng, world[name])
    if planned.kind == "patch_ids":
        ids = _live(rng, world[name], planned.rows)
    patch = {"text": None, "many": of}
    rows = [
        [id_, vector, merged(old if old is not None else {}, patch)]
        for id_, (vector, old) in ((id_, world[name].rows[id_]) for id_ in ids)
    ]

    async def act(hands: Hands) -> None:
        some = ids if planned.kind == "patch_ids" else None
        text = json.dumps(patch).encode()
        assert await hands.engine.patch_many(name, some, None if some is not None else where, text) == len(ids)

    return Operation(Effect("put", name, rows), act)


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


def _give(planned: Planned, rng: np.random.Generator, of: int, world: World) -> Operation:
    """Queries to calibrate on: enough that the next build does."""
    queries = rng.standard_normal((GIVEN, DIMENSION)).astype(np.float32)

    async def act(hands: Hands) -> None:
        await hands.engine._collection(planned.collection).change(lambda turn: turn.set_calibration_queries(queries))

    return Operation(Effect("settings", planned.collection, {"given": digest(queries)}), act)


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
    "patch_where": _patch_many,
    "patch_ids": _patch_many,
    "delete_where": _delete_where,
    "rebuild": _rebuild,
    "recall": _recall,
    "give": _give,
    "read": _read,
    "seal": _background,
    "build": _background,
    "tidy": _background,
}
