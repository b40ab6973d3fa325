"""`GET /metrics` of a real server: one answer for all processes, which no death of a process makes smaller."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics.ours import ALL, OTHER, STAGES
from app.metrics.page import page
from tests.harness import SMALL, Server, wait_for
from tests.wire import Collection

ROOT = Path(__file__).resolve().parents[2]
ROUTE = "/v1/collections/{collection}"
ONES = np.ones(8, np.float32)


class Scrape:
    """What one worker answers, read by Prometheus' own parser."""

    def __init__(self, server: Server) -> None:
        wire = server.wire()
        answer = wire.call("GET", "/metrics")
        wire.close()
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.text = answer.body.decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}

    def value(self, name: str, **labels: str) -> float:
        """0 where the series is not there."""
        samples = (s for family in self.families.values() for s in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("metrics") / "data", env=SMALL) as running:
        yield running


def scraped(server: Server, what: str, holds: Callable[[Scrape], bool]) -> Scrape:
    """The first of which that holds: a request is counted after it was answered, and another worker may be asked in
    between."""
    seen: list[Scrape] = []

    def look() -> bool:
        seen.append(Scrape(server))
        return holds(seen[-1])

    wait_for(what, look)
    return seen[-1]


def in_progress(scrape: Scrape) -> float:
    return scrape.value("seedvec_http_requests_in_progress")


def both_workers(server: Server, name: str) -> list[Collection]:
    """One connection to each: they are dealt to who has the fewest."""
    return [server.collection(name), server.collection(name)]


def searches(scrape: Scrape) -> float:
    return scrape.value("seedvec_http_requests_total", method="POST", route=f"{ROUTE}/search", status="2xx")


def test_the_page_is_what_the_table_says() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == page(), "run: python -m app.metrics.page > docs/metrics.md"


def test_every_metric_that_is_asked_for_somewhere_exists() -> None:
    known = {family.name for family in ALL}
    known |= {f"{f.name}_{part}" for f in ALL if f.type in ("histogram", "summary") for part in ("sum", "count")}
    known |= {f"{f.name}_bucket" for f in ALL if f.type == "histogram"}
    for path in ("docs/metrics.md", "docker/grafana/seedvec.json", "docs/operations.md"):
        asked = set(re.findall(r"\bseedvec_[a-z_]+[a-z]", (ROOT / path).read_text()))
        assert asked and asked <= known, (path, asked - known)


def test_it_answers_with_every_metric_and_no_other(server: Server) -> None:
    here = {(f.name.removesuffix("_total"), f.type) for f in Scrape(server).families.values()}
    assert here == {(f.name.removesuffix("_total"), f.type) for f in ALL}


def test_what_both_workers_did_is_in_one_answer(server: Server) -> None:
    one, other = both_workers(server, "sums")
    before = searches(Scrape(server))
    one.create(8)
    one.add([1, 2, 3], np.eye(3, 8, dtype=np.float32), [{"a": 1}, None, None])
    for n in range(10):
        (one if n % 2 else other).search(ONES, 2, filter={"a": {"$gte": 1}})
    # In progress is the scrape itself alone.
    now = scraped(server, "all are counted", lambda s: searches(s) >= before + 10 and in_progress(s) == 1)
    assert searches(now) == before + 10
    seconds = {"method": "POST", "route": f"{ROUTE}/search"}
    assert now.value("seedvec_http_request_seconds_count", **seconds) == searches(now)
    assert now.value("seedvec_http_request_seconds_bucket", **seconds, le="+Inf") == searches(now)
    assert now.value("seedvec_http_request_seconds_sum", **seconds) > 0
    for stage in STAGES:
        assert now.value("seedvec_search_seconds_count", stage=stage) == searches(now)
    assert now.value("seedvec_searches_total", recall="exact") == searches(now)
    assert now.value("seedvec_search_queries_sum") == searches(now)
    assert now.value("seedvec_commit_writes_sum") >= 1
    assert now.value("seedvec_fsync_seconds_count", of="commit") >= 2
    assert now.value("seedvec_collection_rows", collection="sums") == 3
    assert now.value("seedvec_collection_recall", collection="sums", of="promised") == 0.95


