"""README.md is true: its curl lines, its commands and its Python, in order, on a server with the demo's collection; so
are the lines of other pages that ask the same collection."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.prepare import load
from seedvec import Client
from tests.harness import ROOT, SMALL, Server
from tests.project import pages

PAGE = (ROOT / "README.md").read_text("utf-8")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
NOT_THE_SAME = pages.VARYING | {"exact", "expected_recall"}
"""An index built anew may find its price on the other side of the exact search's."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("demo") / "data", workers=1, env=SMALL) as running:
        with Client(running.url) as client:
            load(client)
        yield running


def test_every_command_works(demo: Server, tmp_path: Path) -> None:
    for ran in pages.run(PAGE, demo.url, tmp_path, {}):
        pages.assert_as_shown(ran, NOT_THE_SAME)
    assert demo.collection("copied").describe()["count"] == 10_001
    after: dict[str, Any] = {}
    for block in pages.blocks(PAGE):
        if block.kind == "python":
            text = block.text.replace(pages.URL, demo.url).replace('"demo-data"', repr(str(demo.data_dir)))
            exec(compile(text, "README.md", "exec"), after)
    after["db"].close()
    found = after["r"]
    assert found.ids.shape == found.distances.shape == (3, 10)
    assert found.ids[:, 0].tolist() == [0, 1, 2]
    assert len(after["vectors"]) == len(after["lengths"]) > 0


@pytest.mark.parametrize("page", ["filters.md", "operations.md"])
def test_what_other_pages_do_with_words(demo: Server, tmp_path: Path, page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    for ran in pages.run(text, demo.url, tmp_path, {}):
        pages.assert_as_shown(ran)


def test_recall_from_python(demo: Server) -> None:
    [text] = [b.text for b in pages.blocks((ROOT / "docs" / "recall.md").read_text("utf-8")) if b.kind == "python"]
    with Client(demo.url) as client:
        queries = client.collection("words").fetch(list(range(1, 11))).vectors
        truth = client.collection("words").search(queries, k=10, exact=True).ids.tolist()
        exec(text, {"client": client, "vector": queries[0], "queries": queries, "ids": truth})


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
