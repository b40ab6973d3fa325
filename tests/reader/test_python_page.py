"""What docs/python.md shows works as it stands there."""

import re
from typing import Any

import numpy as np
import torch

from tests.harness import ROOT, Server

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_client_and_the_opened_folder(opened: Server) -> None:
    client, folder = (
        block.replace("http://127.0.0.1:8080", opened.url).replace("/srv/vectors", str(opened.data_dir))
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        if "async" not in block
    )
    x = np.random.default_rng(0).standard_normal((40, 768)).astype(np.float32)
    page: dict[str, Any] = {
        "x": x,
        "q": torch.from_numpy(x[:3]),
        "ids": range(40),
        "metadata": [{"pos": "noun" if i % 2 else "verb", "year": 2000 + i} for i in range(40)],
    }
    exec(compile(client, "docs/python.md", "exec"), page)
    assert page["r"].ids.shape == (3, 10)
    assert page["r"][1].hits[0]["id"] == 1
    exec(compile(folder, "docs/python.md", "exec"), page)
    assert (len(page["clip"]), len(page["young"])) == (40, 20)
    page["db"].close()
