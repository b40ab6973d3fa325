"""A filter on columns says of every row what the reference says of its metadata."""

import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.engine.filters import columns as evaluation
from app.engine.filters.columns import evaluate
from app.engine.filters.parse import parse_value
from storage import columns_build, columns_gather, columns_order, columns_texts
from storage.columns import Columns, ColumnsBuilder, open_columns, write
from tests.filter_reference import matches
from tests.filter_strategies import make_filter, make_metadata

SEEDS = 60
FILTERS = 25
"""Of each seed: together with both kinds of columns and the ways below, 9,000 cases."""

WAYS: dict[str, dict[Any, dict[str, Any]]] = {
    "as it is": {},
    "tables, pairs, sparse, strings without a dict": {
        evaluation: {"TABLE_COST": 0, "FEW_CODES": 0, "PAIRS_ABOVE": -1, "FEW_HITS": 0},
        columns_build: {"SPARSE_BELOW": 1, "BATCH_ROWS": 16},
        columns_gather: {"FEW_TEXTS": 3, "TOGETHER": 2},
        columns_order: {"FEW": 0},
        columns_texts: {"WALK_STEPS": 0, "BISECT_US": 1e9},
    },
    "ranges, dense, dict": {
        evaluation: {"TABLE_COST": 1000, "FEW_CODES": 1, "PAIRS_ABOVE": 1000, "FEW_HITS": 10**9},
        columns_build: {"SPARSE_BELOW": 1 << 40, "BATCH_BYTES": 1},
        columns_texts: {"WALK_STEPS": 1 << 40, "BISECT_US": 0},
    },
}


def built(docs: list[Any], rng: random.Random | None = None) -> Columns:
    """In several lots, where a generator is given that cuts them."""
    json = [None if doc is None else msgspec.json.encode(doc) for doc in docs]
    builder, at = ColumnsBuilder(len(docs)), 0
    while at < len(docs):
        step = rng.randrange(1, 80) if rng else len(docs)
        builder.add(json[at : at + step])
        at += step
    return builder.finish()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_agrees_with_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, first: int) -> None:
    for module, names in WAYS[way].items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
    matched = 0
    for seed in range(first, first + 20):
        rng = random.Random(seed)
        docs = [make_metadata(rng) for _ in range(rng.choice((0, 1, 7, 60, 150)))]
        memory = built(docs, rng)
        path = tmp_path / "columns.npz"
        write(path, memory)
        mapped = open_columns(path)
        for _ in range(FILTERS):
            filter_json = make_filter(rng)
            filter = parse_value(filter_json)
            wanted = [matches(filter_json, doc) for doc in docs]
            for columns in (memory, mapped):
                mask = evaluate(filter, columns)
                assert mask.dtype == np.bool_
                assert mask.tolist() == wanted, filter_json
            matched += 0 < sum(wanted) < len(docs)
    assert matched > 100, "most filters decided nothing"


def test_wide_codes() -> None:
    """Dictionaries beyond 8 and 16 bits, against NumPy by hand."""
    rng = np.random.default_rng(1)
    n = 80_000
    small, wide = rng.integers(0, 3000, n), rng.permutation(n)
    real = rng.random(n)
    docs = [
        {"s": s, "w": w, "r": r, "t": f"t{w:06d}", "mixed": s if w % 2 else f"x{s % 500}"}
        for s, w, r in zip(small.tolist(), wide.tolist(), real.tolist(), strict=True)
    ]
    columns = built(docs)
    widths = {path: c.codes.dtype.itemsize for path in columns.paths() if (c := columns.column(path)) is not None}
    assert widths == {("s",): 2, ("w",): 4, ("r",): 4, ("t",): 4, ("mixed",): 2}
    some = rng.choice(n, 20_000, replace=False)
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"s": 17}, small == 17),
        ({"w": {"$gte": 100, "$lt": 7000}}, (wide >= 100) & (wide < 7000)),
        ({"w": {"$gt": 2**63}}, wide < 0),
        ({"r": {"$lte": 0.25}}, real <= 0.25),
        ({"r": {"$ne": float(real[5])}}, real != real[5]),
        ({"w": {"$in": some.tolist()}}, np.isin(wide, some)),
        ({"t": {"$in": [f"t{w:06d}" for w in some.tolist()]}}, np.isin(wide, some)),
        ({"t": {"$prefix": "t0000"}}, wide < 100),
        ({"t": {"$contains": "77"}}, [doc["t"].count("77") > 0 for doc in docs]),
        ({"t": {"$contains": "t"}}, wide >= 0),
        ({"mixed": {"$gte": 2000}}, (small >= 2000) & (wide % 2 == 1)),
        ({"mixed": "x7"}, (small % 500 == 7) & (wide % 2 == 0)),
        ({"$or": [{"s": {"$lt": 5}}, {"$not": {"w": {"$gt": 9}}}]}, (small < 5) | (wide <= 9)),
    ]
    for filter_json, wanted in cases:
        assert np.array_equal(evaluate(parse_value(filter_json), columns), wanted), filter_json


def test_arrays_of_thousands() -> None:
    rng = random.Random(2)
    docs = [{"tags": [f"t{rng.randrange(40)}" for _ in range(rng.randrange(30))]} for _ in range(3000)]
    columns = built(docs)
    cases: list[dict[str, Any]] = [
        {"tags": "t3"},
        {"tags": {"$all": ["t1", "t2"]}},
        {"tags": {"$all": [f"t{i}" for i in range(9)]}},
        {"tags": {"$all": ["t1", "none"]}},
        {"tags": {"$size": 0}},
        {"tags": {"$prefix": "t1"}},
        {"tags": {"$nin": [f"t{i}" for i in range(0, 40, 3)]}},
    ]
    for filter_json in cases:
        mask = evaluate(parse_value(filter_json), columns)
        assert mask.tolist() == [matches(filter_json, doc) for doc in docs], filter_json
        assert "none" in str(filter_json) or 0 < mask.sum() < len(docs)


def test_what_is_returned_is_the_callers() -> None:
    columns = built([{"a": i % 2} for i in range(10)])
    cases: list[dict[str, Any]] = [{"a": 1}, {"a": {"$exists": True}}, {"none": 1}, {}, {"$or": []}, {"a": {"$ne": 1}}]
    for filter_json in cases:
        filter = parse_value(filter_json)
        first = evaluate(filter, columns)
        kept = first.copy()
        first[:] = ~first
        assert np.array_equal(evaluate(filter, columns), kept)


def test_nothing_is_searched_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been decided is not looked into any further, dear conditions least of all."""
    columns = built([{"a": i, "t": str(i)} for i in range(100)])

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(columns_texts.Texts, "containing", never)
    assert not evaluate(parse_value({"t": {"$contains": "7"}, "a": {"$gt": 1000}}), columns).any()
    assert evaluate(parse_value({"$or": [{"t": {"$contains": "7"}}, {"a": {"$gte": 0}}]}), columns).all()
    with pytest.raises(AssertionError):
        evaluate(parse_value({"t": {"$contains": "7"}, "a": {"$gt": 10}}), columns)
