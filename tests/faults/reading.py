"""Reads everything of a collection through the engine, every way there is, and holds the ways against each other."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.engine.engine import LocalEngine
from app.engine.filters.parse import parse
from app.engine.types import EXACTLY, Asked, SearchAnswer
from storage.catalogue import read_calibration_queries
from tests.faults.ledger import Id, Row, Stored, World, digest
from tests.faults.planned import as_matrix, of_kind

ALL = 1_000_000
BOTH = frozenset({"vector", "metadata"})
K = 10
FEW = parse(b'{"i": {"$lt": 5}}')
SOME = 30
"""Rows fetched and searched for by their own vectors: with all of them this was most of the time that judging takes."""


async def seen(engine: LocalEngine) -> World:
    """What the engine shows of every collection. AssertionError where two ways of reading differ."""
    return {name: await see(engine, name) for name in engine.names()}


async def see(engine: LocalEngine, name: str) -> Stored:
    page = await engine.list(name, ALL, None, BOTH)
    items = page.items
    assert page.next is None and items.vectors is not None and items.metadata is not None
    rows: dict[Id, Row] = {}
    vectors = as_matrix(items.vectors)
    for id_, vector, metadata in zip(items.ids, vectors, items.metadata, strict=True):
        assert id_ not in rows, f"{name}: {id_!r} is listed twice"
        rows[id_] = (digest(vector), None if metadata is None else json.loads(metadata))
    await _assert_consistent(engine, name, items.ids, vectors, rows)
    found = engine.settings(name)
    settings = {
        "dimension": found.dimension,
        "metric": found.metric,
        "dtype": found.dtype,
        "sparse": found.sparse,
        "id_type": found.id_type,
        "index": {"kind": found.index.kind, "params": found.index.params},
        "recall": found.recall,
        "given": digest(read_calibration_queries(engine._collection(name).follower.db)),
    }
    return Stored(settings, rows)


async def assert_read(engine: LocalEngine, name: str, stored: Stored) -> None:
    there = await see(engine, name)
    assert there.rows == stored.rows and there.settings == stored.settings, name


async def _assert_consistent(engine: LocalEngine, name: str, ids: list[Id], vectors: Any, rows: dict[Id, Row]) -> None:
    """Count, fetch, exact and approximate search against the list."""
    n = len(rows)
    described = await engine.describe(name)
    assert described["count"] == n, f"{name}: count is {described['count']}, {n} are listed"
    assert described["index"]["state"] in ("ready", "building"), described["index"]
    some = slice(None, None, n // SOME + 1)
    found, missing = await engine.fetch(name, ids[some], BOTH)
    assert found.ids == ids[some] and not missing and found.vectors is not None
    assert as_matrix(found.vectors).tobytes() == vectors[some].tobytes(), f"{name}: a fetch and the list differ"
    drawn = np.random.default_rng(n).standard_normal((2, engine.settings(name).dimension)).astype(np.float32)
    queries = of_kind(engine.settings(name), drawn)
    exact = await engine.search(name, queries, Asked(n + 3, EXACTLY, include=frozenset()))
    for found_ids, distances in _by_query(exact):
        assert sorted(found_ids, key=str) == sorted(ids, key=str), f"{name}: the exact search finds other ids"
        assert (np.diff(distances) >= 0).all()
    await _assert_filtered(engine, name, queries[:1], rows)
    _assert_among(await engine.search(name, queries, Asked(K, include=frozenset())), exact, min(K, n), name)
    if n and engine.settings(name).metric != "dot":
        asked = Asked(1, EXACTLY, include=frozenset())
        own = await engine.search(name, of_kind(engine.settings(name), vectors[some].astype(np.float32)), asked)
        nearest = [found_ids[0] for found_ids, _ in _by_query(own)]
        assert nearest == ids[some], f"{name}: a vector is not the nearest to itself"


async def _assert_filtered(engine: LocalEngine, name: str, query: Any, rows: dict[Id, Row]) -> None:
    """By what is derived from the metadata, against the metadata themselves."""
    wanted = [id_ for id_, (_, metadata) in rows.items() if few(metadata)]
    assert await engine.count(name, FEW) == len(wanted), f"{name}: another number match a filter"
    asked = Asked(len(rows) + 3, EXACTLY, include=frozenset(), filter=FEW)
    found = await engine.search(name, query, asked)
    assert sorted(found.hits.items.ids, key=str) == sorted(wanted, key=str), f"{name}: others match a filter"


def few(metadata: Any) -> bool:
    """What FEW says."""
    return isinstance(metadata, dict) and isinstance(metadata.get("i"), int) and metadata["i"] < 5


def _assert_among(answer: SearchAnswer, exact: SearchAnswer, wanted: int, name: str) -> None:
    """An approximate answer has as many hits as there can be, each at its own exact distance."""
    for (ids, found), (all_ids, all_found) in zip(_by_query(answer), _by_query(exact), strict=True):
        distances = dict(zip(all_ids, all_found.tolist(), strict=True))
        assert len(ids) == len(set(ids)) == wanted, f"{name}: {len(ids)} hits"
        assert [distances.get(i) for i in ids] == found.tolist(), f"{name}: distances differ"


def _by_query(answer: SearchAnswer) -> list[tuple[list[Id], NDArray[np.float32]]]:
    """Ids and distances of each."""
    ids, distances = answer.hits.items.ids, answer.hits.distances
    return [(ids[begin:end], distances[begin:end]) for begin, end in pairwise(answer.hits.starts)]
