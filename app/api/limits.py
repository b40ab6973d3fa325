"""The numbers of the contract that the HTTP layer holds requests to; `GET /v1` shows them.

Those that only say how much one request may be are settings, in `current`; the others are what files and formats bear.
"""

import re
from typing import Any

from app.engine.filters.parse import MAX_DEPTH, MAX_NODES, MAX_VALUES
from app.engine.sparse_places import NUMBERS_MAX
from app.engine.types import DIMENSION_MAX, SPARSE_DIMENSION_MAX
from app.settings import Settings

current = Settings()
"""This process's: `k_max`, `json_body_bytes`, … Read as `limits.current`, since `create_app` sets it."""

K_MIN, K_DEFAULT = 1, 10
LIST_MIN, LIST_DEFAULT = 1, 100
SMALL_BODY_BYTES = 64 * 2**10
"""Bodies up to this are decoded on the event loop: handing them to a thread would cost more."""

DIMENSION_MIN = 1
METADATA_BYTES_MAX = 64 * 2**10
METADATA_DEPTH_MAX = 16

ID_INT_MAX = 2**63 - 1
ID_BYTES_MAX = 512
NPZ_ID_BYTES_MAX = 64
"""A longer string id does not go into the fixed-width array of an `.npz` answer."""

NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,62}"
NAME = re.compile(NAME_PATTERN)
NAME_SCHEMA: dict[str, Any] = {"pattern": f"^{NAME_PATTERN}$"}
"""For the reference. What does not match is refused in words of ours, or is no name of anything: 404."""
SNAPSHOT_COLLECTIONS_MAX = 1_000
"""Named in one snapshot or restore: all of them are opened at once."""
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

WAIT_S_DEFAULT, WAIT_S_MAX = 60.0, 3600.0
"""Seconds of `?wait=ready&timeout_s=`."""

TIMEOUT_MS_MAX = 86_400_000
"""Of `timeout_ms`: a day."""

RECALL_MIN, RECALL_MAX = 0.5, 1.0
"""Both inclusive. Less than half of the neighbours is no search; 1 is the exact one."""
RECALL_LIST_MAX = 10
"""Different k, and different recalls, that one request measures."""
RECALL_SAMPLE_DEFAULT, RECALL_SAMPLE_MAX = 200, 1_000


def use(settings: Settings) -> None:
    """From now on these hold."""
    global current
    current = settings


def shown() -> dict[str, float]:
    """The limits as `GET /v1` answers them; bytes where the name says so."""
    return {
        "k_default": K_DEFAULT,
        "k_max": current.k_max,
        "queries_max": current.queries_max,
        "queries_json_max": current.queries_json_max,
        "queries_times_k_max": current.hits_max,
        "recall_min": RECALL_MIN,
        "recall_max": RECALL_MAX,
        "list_default": LIST_DEFAULT,
        "list_max": current.list_max,
        "fetch_ids_max": current.ids_max,
        "delete_ids_max": current.ids_max,
        "patch_ids_max": current.ids_max,
        "write_items_max": current.items_max,
        "json_body_bytes_max": current.json_body_bytes,
        "npy_body_bytes_max": current.npy_body_bytes,
        "dimension_max": DIMENSION_MAX,
        "sparse_dimension_max": SPARSE_DIMENSION_MAX,
        "sparse_numbers_max": NUMBERS_MAX,
        "metadata_bytes_max": METADATA_BYTES_MAX,
        "metadata_depth_max": METADATA_DEPTH_MAX,
        "id_bytes_max": ID_BYTES_MAX,
        "filter_depth_max": MAX_DEPTH,
        "filter_nodes_max": MAX_NODES,
        "filter_values_max": MAX_VALUES,
        "timeout_ms_max": TIMEOUT_MS_MAX,
    }
