"""The examples of the OpenAPI. In the order of a first visit each works as it stands; a test sends them so."""

from typing import Any

COLLECTION = "colours"
ID = 1

FILTER: dict[str, Any] = {"name": {"$in": ["red", "green"]}, "hue": {"$gte": 0}}
FILTER_TEXT = '{"name": {"$prefix": "b"}}'

CREATE: dict[str, Any] = {"dimension": 3, "metric": "l2", "id_type": "int"}
INDEX: dict[str, Any] = {"kind": "hnsw", "m": 16, "ef_construction": 100}
RECALL: dict[str, Any] = {"recall": 0.95}

DESCRIBED: dict[str, Any] = {
    "name": COLLECTION,
    "dimension": 3,
    "sparse": False,
    "metric": "l2",
    "dtype": "float32",
    "id_type": "int",
    "recall": 0.95,
    "created": "2026-01-31T12:00:00Z",
    "count": 3,
    "bytes": 36864,
    "segments": 1,
    "index": {
        "state": "ready",
        "reason": None,
        "kind": "flat",
        "wanted": {"kind": "auto"},
        "indexed": 0,
        "pending": 0,
        "private_bytes_per_worker": 0,
        "progress": None,
        "eta_s": None,
    },
    "calibration": [],
    "imports": [],
}

ADD: dict[str, Any] = {
    "items": [
        {"id": 1, "vector": [1, 0, 0], "metadata": {"name": "red"}},
        {"id": 2, "vector": [0, 1, 0], "metadata": {"name": "green"}},
        {"id": 3, "vector": [0, 0, 1], "metadata": {"name": "blue"}},
    ]
}
ADD_COLUMNS: dict[str, Any] = {
    "ids": [4, 5],
    "vectors": [[1, 1, 0], [0, 1, 1]],
    "metadata": [{"name": "yellow"}, {"name": "cyan"}],
}
ADD_WITHOUT_IDS: dict[str, Any] = {"vectors": [[1, 0, 1]]}
UPSERT: dict[str, Any] = {"items": [{"id": 1, "vector": [0.9, 0.1, 0], "metadata": {"name": "red", "warm": True}}]}

ITEM: dict[str, Any] = {"id": 1, "vector": [0.9, 0.1, 0.0], "metadata": {"name": "red", "warm": True}}
FETCH: dict[str, Any] = {"ids": [1, 99], "include": ["metadata", "vector"]}
FETCHED: dict[str, Any] = {"items": [ITEM], "missing": [99]}
LIST: dict[str, Any] = {"limit": 2, "include": ["metadata"]}
LIST_MATCHING: dict[str, Any] = {"filter": {"name": {"$ne": "red"}}}
LISTED: dict[str, Any] = {
    "items": [{"id": 2, "metadata": {"name": "green"}}, {"id": 3, "metadata": {"name": "blue"}}],
    "next": "AAAAAAAAAAM",
}
PATCH: dict[str, Any] = {"metadata": {"warm": None, "hue": 0}}
PATCH_MATCHING: dict[str, Any] = {"filter": {"hue": {"$exists": True}}, "metadata": {"hue": None, "named": True}}
PATCH_IDS: dict[str, Any] = {"ids": [1, 99], "metadata": {"hue": 0}}
COUNT: dict[str, Any] = {"filter": FILTER}

SEARCH: dict[str, Any] = {"vector": [0.8, 0.2, 0], "k": 2}
SEARCH_SEVERAL: dict[str, Any] = {"vectors": [[1, 0, 0], [0, 0, 1]], "k": 1, "exact": True, "include": []}
SEARCH_FILTERED: dict[str, Any] = {"vector": [0.8, 0.2, 0], "filter": FILTER, "explain": True}
SEARCH_RECALL: dict[str, Any] = {"vector": [0.8, 0.2, 0], "k": 2, "recall": 0.99}
SEARCH_ID: dict[str, Any] = {"id": 1, "k": 2, "max_distance": 1.5}
FOUND: dict[str, Any] = {
    "hits": [
        {"id": 1, "distance": 0.14142136, "metadata": {"name": "red", "warm": True}},
        {"id": 4, "distance": 0.82462114, "metadata": {"name": "yellow"}},
    ],
    "exact": True,
    "expected_recall": 1.0,
    "calibrated_on": None,
    "took_ms": 0.21,
}
DELETE: dict[str, Any] = {"ids": [4, 5]}
DELETE_MATCHING: dict[str, Any] = {"filter": {"name": {"$exists": False}}}
DELETE_ALL: dict[str, Any] = {"filter": {}, "all": True, "dry_run": True}

RECALL_MEASURE: dict[str, Any] = {"k": [1, 2], "recall": [0.9, 0.99], "sample": 3}
RECALL_MEASURE_GIVEN: dict[str, Any] = {"k": 2, "queries": [[0.8, 0.2, 0], [0, 0.4, 0.5]], "truth": [[1, 4], [5, 3]]}
RECALL_MEASURED: dict[str, Any] = {
    "rows": [
        {
            "k": 1,
            "requested": 0.9,
            "measured": 0.9367,
            "interval": [0.9133, 0.9567],
            "p10_recall": 0.8,
            "expected_recall": 0.9412,
            "exact": False,
            "p50_ms": 0.1021,
            "p95_ms": 0.1418,
            "p99_ms": 0.1702,
            "exact_p50_ms": 1.4871,
            "queries": 200,
        }
    ],
    "on": "data",
}
RECALL_FRONTS: dict[str, Any] = {
    "requested": 0.95,
    "fronts": [
        {
            "segment": "000012-0190f5d0c7a17b3e8d2a4c5e6f708192.h5",
            "rows": 100_000,
            "kind": "hnsw",
            "on": "data",
            "k": 10,
            "points": [{"params": {"ef_search": 24}, "recall": 0.9412, "lower": 0.9388, "cost_us": 96.5}],
            "queries": 2_500,
        }
    ],
    "measured": [],
}

ALIAS = "palette"
POINT: dict[str, Any] = {"collection": COLLECTION}
ALIASED: dict[str, Any] = {"alias": ALIAS, "collection": COLLECTION}

SNAPSHOT = "monday"
TAKE: dict[str, Any] = {"name": SNAPSHOT, "collections": [COLLECTION]}
SNAPSHOTTED: dict[str, Any] = {
    "name": SNAPSHOT,
    "created": "2026-01-31T12:00:00Z",
    "uploaded": False,
    "collections": [{"name": COLLECTION, "count": 3}],
    "bytes": 167936,
    "damage": None,
}
RESTORE: dict[str, Any] = {"as": "colours-of-monday", "replace": True}
RESTORED: dict[str, Any] = {
    "snapshot": SNAPSHOT,
    "collections": [{"name": "colours-of-monday", "from": COLLECTION, "count": 3}],
}

IMPORTED: dict[str, Any] = {
    "imported": 1_000_000,
    "rejected": 0,
    "first_rejected": None,
    "created": True,
    "notes": ["the file's float64 numbers were rounded to float32, the collection's dtype"],
}
COPY: dict[str, Any] = {"from": COLLECTION, "mode": "upsert"}
