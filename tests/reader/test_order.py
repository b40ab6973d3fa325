"""Which row stands where, whatever was deleted and however late rows were sealed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seedvec.order import Keys, in_key_order

KEYS = st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=40)


@given(KEYS, st.lists(st.integers(0, 3), min_size=40, max_size=40), st.sets(st.integers(0, 60)), st.booleans())
def test_live_rows_in_the_order_of_their_keys(keys: list[int], part_of: list[int], dead: set[int], apart: bool) -> None:
    """Keys dealt out to parts at random, or (apart) so that each part has a range of its own."""
    keys = sorted(keys)
    dealt = sorted(part_of[: len(keys)]) if apart else part_of[: len(keys)]
    parts = []
    for p in range(4):
        own = np.array([key for key, of in zip(keys, dealt, strict=True) if of == p], np.int64)
        if len(own):
            base = int(own[0])
            whole = len(own) == own[-1] - base + 1
            parts.append(Keys(base, len(own), None if whole else own - base))
    order = in_key_order(parts, np.array(sorted(dead), np.int64))
    live = [key for key in keys if key not in dead]
    assert len(order) == len(live)
    part, rows = order.locate(np.arange(len(live)))
    at = np.broadcast_to(np.asarray(part), rows.shape)
    assert [int(parts[p].at(np.array([row]))[0]) for p, row in zip(at, rows, strict=True)] == live
    for start, stop in ((0, len(live)), (len(live) // 3, len(live) // 2)):
        if start < stop:
            found = [int(k) for p, b, e in order.stretches(start, stop) for k in parts[p].at(np.arange(b, e))]
            assert found == live[start:stop]
    chosen = order.chosen(np.arange(len(live))[::3])
    part, rows = chosen.locate(np.arange(len(chosen)))
    at = np.broadcast_to(np.asarray(part), rows.shape)
    assert [int(parts[p].at(np.array([row]))[0]) for p, row in zip(at, rows, strict=True)] == live[::3]
