"""`python -m app.drawing`: one picture of a collection's calibration. The order is JSON on standard input, the picture
goes to standard output.

    {"format": "svg" | "png", "title": name, "requested": recall, "fronts": as `GET …/recall` answers them}
"""

import json
import sys
from typing import Any

from app.children import adopt
from app.scheduling import stand_behind
from seedvec.curves import Curve, draw

NICENESS = 10
MOST_SEGMENTS = 3
"""Drawn: more curves than these cannot be told apart."""


def main() -> None:
    adopt()
    stand_behind(NICENESS)
    order = json.load(sys.stdin)
    segments = list(dict.fromkeys(front["segment"] for front in order["fronts"]))  # the largest first
    title = f"{order['title']}: what recall costs"
    if len(segments) > MOST_SEGMENTS:
        title += f" (the {MOST_SEGMENTS} largest of {len(segments)} segments)"
    shown = segments[:MOST_SEGMENTS]
    picture = draw(
        title,
        [_curve(front, len(shown) > 1) for front in order["fronts"] if front["segment"] in shown],
        requested=[order["requested"]],
        format=order["format"],
        cost="one query on one thread, µs",
        otherwise="Searched exactly: every recall is 1",
    )
    sys.stdout.buffer.write(picture)


def _curve(front: dict[str, Any], several: bool) -> Curve:
    name = f"k = {front['k']}"
    if several:
        name += f", {front['kind']} of {front['rows']:,} rows"
    columns = {field: [point[field] for point in front["points"]] for field in ("cost_us", "recall", "lower")}
    return Curve(name, columns["cost_us"], columns["recall"], columns["lower"])


if __name__ == "__main__":
    main()
