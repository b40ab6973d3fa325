"""Of many rows those whose ids come first, whatever the ids."""

import random
from pathlib import Path

import numpy as np
import pytest

from app.engine.first_ids import of_ids, of_segment
from seedvec import segment
from seedvec.segment import open_segment
from storage.segment import write_segment

N = 1200


def texts() -> list[str]:
    """Some begin alike for longer than is looked at at once, some are the beginning of others."""
    rng = random.Random(3)
    drawn = {"".join(rng.choice("ab€😀é") for _ in range(rng.randint(1, 12))) for _ in range(N // 3)}
    long = {f"a prefix of many bytes/{rng.randrange(10**6):06}" for _ in range(N // 3)}
    nested = {"x" * n for n in range(1, 300)}
    found = sorted(drawn | long | nested)
    rng.shuffle(found)
    return found


@pytest.mark.parametrize("kind", ["int", "str"])
def test_the_first_by_id(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "WORDS_AT_ONCE", 100)
    ids = texts() if kind == "str" else random.Random(4).sample(range(10**12), N)
    n, path = len(ids), tmp_path / "s.h5"
    ones = np.ones((n, 1), np.float32)
    write_segment(path, vectors=ones, keys_rel=np.arange(n, dtype=np.uint64), ids=ids, norms=ones[:, 0], metric="dot")
    for first in (of_segment(open_segment(path)), of_ids(ids)):
        for rows in (np.arange(n), np.arange(0, n, 3), np.arange(150)):
            by_id = sorted(rows.tolist(), key=lambda row: ids[row])
            for wanted in (1, 5, 140, len(rows)):
                assert sorted(first(rows, wanted).tolist()) == sorted(by_id[:wanted])
