"""What a process loads at its start is paid by every import, export and command."""

import os
import subprocess
import sys

import pytest

from app.keeping import ONE_THREAD


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("app.reading_file", {"faiss", "asyncio", "fastapi", "torch", "pyarrow"}),
        ("app.writing_file", {"faiss", "asyncio", "fastapi", "torch", "pyarrow"}),
        ("app.transferring", {"numpy", "h5py", "asyncio"}),
        ("seedvec.cli", {"numpy", "h5py", "asyncio"}),
        # The supervisor: everything else of a server's start waits for it.
        ("app.cli", {"numpy", "h5py", "apsw", "faiss", "asyncio", "fastapi"}),
    ],
)
def test_what_a_process_need_not_load_it_does_not(module: str, without: set[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert without.isdisjoint(shown.stdout.split())


def test_what_a_worker_imports_starts_no_thread() -> None:
    """Those that start together are forked then: a lock that another thread held would stay locked in the copy."""
    count = "import app.worker, os; print(len(os.listdir('/proc/self/task')))"
    environment = os.environ | ONE_THREAD
    shown = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == "1\n"
