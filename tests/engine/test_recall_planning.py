"""How searches are planned by recall: over several parts, as asked for, and with no more claimed than is known."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engine import errors, plain, planning, reading, search, search_params
from app.engine.collection import Collection
from app.engine.filters.parse import parse
from app.engine.planning import MAX_PLANS, SearchPlan
from app.engine.segments import Part
from app.engine.types import EXACTLY, Asked, SearchAnswer
from app.engine.view import View
from index.approximate import Approximate
from index.build import build
from index.load import load
from tests.engine.rig import Rig

D, LATENT = 64, 12
FIRST, SECOND, PENDING = 20_000, 8_000, 40
"""Rows enough that the index is cheaper than the exact search for all but the highest recall."""
OPTIONS: dict[str, Any] = {"dimension": D, "index": "ivf", "index_min_rows": 300, "durable": False}
SOME = parse(b'{"n": {"$gte": 3000}}')
FEW = parse(b'{"n": {"$lt": 20}}')


class Folded(Rig):
    """Vectors as data are: of few dimensions within many, so that an index has something to miss."""

    def vectors(self, n: int) -> NDArray[np.float32]:
        rng = np.random.default_rng(self._drawn)
        self._drawn += n
        return drawn(rng, n)


FOLDING = np.random.default_rng(0).normal(size=(LATENT, D))


def drawn(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return (np.tanh(rng.normal(size=(n, LATENT)) @ FOLDING / 2) + 0.1 * rng.normal(size=(n, D))).astype(np.float32)


def numbered(rig: Rig) -> None:
    """Every row's metadata is its number."""
    numbers = iter(range(10**6))
    rig.describe = lambda: json.dumps({"n": next(numbers)}).encode()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Folded(tmp_path_factory.mktemp("built"), **OPTIONS)
    numbered(made)
    made.upsert_directly(list(range(FIRST)))
    made.merge()
    yield made
    made.close()


@pytest.fixture
def rig(tmp_path: Path, built: Rig) -> Iterator[Rig]:
    """One segment with its index; others add more."""
    shutil.copytree(built.data, tmp_path / "data")
    made = Folded(tmp_path / "data", copied_from=built, **OPTIONS)
    numbered(made)
    yield made
    made.close()


def grown(rig: Rig) -> None:
    """A second segment, indexed too but not merged into the first, and rows that pend."""
    rig.upsert_directly(list(range(FIRST, FIRST + SECOND)))
    rig.add(list(range(FIRST + SECOND, FIRST + SECOND + PENDING)))


def opened(rig: Rig) -> Collection:
    worker = rig.worker()
    worker.follower.load_all()
    return worker


def queries(n: int) -> NDArray[np.float32]:
    return drawn(np.random.default_rng(77), n)


def measured(view: View, plan: SearchPlan, k: int, n: int = 1000) -> float:
    """Recall@k by distance against the exact search."""
    asked = queries(n)
    truth = search.run(view, planning.plan(view, k, EXACTLY), asked, k)
    found = search.run(view, plan, asked, k)
    near = truth.hits.distances.reshape(n, k)[:, -1:]
    return float(np.mean(found.hits.distances.reshape(n, k) <= near))


def ask(worker: Collection, asked: Asked, n: int = 1) -> SearchAnswer:
    return asyncio.run(reading.find(worker, queries(n), asked))


def only(view: View, *parts: Part) -> View:
    return replace(view, parts=parts, plans={})


def with_other_index(part: Part, index: Approximate) -> Part:
    row = part.segment.row
    assert row.index is not None
    return part.with_index(replace(row, index=replace(row.index, kind=index.kind)), index)


# -------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("k", [1, 10, 30, 100])
def test_more_recall_costs_more_and_is_found(rig: Rig, k: int) -> None:
    view = opened(rig).view()
    plans = [planning.plan(view, k, recall) for recall in (0.7, 0.9, 0.97)]
    assert [p.cost_us for p in plans] == sorted(p.cost_us for p in plans)
    for plan, recall in zip(plans, (0.7, 0.9, 0.97), strict=True):
        assert plan.expected_recall is not None and plan.expected_recall >= recall
        assert measured(view, plan, k) >= recall - 0.02


