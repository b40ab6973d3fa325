"""A span a request, sent to an OpenTelemetry collector: the one module that imports its SDK.

`app/worker.py` loads it where `OTEL_EXPORTER_OTLP_ENDPOINT` is set; all else is set by OpenTelemetry's own variables
(`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, …). A span is made once its request has been answered, so that nothing has
to be carried along: 40 µs where it is sampled. A client's `traceparent` becomes its parent, and decides whether it is.
Sending has a thread of its own; what a collector does not take is dropped, and no request waits for it.
"""

import logging
import os
import threading
import time
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.api.seen import Note, RouteSeries
from seedvec import __version__

FLUSH_S = 1.0
"""For what has not been sent when the worker ends."""
_PASSED_ON = (b"traceparent", b"tracestate")
_W3C = TraceContextTextMapPropagator()

logging.getLogger("opentelemetry").setLevel(logging.ERROR)
"""A collector that cannot be reached is told of once a batch is given up, not at every attempt."""


class Tracing:
    """Implements `app.api.seen.Traces`."""

    def __init__(self, process: str) -> None:
        """process: this worker's name. Starts the thread that sends."""
        about = {
            SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME", "seedvec"),
            SERVICE_VERSION: __version__,
            "service.instance.id": process,
        }
        # Not the global one, which FastAPI would make spans of its own with.
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("seedvec", __version__)

    def record(self, route: RouteSeries, scope: Any, took_s: float) -> None:
        ended = time.time_ns()
        status = scope.get("status", 0)
        span = self._tracer.start_span(
            f"{route.method} {route.path}",
            context=_W3C.extract(_carried(scope)),
            kind=SpanKind.SERVER,
            attributes=_attributes(route, scope, status),
            start_time=ended - int(took_s * 1e9),
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        # In a thread that dies with the process: with a collector that does not answer the exporter tries again for
        # half a minute, whatever time it is given.
        flush = threading.Thread(target=self._provider.force_flush, daemon=True)
        flush.start()
        flush.join(FLUSH_S)


def _carried(scope: Any) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PASSED_ON}


def _attributes(route: RouteSeries, scope: Any, status: int) -> dict[str, Any]:
    """HTTP's by OpenTelemetry's conventions, ours under `seedvec.`: the collection, k, the filter without its values,
    and each stage's milliseconds."""
    found: dict[str, Any] = {
        "http.request.method": scope["method"],
        "http.route": route.path,
        "url.path": scope["path"],
        "seedvec.request_id": scope.get("request_id", ""),
    }
    if status:
        found["http.response.status_code"] = status
    noted: Note | None = scope.get("note")
    if noted is not None:
        found |= {f"seedvec.{name}": value for name, value in noted.fields().items() if value is not None}
    return found
