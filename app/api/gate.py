"""Who comes in: a key where one is set, at the rate it may, and not while more waits than can be answered in time.

What a key may do then is the routes' to check (`rights.py`): they know what they do.
"""

import math
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.bodies import HELD, ROOM, Room
from app.api.keys import Key, Keyring
from app.api.problems import refusal_response, request_id
from app.api.rates import Rates
from app.api.refusals import RateLimited, Unauthorized
from app.api.rights import KEY
from app.engine.errors import Overloaded, Refused
from app.engine.turn import at_end_of_turn

CROWDED = "crowded"
"""In the state of a connection beyond the bound: what it asks is refused, but for what is open."""
PROBES = frozenset({"/livez", "/readyz"})
OPEN = PROBES | {"/docs", "/openapi.json"}
OPEN_BELOW = "/problems/"
WATCH = "/metrics"
"""Never late: it wants a key like others, but who watches must see an overload."""
FEW = 64
"""So many requests of one turn of the event loop are begun however long they wait: a queue that short is none."""
NO_KEY = "a key is needed, and the request has none: send it as `Authorization: Bearer KEY` or `api-key: KEY`"
WRONG_KEY = "the key is none that this server knows"


class Gate:
    """Stands before all routes. keys: replaced where their files change; rates: None: no key has one.

    All requests that came in together are answered in one turn of the event loop, one after the other. The turn is
    timed, and what it does not come to in time is refused, which takes a tenth of a search: so what is accepted waits
    for a bounded time, whatever comes.
    """

    def __init__(self, app: ASGIApp, keys: Keyring, rates: Rates | None, room: Room, queue_s: float) -> None:
        self.app = app
        self.keys = keys
        self.rates = rates
        self.room = room
        self.queue_s = queue_s
        self._begun = 0
        self._turn_began = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._admit(scope)
        except Refused as refused:
            await refusal_response(refused, request_id(scope))(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        finally:
            if HELD in scope:
                self.room.leave(scope[HELD])

    def _admit(self, scope: Scope) -> None:
        """Raises Unauthorized, RateLimited, Overloaded."""
        path: str = scope["path"]
        scope[ROOM] = self.room
        if self._begun == 0:
            self._turn_began = time.monotonic()
            at_end_of_turn(self._end_turn)
        self._begun += 1
        if path in OPEN:
            return
        if scope.get("state"):  # of the connection; that of most is empty
            raise Overloaded("more connections are open than this server takes")
        late = self._begun > FEW and time.monotonic() - self._turn_began > self.queue_s
        if late and path != WATCH:
            raise Overloaded("more requests came to this worker at once than it can answer in time: it was not begun")
        if not self.keys:
            return
        if path.startswith(OPEN_BELOW):
            return
        key = self._key(scope)
        scope[KEY] = key
        if key.rate and self.rates is not None:
            wait_s = self.rates.wait_s(key)
            if wait_s:
                raise RateLimited(f"the key {key.name} may make {key.rate:g} requests a second", math.ceil(wait_s))

    def _end_turn(self) -> None:
        self._begun = 0

    def _key(self, scope: Scope) -> Key:
        presented = presented_key(scope)
        if presented is None:
            raise Unauthorized(NO_KEY)
        key = self.keys.find(presented)
        if key is None:
            raise Unauthorized(WRONG_KEY)
        return key


def presented_key(scope: Scope) -> bytes | None:
    """What the client sends as its key; the header `api-key` goes before `Authorization`."""
    bearer = None
    for name, value in scope["headers"]:
        if name == b"api-key":
            return bytes(value)
        if name == b"authorization" and bearer is None and value[:7].lower() == b"bearer ":
            bearer = bytes(value[7:].strip())
    return bearer