@pytest.mark.parametrize("recall", [0.9, 0.97])
def test_the_plainest_search_finds_and_claims_what_the_general_one_does(rig: Rig, recall: float) -> None:
    view = opened(rig).view()
    plan = planning.plan(view, 10, recall)
    claimed = set()
    for query in (*queries(30), *(10 * queries(3))):
        found = plain.answer(view, query[None], Asked(10, recall, include=frozenset()))
        general = search.run(view, plan, query[None], 10)
        assert found is not None and found.hits.items.ids == general.hits.ids
        assert found.hits.distances.tolist() == general.hits.distances.tolist()
        assert found[1:4] == (general.exact, general.expected_recall, general.calibrated_on)
        claimed.add(found.expected_recall)
    assert claimed == {plan.expected_recall, None}, "of queries far from the data nothing is known"


def test_the_collections_recall_is_what_is_asked_for_unless_said_otherwise(rig: Rig) -> None:
    worker = opened(rig)
    plain, same = (ask(worker, Asked(10, recall, explain=True)).explain for recall in (None, 0.9))
    assert plain is not None and same is not None
    assert (plain["recall"], plain["recall_from"]) == (0.9, "collection")
    assert (same["recall"], same["recall_from"]) == (0.9, "request")
    assert plain["parts"][0]["params"] == same["parts"][0]["params"]
    rig.write(lambda turn: turn.set_recall(EXACTLY))
    assert ask(worker, Asked(10)).exact and not ask(worker, Asked(10, 0.9)).exact


def test_a_recall_of_one_is_the_exact_search(rig: Rig) -> None:
    grown(rig)
    answer = ask(opened(rig), Asked(10, EXACTLY, explain=True), 3)
    assert (answer.exact, answer.expected_recall, answer.calibrated_on) == (True, 1.0, None)
    assert answer.explain is not None and {part["by"] for part in answer.explain["parts"]} == {"exact"}


# -------------------------------------------------------------------- several parts


def test_parts_are_planned_together(rig: Rig) -> None:
    """Exact parts count for the others: where a third is found exactly, the index may find less of the rest."""
    recalls = (0.75, 0.8, 0.85, 0.9, 0.95)
    view = opened(rig).view()
    alone = [planning.plan(view, 10, recall).steps[0].plan for recall in recalls]
    grown(rig)
    view = opened(rig).view()
    assert [part.segment.index is None for part in view.parts] == [False, True]
    together = [planning.plan(view, 10, recall) for recall in recalls]
    for plan, recall in zip(together, recalls, strict=True):
        assert [step.plan.exact for step in plan.steps] == [False, True, True]
        of_index, rest = plan.steps[0].expected_recall, SECOND + PENDING
        assert of_index is not None and plan.expected_recall is not None
        assert plan.expected_recall == pytest.approx((of_index * FIRST + rest) / (FIRST + rest), abs=1e-4)
        assert plan.expected_recall >= recall
        assert measured(view, plan, 10) >= recall - 0.02
    for plan, by_itself in zip(together, alone, strict=True):
        assert plan.steps[0].plan.cost_us <= by_itself.cost_us


def test_calibrated_on_queries_only_where_all_parts_are(rig: Rig) -> None:
    view = opened(rig).view()
    part = view.parts[0]
    assert planning.plan(view, 10, 0.9).calibrated_on == "data"
    index = part.segment.index
    assert isinstance(index, Approximate) and index.calibration is not None
    real = with_other_index(part, index.with_calibration(replace(index.calibration, on="queries")))
    assert planning.plan(only(view, real), 10, 0.9).calibrated_on == "queries"
    assert planning.plan(only(view, real, part), 10, 0.9).calibrated_on == "data"
    assert planning.plan(only(view, real, part), 10, EXACTLY).calibrated_on is None


# -------------------------------------------------------------------- what is claimed


def test_nothing_is_claimed_once_more_than_a_twentieth_is_dropped(rig: Rig) -> None:
    worker = opened(rig)
    rig.delete(list(range(0, FIRST, 25)))
    answer = ask(worker, Asked(10))
    assert not answer.exact and answer.expected_recall is not None
    rig.delete(list(range(1, FIRST, 50)))
    answer = ask(worker, Asked(10))
    assert not answer.exact and answer.expected_recall is None and answer.calibrated_on == "data"


