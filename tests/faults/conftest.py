"""How much of the fault suites is run, and the table of what they found."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.faults import kills, table
from tests.faults.table import Extent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", choices=("quick", "whole"), default="quick", help="a share of the faults, or all")


@pytest.fixture(scope="session")
def extent(request: pytest.FixtureRequest) -> Extent:
    """How much to try. A run of all tests has not asked for this folder's option: quick."""
    chosen: Extent = request.config.getoption("--faults", "quick")
    return chosen


@pytest.fixture(scope="session")
def first_is_enough(request: pytest.FixtureRequest) -> bool:
    """-x: who only asks whether a suite notices need not wait for the rest of its cases."""
    return bool(request.config.getoption("maxfail") == 1)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    with kills.working_folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def players() -> Iterator[ProcessPoolExecutor]:
    """Processes that play the script, with failpoints inside SQLite."""
    with ProcessPoolExecutor(kills.AT_ONCE, mp_context=kills.forking(), initializer=kills.watch_sqlite) as executor:
        yield executor


@pytest.fixture
def judges() -> Iterator[ProcessPoolExecutor]:
    """Of their own: SQLite asks more of a file that it only reads than an apsw shim can refuse without an error."""
    with ProcessPoolExecutor(kills.AT_ONCE, mp_context=kills.forking(), initializer=kills.quietly) as executor:
        yield executor


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = table.lines()
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.line(line)
