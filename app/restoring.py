"""`python -m app.restoring`: a snapshot verified, opened and judged in a process of its own. See `engine/restoring.py`.

The order is JSON on standard input, `{"data", "snapshot", "wanted": {new: old}, "trusted"}`; the answer goes to
standard output: `{"stage": folder}`, or `{"damaged" | "full" | "failed": why}`.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from app import logs, settings
from app.children import adopt
from app.engine.restoring import judged
from app.scheduling import stand_behind
from storage import errors

NICENESS = 5
log = logging.getLogger("seedvec.restoring")


def main() -> None:
    adopt()
    stand_behind(NICENESS)
    logs.configure("restoring", settings.load({}, os.environ).log_level)
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


def answer(order: dict[str, Any]) -> dict[str, str]:
    """What cannot be read in a way that only its reader has words for is damaged too, where it came from outside."""
    try:
        stage = judged(Path(order["data"]), Path(order["snapshot"]), order["wanted"], order["trusted"])
    except errors.Damaged as e:
        return {"damaged": str(e)}
    except errors.NoSpace as e:
        return {"full": str(e)}
    except (errors.StorageError, OSError) as e:
        full = isinstance(e, OSError) and e.errno in errors.FULL
        return {"full" if full else "failed": str(e)}
    except Exception as e:
        if order["trusted"]:
            raise
        log.warning("what was uploaded cannot be read: %s: %s", type(e).__name__, e)
        return {"damaged": f"it cannot be read: {type(e).__name__}"}
    return {"stage": str(stage)}


if __name__ == "__main__":
    main()
