"""Logs and traces of a real server: what they say of a request, and what they must not."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.metrics.ours import STAGES
from tests.harness import ROOT, SMALL, Server, wait_for

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FILTER = {"word": {"$in": ["secret", "hidden"]}, "n": {"$gte": 7301971}}


class Collector(ThreadingHTTPServer):
    """Takes what OTLP over HTTP sends, and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


class Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for of_process in sent.resource_spans:
            self.server.services |= {a.value.string_value for a in of_process.resource.attributes}
            self.server.spans += [span for scope in of_process.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    env = SMALL | {
        "SEEDVEC_LOG_FORMAT": "json",
        "SEEDVEC_ACCESS_LOG": "1",
        "SEEDVEC_SLOW_MS": "0.001",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with Server(tmp_path_factory.mktemp("sight") / "data", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def searched(server: Server) -> dict[str, Any]:
    """A search with a filter, its id and its parent given by the client."""
    collection = server.collection("seen")
    collection.create(4)
    collection.add([1, 2], np.eye(2, 4, dtype=np.float32), [{"word": "secret", "n": 9301971}, None])
    body = {"vector": [0.001953125, 0.25, 0.5, 1.0], "k": 3, "filter": FILTER}
    headers = {"X_Request_ID": "of-the-client", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer: dict[str, Any] = collection.wire.ok(200, "POST", f"{collection.path}/search", body, **headers)
    return answer


def lines(server: Server, logger: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in server.log_path.read_text().splitlines()]
    return [line for line in found if line["logger"] == logger]


def of_the_search(server: Server, logger: str) -> dict[str, Any]:
    def there() -> list[dict[str, Any]]:
        return [line for line in lines(server, logger) if line.get("request") == "of-the-client"]

    wait_for(f"{logger} has its line", lambda: bool(there()))
    assert len(there()) == 1
    return there()[0]


def test_every_line_is_json_and_names_its_process(server: Server, searched: dict[str, Any]) -> None:
    processes = {json.loads(line)["process"] for line in server.log_path.read_text().splitlines()}
    assert "supervisor" in processes and processes & {"worker-1", "worker-2"}
    listening = next(line for line in lines(server, "seedvec.supervisor") if "listening" in line["message"])
    assert listening["level"] == "info" and listening["time"].endswith("Z") and "request" not in listening


def test_the_access_log(server: Server, searched: dict[str, Any]) -> None:
    line = of_the_search(server, "seedvec.access")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/collections/seen/search", 200)
    assert line["client"] == "127.0.0.1" and line["ms"] > 0
    assert server.wire().call("GET", "/v1/collections/a%0Ab?x=secret").status in (404, 422)
    wait_for("its line", lambda: any("%0Ab" in line["path"] for line in lines(server, "seedvec.access")))
    assert "x=secret" not in server.log_path.read_text()


def test_the_slow_log_says_what_was_asked_but_no_data(server: Server, searched: dict[str, Any]) -> None:
    line = of_the_search(server, "seedvec.slow")
    assert line["level"] == "warning"
    assert line["route"] == "POST /v1/collections/{collection}/search"
    assert (line["collection"], line["k"], line["queries"], line["status"]) == ("seen", 3, 1, 200)
    assert "word $in 2" in line["filter"] and "n $gte" in line["filter"]
    stages = [line[f"{stage}_ms"] for stage in STAGES]
    assert 0 < sum(stages) < line["ms"]
    for datum in ("secret", "hidden", "301971", "0.00195"):
        assert datum not in json.dumps(line)


def test_a_list_and_a_count_can_be_slow_too(server: Server, searched: dict[str, Any]) -> None:
    wire = server.wire()
    wire.ok(200, "POST", "/v1/collections/seen/count", {"filter": FILTER})
    wire.ok(200, "POST", "/v1/collections/seen/vectors/list", {"filter": FILTER, "limit": 7})
    wire.ok(200, "GET", "/v1/collections/seen?wait=ready&timeout_s=1")
    routes = {line["route"].rpartition("/")[2]: line for line in lines(server, "seedvec.slow")}
    assert routes["count"]["filter"] == routes["list"]["filter"] == routes["search"]["filter"]
    assert routes["list"]["limit"] == 7
    assert "{collection}" not in routes, "what was asked to wait is not slow"


def test_a_span_a_request_with_its_stages(server: Server, collector: Collector, searched: dict[str, Any]) -> None:
    name = "POST /v1/collections/{collection}/search"
    wait_for("the span has come", lambda: bool(collector.named(name)))
    (span,) = collector.named(name)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.kind == Span.SPAN_KIND_SERVER
    found = {a.key: a.value for a in span.attributes}
    assert found["http.response.status_code"].int_value == 200
    assert found["seedvec.request_id"].string_value == "of-the-client"
    assert found["seedvec.collection"].string_value == "seen" and found["seedvec.k"].int_value == 3
    stages_ms = sum(found[f"seedvec.{stage}_ms"].double_value for stage in STAGES)
    assert 0 < stages_ms < (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    assert "seedvec" in collector.services and collector.services & {"worker-1", "worker-2"}


def test_who_asks_for_no_trace_gets_none(server: Server, collector: Collector, searched: dict[str, Any]) -> None:
    wire = server.wire()
    wire.call("GET", "/problems/not-found", traceparent=f"00-{TRACE}-{PARENT}-00")
    wire.call("GET", "/problems/id-exists", traceparent="nonsense")
    wait_for("the second has come", lambda: bool(collector.named("GET /problems/{code}")))
    (span,) = collector.named("GET /problems/{code}")
    assert not span.parent_span_id and span.trace_id.hex() != TRACE


def test_a_collector_that_is_gone_holds_nobody_up(tmp_path: Path) -> None:
    env = SMALL | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "SEEDVEC_DRAIN_S": "2"}
    with Server(tmp_path / "data", workers=1, env=env) as running:
        assert running.wire().call("GET", "/v1").status == 200
        running.stop()  # asserts that the worker ended by itself
        assert "had to be killed" not in running.log_tail()


def test_without_a_collector_nothing_is_loaded() -> None:
    program = "import sys, app.worker as w; assert w.start_tracing('worker-1') is None; print(*sys.modules)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "app.worker" in loaded
    assert not {m for m in loaded if m.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "app.tracing"))}
