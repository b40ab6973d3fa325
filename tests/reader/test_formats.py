"""The recipe of docs/formats.md reads what there is, with h5py and sqlite3 alone."""

import re
from typing import Any

import numpy as np
import pytest

from seedvec import Client
from tests.harness import ROOT, Server
from tests.reader.filling import fill, metadata_of, vectors_of

PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def read(recipe: Any, server: Server, name: str) -> Any:
    """Again where a merge has just taken a segment away, as the page says."""
    for _ in range(10):
        try:
            return recipe(server.data_dir, name)
        except OSError as error:  # taken away between HDF5's opening it and its asking for its size, it is no other
            met = error
    raise AssertionError("each reading met a merge") from met


@pytest.mark.parametrize(("ids", "dtype"), [("int", "float32"), ("str", "float16")])
def test_live_rows_and_pending_ones(opened: Server, ids: str, dtype: str) -> None:
    (recipe,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "import sqlite3" in block)
    named = (lambda n: n) if ids == "int" else (lambda n: f"ü{n}")
    with Client(opened.url) as client:
        c = fill(client, f"recipe-{ids}", range(900), ids, dtype=dtype)
        c.delete([named(n) for n in range(0, 900, 3)])
        c.upsert(vectors_of([1]), [named(0)], [metadata_of(1)])
    page: dict[str, Any] = {}
    exec(compile(recipe, "docs/formats.md", "exec"), page)
    found = read(page["read"], opened, f"recipe-{ids}")
    wanted = {named(n): n for n in range(900) if n % 3} | {named(0): 1}
    assert found.keys() == wanted.keys()
    for id_, (vector, metadata) in found.items():
        assert vector.dtype == dtype
        assert np.array_equal(vector, vectors_of([wanted[id_]])[0].astype(dtype))
        assert metadata == metadata_of(wanted[id_])
