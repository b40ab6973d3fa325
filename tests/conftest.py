"""Servers for the tests: every one is a real process on a folder of its own, checked when it ends."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import SMALL, Server

# Before any test module imports Faiss: threads that spin while they wait starve the servers under test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Two workers, settings that seal, merge and index small data."""
    with Server(tmp_path / "data", env=SMALL) as running:
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests of a module that keep to collections of their own."""
    with Server(tmp_path_factory.mktemp("shared") / "data", env=SMALL) as running:
        yield running
