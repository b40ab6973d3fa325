"""`python -m app.reading_file`: one import, in a process of its own that may die of the file it reads.

The order is JSON on standard input, what comes of it goes to standard output, a JSON object a line: `{"rows", "of"}` as
it goes, `{"foretold"}` before the step that makes it true, then `{"answer"}` or `{"refused"}`.
"""

import json
import logging
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from app import logs, settings
from app.api.ids import fault_of
from app.api.metadata_in import compact
from app.children import adopt
from app.engine import errors
from app.engine.importing import Wanted, bad_file, run_import
from app.engine.sources import open_source
from app.engine.told import refused_json
from app.engine.translate import translated
from app.limited import limit, opening
from storage.files.contract import BadFile

log = logging.getLogger("seedvec.import")
TOO_MUCH_MEMORY = "reading it takes more memory than is given to an import: nothing was imported"


def main() -> None:
    adopt()
    order: dict[str, Any] = json.load(sys.stdin)
    config = settings.load({}, os.environ)
    logs.configure("import", config.log_level, config.log_format)
    limit(order["input_bytes"])
    try:
        _tell({"answer": _run(order, config)})
    except errors.Refused as e:
        _tell({"refused": refused_json(e)})
    except MemoryError:
        _tell({"refused": refused_json(errors.BadFile(TOO_MUCH_MEMORY))})


def _run(order: dict[str, Any], config: settings.Settings) -> dict[str, Any]:
    wanted = Wanted(
        Path(order["data"]),
        order["name"],
        order["uuid"],
        Path(order["staging"]),
        order["mode"],
        order["bad"],
        order["append"],
        tuple(order["key"]) if order["key"] else None,
        config.keep_queries,
    )
    try:
        with translated(wanted.name), opening(order["input_bytes"]):
            reader = open_source(wanted.data, wanted.staging, order["source"])
    except BadFile as e:
        raise bad_file(e) from e
    with closing(reader):
        return run_import(
            wanted,
            reader,
            fault_of,
            lambda text, where: compact(msgspec.Raw(text), where),
            lambda rows, of: _tell({"rows": rows, "of": of}),
            lambda answer: _tell({"foretold": answer}),
        )


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