def test_nothing_is_claimed_under_a_filter_unless_it_is_exact(rig: Rig) -> None:
    worker = opened(rig)
    answer = ask(worker, Asked(10, filter=SOME))
    assert not answer.exact and answer.expected_recall is None and answer.calibrated_on == "data"
    few = ask(worker, Asked(10, filter=FEW))
    assert few.exact and few.expected_recall == 1.0 and few.calibrated_on is None


def test_nothing_is_claimed_for_a_k_beyond_what_was_measured(rig: Rig) -> None:
    view = opened(rig).view()
    between, beyond = planning.plan(view, 30, 0.9), planning.plan(view, 400, 0.9)
    assert between.expected_recall is not None and between.expected_recall >= 0.9
    assert beyond.expected_recall is None or all(step.plan.exact for step in beyond.steps)
    assert measured(view, beyond, 400, 50) >= 0.88


@pytest.mark.parametrize("k", [10, 30, 100])
def test_nothing_is_claimed_for_queries_that_lie_farther_than_those_it_was_measured_with(rig: Rig, k: int) -> None:
    view = opened(rig).view()
    plan = planning.plan(view, k, 0.9)
    assert plan.expected_recall is not None
    like, unlike = queries(200), queries(200) + np.float32(0.5)
    assert search.run(view, plan, like, k).expected_recall == plan.expected_recall
    alone = [search.run(view, plan, query[None], k).expected_recall for query in like]
    assert alone.count(None) <= 2, "one in a thousand queries like the data lies beyond"
    assert search.run(view, plan, unlike, k).expected_recall is None
    few = np.concatenate([like[:100], unlike[:1]])
    assert search.run(view, plan, few, k).expected_recall is not None, "a mean over many stands with one in a hundred"
    exact = search.run(view, planning.plan(view, k, EXACTLY), unlike, k)
    assert exact.expected_recall == 1.0


# -------------------------------------------------------------------- by id


def test_neighbours_are_planned_for_the_k_that_is_asked(rig: Rig) -> None:
    """One more is found, for the item itself; planned as k = 11 it would be searched as thoroughly as for 100."""
    worker = opened(rig)
    answer = asyncio.run(reading.find_neighbours(worker, 5, Asked(10, explain=True)))
    plain = ask(worker, Asked(10, explain=True))
    assert len(answer.hits.items.ids) == 10 and 5 not in answer.hits.items.ids
    assert answer.explain is not None and plain.explain is not None
    assert answer.explain["parts"][0]["params"] == plain.explain["parts"][0]["params"]
    assert answer.expected_recall == plain.expected_recall is not None


# -------------------------------------------------------------------- the expert's own parameters


def test_given_parameters_are_what_the_index_is_asked_with(rig: Rig) -> None:
    worker = opened(rig)
    answer = ask(worker, Asked(10, params={"nprobe": 3, "rerank": 2}, explain=True))
    assert answer.explain is not None
    part = answer.explain["parts"][0]
    assert (part["params"], part["params_from"]) == ({"nprobe": 3, "rerank": 2}, "request")
    assert answer.explain["recall"] is answer.explain["recall_from"] is None
    some = ask(worker, Asked(10, params={"nprobe": 3}, explain=True)).explain
    assert some is not None and some["parts"][0]["params"]["nprobe"] == 3 and some["parts"][0]["params"]["rerank"] >= 1
    view = worker.view()
    recalls = [measured(view, planning.plan(view, 10, 0.9, params={"nprobe": n, "rerank": 8}), 10) for n in (1, 4, 50)]
    assert recalls[0] < recalls[1] < recalls[2]


def test_a_given_point_that_was_measured_has_its_recall(rig: Rig) -> None:
    view = opened(rig).view()
    index = view.parts[0].segment.index
    assert isinstance(index, Approximate)
    point = index.options(10).points[2]
    plan = planning.plan(view, 10, 0.9, params=point.params)
    assert plan.expected_recall == pytest.approx(point.recall, abs=1e-4)
    assert planning.plan(view, 10, 0.9, params=point.params | {"rerank": 7}).expected_recall is None


