"""The block that processes count into, the series over it, and their text; and how lines are logged."""

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import logs
from app.api.seen import count_search
from app.engine.filters.shape import MOST, shape
from app.engine.types import Hits, Items, SearchAnswer
from app.metrics import kinds, ours, shared
from app.metrics.kinds import Counter, Gauge, Histogram
from app.metrics.shared import FIRST, MINE, PID, SLOTS, STARTS, VARIABLE, Block, Mine
from app.metrics.text import exposition
from seedvec.filters.parse import parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Iterator[Block]:
    made = Block(["supervisor", "worker-1", "worker-2"])
    yield made
    made.close()


def joined(block: Block, name: str, gauges: list[int], monkeypatch: pytest.MonkeyPatch) -> Mine:
    """As a child that inherited the descriptor: it has one of its own."""
    _, _, names = block.environment()[VARIABLE].partition(":")
    monkeypatch.setenv(VARIABLE, f"{os.dup(block.fd)}:{names}")
    mine = Mine()
    mine.join(name, gauges)
    assert VARIABLE not in os.environ, "a child of a child has no row"
    return mine


def test_each_process_has_a_row_and_all_see_all(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    one = joined(block, "worker-1", [], monkeypatch)
    two = joined(block, "worker-2", [], monkeypatch)
    one.slots[100], two.slots[100] = 1.5, 2.5
    for mine in (one, two):
        assert [row.name for row in mine.rows()] == ["supervisor", "worker-1", "worker-2"]
        assert [row.slots[100] for row in mine.rows()] == [0.0, 1.5, 2.5]


def test_who_follows_counts_on(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, held = 100, 101
    first = joined(block, "worker-1", [held], monkeypatch)
    first.slots[counted], first.slots[held] = 7.0, 3.0
    second = joined(block, "worker-1", [held], monkeypatch)
    assert (second.slots[counted], second.slots[held]) == (7.0, 0.0)
    assert (second.slots[PID], second.slots[STARTS]) == (os.getpid(), 2)


def test_without_a_server_a_process_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    mine = Mine()
    mine.join("worker-1", [])
    assert len(mine.rows()) == 1 and mine.rows()[0].slots is mine.slots


def test_no_count_is_lost_between_threads() -> None:
    counter, histogram = Counter(SLOTS - 10), Histogram(SLOTS - 9, (1.0, 2.0))
    before = [MINE.slots[slot] for slot in range(SLOTS - 10, SLOTS)]

    def count() -> None:
        for _ in range(2000):
            counter.add()
            histogram.observe(1.5)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gained = [MINE.slots[slot] - old for slot, old in zip(range(SLOTS - 10, SLOTS), before, strict=True)]
    assert gained[:5] == [8000.0, 12000.0, 0.0, 8000.0, 0.0]


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    histogram = Histogram(FIRST, (1.0, 2.0))
    assert [histogram.bucket(v) - FIRST - 1 for v in (0.5, 1.0, 1.5, 2.0, 2.5)] == [0, 0, 1, 1, 2]


def test_series_lie_apart_and_are_laid_out_once() -> None:
    taken: set[int] = {PID, STARTS}
    for family in ours.ALL:
        for values, series in family.series.items():
            slots = set(range(series.slot, series.slot + series.width))
            assert not slots & taken, (family.name, values)
            taken |= slots
            assert family.of(*values) is series is family.at(*values)
    assert max(taken) < SLOTS


def test_only_the_table_and_the_routes_declare_series() -> None:
    """A series declared by what only some processes import would lie where others have another."""
    labelled = [name for name, value in vars(ours).items() if isinstance(value, kinds.Family) and value.labels]
    declares = re.compile(rf"\b({'|'.join(labelled)})\.of\(")
    found = {path for path in (ROOT / "app").rglob("*.py") if declares.search(path.read_text())}
    assert {path.relative_to(ROOT).as_posix() for path in found} == {
        *("app/metrics/ours.py", "app/api/problems.py", "app/api/seen.py"),
    }


def test_gauges_alone_begin_at_nothing() -> None:
    slots = kinds.gauge_slots()
    assert ours.IN_PROGRESS.slot in slots and isinstance(ours.IN_PROGRESS, Gauge)
    assert ours.COMMIT_WRITES.slot not in slots


def test_names_follow_the_conventions() -> None:
    names = [family.name for family in ours.ALL]
    assert len(set(names)) == len(names)
    for family in ours.ALL:
        assert family.name.startswith("seedvec_") and family.help.endswith((".", "…"))
        assert (family.type == "counter") == family.name.endswith("_total"), family.name


def test_numbers_and_labels_as_prometheus_reads_them() -> None:
    ugly = 'a"b\\c\nd'
    text = exposition([shared.Row("x", MINE.slots)], {ours.ROWS.name: {(ugly,): 2**53 - 1}, "no such": {(): 1.0}})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = families[ours.ROWS.name].samples
    assert sample.labels == {"collection": ugly} and sample.value == 2**53 - 1


def test_a_search_is_counted_by_what_is_known_of_it() -> None:
    def counted() -> list[float]:
        series = [ours.SEARCHES.at(known) for known in ("exact", "expected", "unknown")]
        return [MINE.slots[s.slot] for s in series] + [MINE.slots[ours.EXPECTED_RECALL.slot]]

    before = counted()
    stages = (0.0, 1e-6, 1e-5, 1e-4, 0.5, 100.0)
    nothing = Hits(Items([]), np.empty(0, np.float32), [0, 0])
    count_search(1, SearchAnswer(nothing, True, 1.0, None, None, stages))
    count_search(1, SearchAnswer(nothing, False, 0.75, "data", None, stages))
    count_search(1, SearchAnswer(nothing, False, None, "data", None, stages))
    assert np.subtract(counted(), before).tolist() == [1.0, 1.0, 1.0, 0.75]


def test_a_filters_shape_has_no_values() -> None:
    given = {"a.b": {"$in": ["x", "y", None]}, "$not": {"c": {"$lt": 5}}, "$or": [{"d": True}, {"e": {"$size": 2}}]}
    text = shape(parse(json.dumps(given).encode()))
    for part in ("a.b $in 3", "$not(c $lt)", "d $in 1", "e $size"):
        assert part in text
    assert len(shape(parse(json.dumps({"$or": [{f"field{i}": i} for i in range(200)]}).encode()))) == MOST


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("seedvec.x", logging.WARNING, "", 0, message, None, None)
    made.__dict__.update(extra)
    return made


def test_lines_name_process_and_request() -> None:
    token = logs.REQUEST_ID.set("abc")
    try:
        human = logs.Human("worker-1").format(record("hello"))
        line = json.loads(logs.Json("worker-1").format(record("hello", fields={"k": 3})))
    finally:
        logs.REQUEST_ID.reset(token)
    assert human.endswith("worker-1 WARNING seedvec.x: hello [abc]")
    assert {
        "level": "warning",
        "process": "worker-1",
        "message": "hello",
        "request": "abc",
        "k": 3,
    }.items() <= line.items()
    assert "[" not in logs.Human("worker-1").format(record("hello"))


def test_a_line_stays_one_line() -> None:
    """A client's text may hold anything, also what is no UTF-8."""
    text = logs.Json("w").format(record("a\nb \udc80"))
    assert "\n" not in text and json.loads(text)["level"]
