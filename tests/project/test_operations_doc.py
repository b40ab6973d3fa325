"""The figures and codes of docs/operations.md are the program's own."""

import re

from app.api.problems import TABLE
from index.memory import building_bytes, serving_bytes
from tests.harness import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
ROWS = 1_000_000
IVF, HNSW = "`ivf`", "`hnsw`"
PARAMS = {IVF: {"nlist": 1000}, HNSW: {"m": 16, "ef_construction": 80}}
CODE = re.compile(r"(?:4\d\d|5\d\d) `([a-z-]+)`")


def cells(begins: str) -> list[str]:
    """Of the one table row that begins so, without its head."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def mib(size: float) -> str:
    return f"{size / 2**20:,.0f}"


def params(kind: str, dimension: int) -> dict[str, int]:
    """Those that docs/indexes.md says are chosen."""
    return PARAMS[kind] | ({"pq_m": dimension // (2 if dimension <= 256 else 4)} if kind == IVF else {})


def test_sizes_are_what_the_server_reckons_with() -> None:
    dimensions = [int(re.sub(r"\D", "", cell)) for cell in cells("a million rows of")]
    assert dimensions == [128, 384, 768, 1536]
    shown = {
        "vectors on disk": [f"{ROWS * d * 4 / 1e9:.1f} GB" for d in dimensions],
        "private memory of each worker": [],
        "private memory of the builder": [],
        "the same: `hnsw`": [],
    }
    for d in dimensions:
        shapes = {kind: (kind.strip("`"), params(kind, d), ROWS, d, "float32", "cosine") for kind in PARAMS}
        serving = [mib(serving_bytes(*shapes[kind], 1)) for kind in (IVF, HNSW)]
        shown["private memory of each worker"].append(f"{serving[0]}, {serving[1]} MiB")
        shown["private memory of the builder"].append(f"{mib(building_bytes(*shapes[IVF]))} MiB")
        shown["the same: `hnsw`"].append(f"{mib(building_bytes(*shapes[HNSW]))} MiB")
    for begins, expected in shown.items():
        assert cells(begins) == expected, begins


def test_the_codes_exist() -> None:
    codes = set(CODE.findall(PAGE))
    assert {"disk-full", "overloaded", "insufficient-memory"} <= codes <= set(TABLE)
