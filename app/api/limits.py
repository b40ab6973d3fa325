"""The numbers of the contract that the HTTP layer holds requests to; `GET /v1` shows them."""

import re

from app.engine.filters.parse import MAX_DEPTH, MAX_NODES, MAX_VALUES

K_MIN, K_DEFAULT, K_MAX = 1, 10, 10_000
QUERIES_MAX = 10_000
QUERIES_JSON_MAX = 1_000
QUERY_HITS_MAX = 1_000_000
"""Queries × k of one request: the answer of a larger one would not fit a worker's memory beside its neighbours."""

LIST_MIN, LIST_DEFAULT, LIST_MAX = 1, 100, 10_000
IDS_MAX = 10_000
"""Ids in one fetch, delete or patch."""
ITEMS_MAX = 100_000
"""Items in one add or upsert."""

JSON_BODY_BYTES_MAX = 64 * 2**20
NPY_BODY_BYTES_MAX = 256 * 2**20
SMALL_BODY_BYTES = 64 * 2**10
"""Bodies up to this are decoded on the event loop: handing them to a thread would cost more."""

DIMENSION_MIN, DIMENSION_MAX = 1, 65_536
METADATA_BYTES_MAX = 64 * 2**10
METADATA_DEPTH_MAX = 16

ID_INT_MAX = 2**63 - 1
ID_BYTES_MAX = 512
NPZ_ID_BYTES_MAX = 64
"""A longer string id does not go into the fixed-width array of an `.npz` answer."""

NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,62}"
NAME = re.compile(NAME_PATTERN)
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

WAIT_S_DEFAULT, WAIT_S_MAX = 60.0, 3600.0
"""Seconds of `?wait=ready&timeout_s=`."""

RECALL_MIN, RECALL_MAX = 0.5, 1.0
"""Both inclusive. Less than half of the neighbours is no search; 1 is the exact one."""
RECALL_LIST_MAX = 10
"""Different k, and different recalls, that one request measures."""
RECALL_SAMPLE_DEFAULT, RECALL_SAMPLE_MAX = 200, 1_000


def shown() -> dict[str, float]:
    """The limits as `GET /v1` answers them; bytes where the name says so."""
    return {
        "k_default": K_DEFAULT,
        "k_max": K_MAX,
        "queries_max": QUERIES_MAX,
        "queries_json_max": QUERIES_JSON_MAX,
        "queries_times_k_max": QUERY_HITS_MAX,
        "recall_min": RECALL_MIN,
        "recall_max": RECALL_MAX,
        "list_default": LIST_DEFAULT,
        "list_max": LIST_MAX,
        "fetch_ids_max": IDS_MAX,
        "delete_ids_max": IDS_MAX,
        "patch_ids_max": IDS_MAX,
        "write_items_max": ITEMS_MAX,
        "json_body_bytes_max": JSON_BODY_BYTES_MAX,
        "npy_body_bytes_max": NPY_BODY_BYTES_MAX,
        "dimension_max": DIMENSION_MAX,
        "metadata_bytes_max": METADATA_BYTES_MAX,
        "metadata_depth_max": METADATA_DEPTH_MAX,
        "id_bytes_max": ID_BYTES_MAX,
        "filter_depth_max": MAX_DEPTH,
        "filter_nodes_max": MAX_NODES,
        "filter_values_max": MAX_VALUES,
    }
