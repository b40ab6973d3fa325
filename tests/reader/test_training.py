"""The code of docs/training.md trains, on files like those of Fashion-MNIST."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.harness import ROOT, Server

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
CLASSES = 10


def written_as_idx(path: Path, numbers: NDArray[np.uint8]) -> None:
    head = bytes([0, 0, 8, numbers.ndim]) + np.array(numbers.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(head + numbers.tobytes(), 1))


def test_a_linear_probe_learns_the_labels(opened: Server, tmp_path: Path) -> None:
    """Images of ten kinds, each a pattern under noise that no single pixel tells."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 196, (CLASSES, 28, 28))
    for prefix, rows in (("train", 1500), ("t10k", 300)):
        labels = rng.integers(0, CLASSES, rows)
        images = np.clip(patterns[labels] + rng.normal(0, 60, (rows, 28, 28)), 0, 255)
        written_as_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images.astype(np.uint8))
        written_as_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
    page: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/training.md", "exec"), page)
    page["load"](opened.url, tmp_path)
    torch.manual_seed(0)
    assert page["probe"](str(opened.data_dir), epochs=0, workers=0) < 0.3
    assert page["probe"](str(opened.data_dir), epochs=3, workers=1) > 0.95
