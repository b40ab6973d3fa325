"""The map of the code names every module, and none that is not there."""

import re
from fnmatch import fnmatchcase

from tests.harness import ROOT

PAGE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
ROOMS = ("app", "storage", "index", "seedvec")
NAMED = re.compile(r"[a-z_*]+[a-z0-9_*]*\.py\b")
LINES_MAX = 300
"""What a newcomer reads."""


def files(*rooms: str) -> set[str]:
    return {path.name for room in rooms for path in (ROOT / room).rglob("*.py")}


def test_the_map_is_whole() -> None:
    named = set(NAMED.findall(PAGE[PAGE.index("## The rooms") : PAGE.index("## The processes")]))
    # These folders are named as wholes: their files are few.
    listed = files(*ROOMS) - files("app/engine/filters", "seedvec/filters") - {"__init__.py"}
    assert not {module for module in listed if not any(fnmatchcase(module, pattern) for pattern in named)}
    assert not {pattern for pattern in named if not any(fnmatchcase(file, pattern) for file in files(*ROOMS, "tests"))}


def test_what_is_walked_through_is_there() -> None:
    single = {name for name in NAMED.findall(PAGE) if "*" not in name}
    assert not single - files(*ROOMS, "tests", "benchmarks")


def test_it_can_be_read() -> None:
    assert len(PAGE.splitlines()) <= LINES_MAX
