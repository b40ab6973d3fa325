"""docs/metrics.md, written from the table of metrics: `python -m app.metrics.page > docs/metrics.md`."""

import sys

from app.metrics.kinds import Family, Series
from app.metrics.ours import ALL

HEAD = """\
# Metrics

Written from the table in `app/metrics/ours.py` by `python -m app.metrics.page`; a test fails where they differ.

`GET /metrics` answers in Prometheus' text format, whichever worker takes it, for all processes of the server: workers,
sealer, builder and supervisor count into one block of shared memory. A process that dies and is started again counts on
where it was; only a restart of the whole server begins at 0. Where keys are set the route wants one that reads, and is
not limited to collections:
```yaml
scrape_configs:
  - job_name: seedvec
    authorization: { credentials_file: /etc/prometheus/seedvec.key }
    static_configs: [{ targets: ["127.0.0.1:8080"] }]
```
`docker compose --profile monitoring up` starts Prometheus with this and Grafana with a dashboard beside the server
([operations.md](operations.md)).

Counting costs a request less than 3 µs. Series with labels are there from their first count on.

| metric | type | labels | |
|---|---|---|---|
"""
QUESTIONS = {
    "requests a second, by route": "sum by (route) (rate(seedvec_http_requests_total[1m]))",
    "share of requests that fail": 'sum(rate(seedvec_http_requests_total{status="5xx"}[5m]))'
    " / sum(rate(seedvec_http_requests_total[5m]))",
    "p99 of searches": "histogram_quantile(0.99, sum by (le) "
    '(rate(seedvec_http_request_seconds_bucket{route=~".*/search"}[5m])))',
    "where a search spends its time": "sum by (stage) (rate(seedvec_search_seconds_sum[5m])) / ignoring(stage) "
    "group_left sum(rate(seedvec_searches_total[5m]))",
    "what is refused, and why": "sum by (code) (rate(seedvec_http_problems_total[5m]))",
    "writes that share an fsync": "rate(seedvec_commit_writes_sum[5m]) / rate(seedvec_commit_writes_count[5m])",
    "how slow the disk is": "histogram_quantile(0.99, sum by (le) "
    '(rate(seedvec_fsync_seconds_bucket{of="commit"}[5m])))',
    "recall that answers expect": "rate(seedvec_search_expected_recall_sum[5m])"
    " / rate(seedvec_search_expected_recall_count[5m])",
    "does recall hold": 'seedvec_collection_recall{of="measured"}'
    ' - ignoring(of) seedvec_collection_recall{of="promised"}',
}
ALERTS = {
    "a collection is closed, or its index failed": "max by (collection) "
    '(seedvec_collection_index_state{state=~"closed|failed"}) > 0',
    "the disk is filling": "seedvec_disk_free_bytes < 5e9",
    "a process dies": "increase(seedvec_process_starts_total[10m]) > 0",
    "writes are held back": 'rate(seedvec_http_problems_total{code="too-many-pending"}[5m]) > 0',
    "more comes than can be served": 'rate(seedvec_http_problems_total{code="overloaded"}[5m]) > 0',
    "the disk does not confirm": 'increase(seedvec_http_problems_total{code="outcome-unknown"}[10m]) > 0',
}


def page() -> str:
    """The whole document."""
    return "".join(
        [
            HEAD,
            *map(_row, ALL),
            *_asked("Questions and what answers them", QUESTIONS),
            *_asked("Worth an alert", ALERTS),
        ]
    )


def _row(family: "Family[Series]") -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.type} | {labels} | {family.help} |\n"


def _asked(title: str, queries: dict[str, str]) -> list[str]:
    rows = (f"- {what}:\n  `{query}`\n" for what, query in queries.items())
    return [f"\n## {title}\n", *rows]


if __name__ == "__main__":
    sys.stdout.write(page())
