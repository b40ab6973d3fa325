"""Pictures of recall against cost, and the process that draws them for the server."""

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pytest

from app.engine import picturing
from app.engine.errors import Unavailable
from app.engine.picturing import Picturing
from seedvec.curves import Curve, draw
from tests.harness import ROOT


def point(recall: float, cost_us: float) -> dict[str, Any]:
    return {"recall": recall, "lower": recall - 0.01, "cost_us": cost_us, "params": {}}


def order(segments: int, requested: float = 0.95) -> dict[str, Any]:
    fronts = [
        {"segment": f"s{i}", "rows": 10**6 >> i, "kind": "ivf", "on": "data", "k": k, "queries": 9, "points": points}
        for i in range(segments)
        for k, points in ((1, [point(0.8, 40), point(1.0, 90)]), (10, [point(0.7, 60), point(0.99, 5000)]))
    ]
    return {"title": "words", "format": "svg", "requested": requested, "fronts": fronts, "measured": []}


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())


def test_a_picture_says_what_it_shows() -> None:
    drawn = Curve("k = 10", [100, 40], [1.0, 0.9], [0.99, 0.85])
    svg = draw("title", [drawn], requested=[0.5, 0.95], format="svg", cost="µs")
    said = texts(svg)
    assert {"title", "k = 10", "asked for: 0.5, 0.95", "recall@k", "µs", "0.5", "0.95", "1", "50", "100"} <= set(said)
    assert svg == draw("title", [drawn], requested=[0.5, 0.95], format="svg", cost="µs")
    png = draw("title", [drawn], requested=[0.95], format="png", cost="µs")
    assert png.startswith(b"\x89PNG\r\n") and len(png) > 10_000


def test_without_curves_it_says_why() -> None:
    for curves in ([], [Curve("none", [], [])]):
        assert "nothing here" in texts(
            draw("t", curves, requested=[0.9], format="svg", cost="µs", otherwise="nothing here")
        )


def drawn_by_child(order: dict[str, Any]) -> list[str]:
    command = [sys.executable, "-m", "app.drawing"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(order).encode(), stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 0
    return texts(done.stdout)


def test_the_largest_segments_are_drawn() -> None:
    assert {"words: what recall costs", "k = 1", "k = 10"} <= set(drawn_by_child(order(1)))
    many = drawn_by_child(order(5))
    assert "words: what recall costs (the 3 largest of 5 segments)" in many
    assert "k = 10, ivf of 250,000 rows" in many and "k = 10, ivf of 125,000 rows" not in many


def test_a_picture_is_drawn_once_and_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = picturing.start_child

    def counted(module: str, *, piped: bool) -> "subprocess.Popen[bytes]":
        started.append(module)
        return start(module, piped=piped)

    monkeypatch.setattr(picturing, "start_child", counted)

    async def ask() -> list[bytes]:
        pictures = Picturing()
        asked = [pictures.draw(order(1, requested)) for requested in (0.9, 0.9, 0.8, 0.9)]
        return list(await asyncio.gather(*asked))

    first, again, other, last = asyncio.run(ask())
    assert first == again == last != other
    assert started == 2 * ["app.drawing"]


def test_what_cannot_be_drawn_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match="could not be drawn"):
        asyncio.run(Picturing().draw({"title": "words"}))
    assert "KeyError" in capfd.readouterr().err
    monkeypatch.setattr(picturing, "TIMEOUT_S", 0.01)
    with pytest.raises(Unavailable, match="in time"):
        asyncio.run(Picturing().draw(order(1)))
