"""`python -m app.writing_file`: one export, in a process of its own: it reads the data folder, never a worker's memory.

The order is JSON on standard input. The file goes to standard output, or to the descriptor `out` that the order may
name for one that is no tar. What it is called and how long it will be, or why there is none, is a JSON line before
that, on the descriptor `status`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from app import logs, settings
from app.children import adopt
from app.engine import errors
from app.engine.exporting import Plan, plan
from app.engine.told import refused_json
from app.limited import limit
from seedvec.errors import FolderError
from seedvec.folder import open as open_folder

OUT = 1


def main() -> None:
    adopt()
    order: dict[str, Any] = json.load(sys.stdin)
    config = settings.load({}, os.environ)
    logs.configure("export", config.log_level, config.log_format)
    limit(1 << 40)  # its own time is bounded by who takes the file, not by how much there is
    with os.fdopen(order["status"], "w") as status:
        try:
            made = _plan(order)
            size = made.prepare()
        except errors.Refused as e:
            status.write(json.dumps({"refused": refused_json(e)}) + "\n")
            return
        status.write(json.dumps({"name": made.name, "size": size}) + "\n")
    to = order.get("out")
    made.give(OUT if to is None or made.name.endswith(".tar") else to)


def _plan(order: dict[str, Any]) -> Plan:
    try:
        snapshot = open_folder(order["data"])[order["collection"]]
    except FolderError as e:
        raise errors.Unavailable(f"collection {order['name']} cannot be read: {e}") from e
    return plan(snapshot, order["name"], Path(order["staging"]), order["asked"])


if __name__ == "__main__":
    main()
