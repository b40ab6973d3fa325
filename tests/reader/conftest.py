"""One server for the readers' tests, each of which keeps to collections of its own."""

from collections.abc import Iterator

import pytest

from tests.harness import SMALL, Server


@pytest.fixture(scope="package")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("opened") / "data", env=SMALL) as running:
        yield running