def test_histograms_only_rise(server: Server) -> None:
    for family in Scrape(server).families.values():
        if family.type != "histogram":
            continue
        so_far: dict[tuple[tuple[str, str], ...], float] = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                series = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                assert sample.value >= so_far.get(series, 0.0), sample
                so_far[series] = sample.value


def test_what_clients_make_up_is_one_series(server: Server) -> None:
    wire = server.wire()
    for path in ("/nowhere", "/v1/collections/a/nothing", "/v2"):
        assert wire.call("GET", path).status == 404
    assert wire.call("BREW", "/v1").status in (400, 405)
    now = Scrape(server)
    assert now.value("seedvec_http_requests_total", route=OTHER, status="4xx") >= 3
    assert now.value("seedvec_http_problems_total", code="not-found") >= 3
    routes = {s.labels["route"] for s in now.families["seedvec_http_requests"].samples}
    assert not {route for route in routes if "nothing" in route or "nowhere" in route}


def test_every_operation_of_the_reference_has_its_series(server: Server) -> None:
    spec = server.wire().ok(200, "GET", "/openapi.json")
    wire = server.wire()
    for path, methods in spec["paths"].items():
        for method in methods:
            # Refused or not, a request must be counted under its own route.
            wire.call(method.upper(), re.sub(r"\{[^}]+\}", "no-such", path) + "?no-such-parameter=1", b"")
            wire.close()
            wire = server.wire()
    asked = {(m.upper(), path) for path, methods in spec["paths"].items() for m in methods}

    def missing(scrape: Scrape) -> set[tuple[str, str]]:
        return asked - {
            (s.labels["method"], s.labels["route"]) for s in scrape.families["seedvec_http_requests"].samples
        }

    scraped(server, "all are counted", lambda s: not missing(s))


def test_no_death_makes_a_counter_fall(server: Server) -> None:
    for collection in both_workers(server, "deaths"):
        collection.create(4, status=201 if collection.wire is server.wires[-2] else 200)
        for _ in range(5):
            collection.search(ONES[:4])
    before = Scrape(server)
    victims = server.children("app.worker")
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    wait_for("both workers are new", lambda: len(set(server.children("app.worker")) - set(victims)) == 2)
    server.wait_serving()
    wait_for("they count as started twice", lambda: starts(Scrape(server)) == [2.0, 2.0])
    after = Scrape(server)
    for family in before.families.values():
        for sample in family.samples:
            if family.type in ("counter", "histogram") and "cpu" not in family.name:
                assert after.value(sample.name, **sample.labels) >= sample.value, sample
    scraped(server, "nothing else is in progress", lambda s: in_progress(s) == 1)
    for process in ("supervisor", "worker-1", "worker-2", "sealer", "builder"):
        # The background starts niced: on busy cores it may not count yet.
        wait_for(f"the memory of {process}", lambda name=process: private_bytes(Scrape(server), name) > 1e6)


def private_bytes(scrape: Scrape, process: str) -> float:
    return scrape.value("seedvec_process_memory_bytes", process=process, kind="private")


def starts(scrape: Scrape) -> list[float]:
    return [scrape.value("seedvec_process_starts_total", process=f"worker-{n}") for n in (1, 2)]


def test_the_background_is_counted_too(server: Server) -> None:
    collection = server.collection("built")
    collection.create(8, index={"kind": "hnsw"})
    collection.add_npy(np.random.default_rng(1).standard_normal((1500, 8), dtype=np.float32))
    collection.wait_ready()
    built = {"kind": "build", "outcome": "done"}
    now = scraped(server, "the build is counted", lambda s: s.value("seedvec_job_seconds_count", **built) >= 1)
    assert now.value("seedvec_fsync_seconds_count", of="file") >= 2
    assert now.value("seedvec_collection_indexed_rows", collection="built") == 1500
    assert now.value("seedvec_collection_index_state", collection="built", state="ready") == 1
    collection.search(ONES, params={"ef_search": 16})
    scraped(server, "it is counted", lambda s: s.value("seedvec_searches_total", recall="unknown") == 1)
