"""Pictures, drawn by a process of its own (`python -m app.drawing`): no worker carries the drawing library (60 MB, and
half a second to import)."""

import asyncio
import json
import logging
import subprocess
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from app.children import start_child
from app.engine.errors import Unavailable

log = logging.getLogger(__name__)
TIMEOUT_S = 30.0
KEPT = 16


class Picturing:
    """One picture at a time; those drawn last are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._turn = asyncio.Lock()

    async def draw(self, order: Mapping[str, Any]) -> bytes:
        """order: as `app/drawing.py` takes it. Raises Unavailable."""
        text = json.dumps(order, sort_keys=True).encode()
        async with self._turn:
            if text not in self._kept:
                self._kept[text] = await _drawn(text)
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(text)
            return self._kept[text]


async def _drawn(order: bytes) -> bytes:
    with start_child("app.drawing", piped=True) as process:  # here, on the main thread
        try:
            picture, _ = await asyncio.to_thread(process.communicate, order, TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.error("a picture was not drawn within %g s", TIMEOUT_S)
            raise Unavailable("the picture was not drawn in time: try again, or ask for JSON") from None
        finally:
            process.kill()  # nothing, where it has ended
    if process.returncode or not picture:
        log.error("a picture was not drawn: exit status %s", process.returncode)
        raise Unavailable("the picture could not be drawn, the server's log says why: ask for JSON")
    return picture
