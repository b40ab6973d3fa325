"""What docs/recall.md shows is what happens: its commands run as they stand, their answers have the shape shown."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import ROOT, SMALL, Server
from tests.service.test_recall import DIMENSION, ROWS, VECTORS, drawn

PAGE = (ROOT / "docs" / "recall.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```(?:\n\n```(?:json|text)\n(.*?)```)?", PAGE, re.DOTALL)
"""(commands, what the first of them is shown to answer, or nothing)."""
ADDRESS = "http://127.0.0.1:8080"


def shape(value: Any) -> Any:
    """Names and kinds; of a list that of its first, of a point's parameters nothing: they are the index's."""
    if isinstance(value, dict):
        return {name: "…" if name == "params" else shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def run(commands: str, folder: Path, url: str) -> str:
    commands = commands.replace("curl ", "curl -sS --fail-with-body ")
    environment = {**os.environ, "SEEDVEC_URL": url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    line = ["bash", "-e", "-c", f"W={url}/v1/collections/words\n{commands}"]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, (commands, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page is about curl")
def test_the_page(tmp_path: Path) -> None:
    assert len(BLOCKS) >= 6 and sum(bool(shown) for _, shown in BLOCKS) == 3
    queries = tmp_path / "queries.npy"
    np.save(queries, drawn(300, 9))
    with Server(tmp_path / "data", env=SMALL) as server:
        c = server.collection("words")
        c.create(DIMENSION, index={"kind": "hnsw"}, id_type="int")
        c.add_npy(VECTORS, first_id=0)
        c.wait_ready(100)
        for commands, shown in BLOCKS:
            said = run(commands.replace(f"W={ADDRESS}/v1/collections/words\n", ""), tmp_path, server.url)
            if shown.startswith("{"):
                answered, _ = json.JSONDecoder().raw_decode(said)
                assert shape(answered) == shape(json.loads(shown)), commands
            elif shown:
                mine, theirs = ([line.split() for line in text.splitlines()] for text in (said, shown))
                assert mine[0] == theirs[0]
                assert [line[:2] + line[4:5] for line in mine] == [line[:2] + line[4:5] for line in theirs]
        assert (tmp_path / "recall.svg").read_text().startswith("<?xml")
        assert "recall@k" in (tmp_path / "curve.svg").read_text()
        described = c.describe()
    assert described["recall"] == 0.9 and described["count"] == ROWS


@pytest.mark.parametrize("name", ["SEEDVEC_KEEP_QUERIES", "`p10_recall`", "`calibrated_on`", "`expected_recall`"])
def test_it_speaks_of(name: str) -> None:
    assert name in PAGE
