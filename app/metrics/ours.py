"""All metrics of the server, by name: docs/metrics.md is written from this table."""

from typing import Final

from app.metrics.kinds import FAMILIES, counter, gauge, histogram, looked_up, summary

REQUEST_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
STAGE_S: Final = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
SYNC_S: Final = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
JOB_S: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 1000, 10_000)

STAGES: Final = ("filter", "plan", "wait", "index", "merge", "items")
"""Of a search: what the filter leaves, which way to take, for the search thread, in the index, bringing parts together,
reading the items that are shown."""
OTHER: Final = "other"
"""Label of a route or method that the OpenAPI does not know: what clients make up must not become series."""

# ---------------------------------------------------------------- HTTP

IN_PROGRESS: Final = gauge("seedvec_http_requests_in_progress", "Requests being answered.").of()
CONNECTIONS: Final = gauge("seedvec_http_connections", "Connections open; counted once a second.").of()
PROBLEMS: Final = counter(
    "seedvec_http_problems_total",
    "Requests refused or failed, by the problem's code: `too-many-pending` (429), `unavailable` (503), …",
    "code",
)

# ---------------------------------------------------------------- searches

SEARCH_SECONDS: Final = histogram(
    "seedvec_search_seconds",
    "Time of a search by stage: `filter` (which rows match), `plan`, `wait` (for the search thread), `index`, `merge` "
    "(of the parts), `items` (ids, vectors and metadata of the hits).",
    STAGE_S,
    "stage",
)
for _stage in STAGES:
    SEARCH_SECONDS.of(_stage)
SEARCH_QUERIES: Final = histogram("seedvec_search_queries", "Queries in one search request.", BATCH).of()
SEARCHES: Final = counter(
    "seedvec_searches_total",
    "Search requests by what the answer says of itself: `exact`, `expected` (a recall was measured for this way of "
    "searching) or `unknown`.",
    "recall",
)
for _known in ("exact", "expected", "unknown"):
    SEARCHES.of(_known)
EXPECTED_RECALL: Final = summary(
    "seedvec_search_expected_recall", "The expected recall of the answers that say one: the mean is sum by count."
).of()
SEARCH_QUEUE: Final = gauge(
    "seedvec_search_queue", "Searches and other dear reads that wait for their thread, or are in it."
).of()

# ---------------------------------------------------------------- writes

COMMIT_WRITES: Final = histogram(
    "seedvec_commit_writes", "Write requests that shared one transaction and its fsync.", BATCH
).of()
WRITE_QUEUE: Final = gauge("seedvec_write_queue", "Writes that wait for their transaction, or are in it.").of()
FSYNC_SECONDS: Final = histogram(
    "seedvec_fsync_seconds",
    "Time until the disk had confirmed: of a `commit` (the whole COMMIT, which is little else), a `file`, a "
    "`folder`, a `checkpoint`.",
    SYNC_S,
    "of",
)
for _what in ("commit", "file", "folder", "checkpoint"):
    FSYNC_SECONDS.of(_what)

# ---------------------------------------------------------------- background

JOB_SECONDS: Final = histogram(
    "seedvec_job_seconds",
    "Background jobs by kind (`seal`, `merge`, `rewrite`, `build`, `drop` of an index, `calibrate`) and outcome "
    "(`done`, `failed`, `rejected`, `given-up`).",
    JOB_S,
    "kind",
    "outcome",
)
for _kind in ("seal", "merge", "rewrite", "build", "drop", "calibrate"):
    for _outcome in ("done", "failed", "rejected", "given-up"):
        JOB_SECONDS.of(_kind, _outcome)

# ---------------------------------------------------------------- what is looked up

INFO: Final = looked_up("gauge", "seedvec_info", "1; the version is a label.", "version")
STARTS: Final = looked_up(
    "counter",
    "seedvec_process_starts_total",
    "Starts of each process; above 1: it died and was started again.",
    "process",
)
MEMORY: Final = looked_up(
    "gauge",
    "seedvec_process_memory_bytes",
    "Resident memory of each process: `private` (its own), `mapped` (files, shared with the other processes and the "
    "page cache: not to be summed).",
    "process",
    "kind",
)
CPU: Final = looked_up(
    "counter",
    "seedvec_process_cpu_seconds_total",
    "Processor time of each process. Begins anew with the process.",
    "process",
)
DISK_FREE: Final = looked_up("gauge", "seedvec_disk_free_bytes", "Room left where the data folder is.")
ROWS: Final = looked_up("gauge", "seedvec_collection_rows", "Live rows.", "collection")
PENDING: Final = looked_up(
    "gauge", "seedvec_collection_pending_rows", "Rows that are not sealed, or wait for an index.", "collection"
)
INDEXED: Final = looked_up("gauge", "seedvec_collection_indexed_rows", "Rows of segments with an index.", "collection")
SEGMENTS: Final = looked_up("gauge", "seedvec_collection_segments", "Segments.", "collection")
BYTES: Final = looked_up("gauge", "seedvec_collection_bytes", "Bytes on disk, indexes included.", "collection")
STATE: Final = looked_up(
    "gauge",
    "seedvec_collection_index_state",
    "1 for the state that the index is in: `ready`, `building`, `failed`, `closed`.",
    "collection",
    "state",
)
PROGRESS: Final = looked_up(
    "gauge", "seedvec_collection_build_progress", "Of the job being done on the collection, 0 to 1.", "collection"
)
RECALL: Final = looked_up(
    "gauge",
    "seedvec_collection_recall",
    "Recall@10: `promised` (the collection's setting), `measured` (on real queries, the latest, of the largest index "
    "that was measured).",
    "collection",
    "of",
)

# ---------------------------------------------------------------- by route: last, as only workers know the routes

REQUESTS: Final = counter(
    "seedvec_http_requests_total",
    "Requests answered, by method, route (as in the OpenAPI; `other` where none was found, or the request was refused "
    "before one was looked for) and class of status: `2xx`, … and `gone` where the client did not wait for an answer.",
    "method",
    "route",
    "status",
)
REQUEST_SECONDS: Final = histogram(
    "seedvec_http_request_seconds",
    "Time from a request's head to the end of its answer.",
    REQUEST_S,
    "method",
    "route",
)

ALL: Final = tuple(FAMILIES)
"""In the order of /metrics and of its page."""
