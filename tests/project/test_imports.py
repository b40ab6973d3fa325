"""Imports run one way, heavy libraries stay where they belong, and none hides inside a function."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("app", "storage", "index", "seedvec")

MAY_IMPORT = {
    "app/api": {"app.api", "app.engine", "app.logs", "app.metrics", "app.settings", "seedvec"},
    "app/engine": {
        *("app.engine", "app.metrics", "app.settings", "app.granted", "app.children"),
        *("storage", "index", "seedvec"),
    },
    "app/metrics": {"app.metrics"},
    "app": {"app", "storage", "index", "seedvec"},
    "storage": {"storage", "seedvec"},
    "index": {"index", "seedvec.sparse"},
    "seedvec": {"seedvec"},
}
ONLY_IN = {
    "faiss": ("index/",),
    "fastapi": ("app/api/",),
    "starlette": ("app/api/",),
    "uvicorn": ("app/worker.py", "app/connections.py"),
    "h5py": ("storage/", "seedvec/segment.py", "seedvec/query_files.py"),
    "matplotlib": ("seedvec/curves.py",),
    "apsw": ("storage/",),
    # The reader of a data folder: who has it installed needs no apsw.
    "sqlite3": ("seedvec/catalogue.py", "seedvec/metadata.py"),
    "opentelemetry": ("app/tracing.py",),
    "prometheus_client": (),
    "hdf5plugin": ("storage/files/hdf5",),
    "pyarrow": ("storage/files/arrow",),
    "torch": ("seedvec/torch.py", "storage/files/torch_file.py"),
}
LIGHT = {
    f"seedvec/{name}.py"
    for name in (
        *("__init__", "arrays", "asynchronous", "cli", "client", "collection", "connection", "errors", "exchange"),
        *("files", "health", "load", "progress", "results", "sending", "server", "snapshot_command", "taking"),
        "transfer",
    )
}
"""What the wheel without extras runs: nothing but Python and, where it is there, NumPy."""

SOURCES = sorted(path for top in OURS for path in (ROOT / top).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def below(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def allowed(path: str) -> set[str]:
    part = max((p for p in MAY_IMPORT if path.startswith(p + "/")), key=len)
    return MAY_IMPORT[part]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text())
    for module in imported(tree):
        if module.split(".")[0] in OURS:
            assert any(below(module, parent) for parent in allowed(name)), f"{name} must not import {module}"
        for library, places in ONLY_IN.items():
            if below(module, library):
                assert any(name.startswith(place) for place in places), f"{name} must not import {library}"
        if name in LIGHT:
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names | {"seedvec", "numpy"}, f"{name} must not need {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_inside_a_function(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = [n.lineno for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner, f"{node.name} imports at line {inner}"


def test_the_scan_sees_the_project() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in SOURCES}
    assert tops == set(OURS)
    assert LIGHT <= {path.relative_to(ROOT).as_posix() for path in SOURCES}
