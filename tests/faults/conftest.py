"""How much of the fault suites is run, and the table of what they found."""

import pytest

from tests.faults import table
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = table.lines()
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.line(line)