def test_parts_of_another_kind_go_by_recall(rig: Rig, tmp_path: Path) -> None:
    view = opened(rig).view()
    part = view.parts[0]
    meta = build(part.segment.vectors, ("hnsw", {"m": 8}), tmp_path / "graph", recall=0.9, threads=1)
    graph = with_other_index(part, load(tmp_path / "graph", meta, part.segment.vectors))
    both = only(view, part, graph)
    by_lists, by_graph = planning.plan(both, 10, 0.95, params={"nprobe": 3, "rerank": 2}).steps
    assert (by_lists.plan.params, by_lists.given) == ({"nprobe": 3, "rerank": 2}, True)
    assert by_graph.plan == planning.plan(only(view, graph), 10, 0.95).steps[0].plan and not by_graph.given
    for params in ({"nprobe": 3}, {"ef_search": 40}):
        search_params.refuse(both, params)
    with pytest.raises(errors.Invalid, match="different kinds"):
        search_params.refuse(both, {"nprobe": 3, "ef_search": 40})


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ({}, errors.Invalid, "params: is empty"),
        ({"ef_search": 40}, errors.Invalid, "params.ef_search: .* ivf: it takes nprobe and rerank"),
        ({"nprobe": 4, "ef_search": 40}, errors.Invalid, "params.ef_search"),
        ({"lists": 4}, errors.Invalid, "params.lists"),
        ({"nprobe": 0}, errors.OutOfRange, "params.nprobe: must be between 1 and"),
        ({"rerank": -1, "nprobe": 4}, errors.OutOfRange, "params.rerank: must be between 1 and"),
        ({"nprobe": 5000}, errors.OutOfRange, "params.nprobe: lists greater than there are: the index has 141"),
    ],
)
def test_parameters_that_nothing_takes_are_refused(
    rig: Rig, params: dict[str, Any], kind: type[errors.Invalid], words: str
) -> None:
    with pytest.raises(errors.Invalid, match=words) as refused:
        ask(opened(rig), Asked(10, params=params))
    assert type(refused.value) is kind and refused.value.faults


def test_where_there_is_no_index_yet_the_parameters_are_those_of_the_one_to_come(rig: Rig) -> None:
    view = opened(rig).view()
    segment = view.parts[0].segment
    bare = only(view, Part(replace(segment, row=replace(segment.row, index=None), index=None), None))
    search_params.refuse(bare, {"nprobe": 5000})
    assert all(step.plan.exact for step in planning.plan(bare, 10, 0.9, params={"nprobe": 5000}).steps)
    for kind, live, fine in (("auto", 300, False), ("auto", 10**6, True), ("flat", 10**6, False)):
        settings = replace(view.settings, index_spec={"kind": kind, "params": {}})
        seen = replace(bare, settings=settings, state=replace(view.state, live=live))
        if fine:
            search_params.refuse(seen, {"nprobe": 4})
        else:
            with pytest.raises(errors.Invalid, match="searched exactly"):
                search_params.refuse(seen, {"nprobe": 4})


# -------------------------------------------------------------------- kept


def test_a_plan_is_made_once_and_few_are_kept(rig: Rig) -> None:
    view = opened(rig).view()
    first = planning.plan(view, 10, 0.9)
    assert planning.plan(view, 10, 0.9) is first
    assert planning.plan(view, 10, 0.9, params={"nprobe": 4}) is not first
    for i in range(3 * MAX_PLANS):
        planning.plan(view, 10, 0.9 + i / 10_000)
    assert len(view.plans) <= MAX_PLANS
    late = planning.plan(view, 10, 0.95)
    assert planning.plan(view, 10, 0.95) is late, "the latest is remembered, however many came before"


def test_a_filter_that_leaves_few_rows_is_known_to_be_cheap(rig: Rig) -> None:
    worker = opened(rig)
    rig.write(lambda turn: turn.set_recall(EXACTLY))

    async def left() -> Any:
        return await reading.look(worker, FEW, again=False)

    view, few = asyncio.run(left())
    assert planning.plan(view, 10, EXACTLY, few).cost_us < planning.plan(view, 10, EXACTLY).cost_us / 1.5


# -------------------------------------------------------------------- the sample


def test_queries_that_clients_send_join_the_sample(rig: Rig, tmp_path: Path) -> None:
    worker = opened(rig)
    noted: list[int] = []
    worker.sample.note = lambda queries: noted.append(len(queries))  # type: ignore[method-assign]
    ask(worker, Asked(10), 3)
    ask(worker, Asked(10, EXACTLY))
    ask(worker, Asked(10, filter=SOME))
    asyncio.run(reading.find_neighbours(worker, 5, Asked(10)))
    assert noted == [3, 1], "with a filter, or by id, they say nothing of what is asked of the collection"
