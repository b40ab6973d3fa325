"""Requests and their answers over one kept-alive connection, sent again where that is safe: every request of the client
may be repeated by its nature or bears an `Idempotency-Key`."""

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from seedvec.errors import OutcomeUnknown, Refused, refusal
from seedvec.server import dial

JSON: Final = "application/json"
MAX_PAUSE_S: Final = 10.0
"""Between two tries, whatever the server asks for."""
JSON_ONLY: Final[Mapping[str, str]] = {}


class Exchange:
    """For one thread at a time.

    key: sent with each request; timeout_s: of one request; retry_s: how long a request that the server puts off
    (429, 503 with Retry-After) is tried again."""

    def __init__(self, url: str, key: str | None, timeout_s: float, retry_s: float) -> None:
        """Raises ValueError where that is no address."""
        self._http, self._base = dial(url, timeout_s)
        self.url = url.rstrip("/")
        self.key = key
        self._retry_s = retry_s

    def close(self) -> None:
        """The next request opens another connection."""
        self._http.close()

    def json(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON_ONLY) -> Any:
        """body: what JSON can write, or None. The answer decoded, {} where there is none. Raises as `send`."""
        encoded = None if body is None else json.dumps(body, allow_nan=False).encode()
        answer = self.send(method, path, encoded, JSON, headers)
        return json.loads(answer) if answer else {}

    def send(
        self, method: str, path: str, body: bytes | None, kind: str, headers: Mapping[str, str] = JSON_ONLY
    ) -> bytes:
        """The answer's body. Raises Refused, OSError, HTTPException."""
        sent = dict(headers)
        if body is not None:
            sent["Content-Type"] = kind
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        until = time.monotonic() + self._retry_s
        while True:
            status, pause, answer = self._once_more(method, self._base + path, body, sent)
            if status < 400:
                return answer
            refused = refusal(status, problem(answer))
            if not _is_put_off(refused, pause) or time.monotonic() + pause > until:
                raise refused
            time.sleep(pause)

    def _once_more(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, float, bytes]:
        """Where the connection is lost, on another: an idle one may be closed at any time, and a server restarted."""
        try:
            return self._once(method, path, body, headers)
        except ConnectionRefusedError:
            raise
        except (ConnectionError, http.client.RemoteDisconnected):
            return self._once(method, path, body, headers)

    def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, float, bytes]:
        try:
            self._http.request(method, path, body, dict(headers))
            response = self._http.getresponse()
            return response.status, _pause_s(response), response.read()
        except BaseException:
            self._http.close()  # half an answer may be on it
            raise


def problem(body: bytes) -> dict[str, Any]:
    """The problem JSON of an answer, or something like it where a proxy has answered."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {"detail": body[:200].decode("utf-8", "replace")}


def _is_put_off(refused: Refused, pause: float) -> bool:
    return refused.status in (429, 503) and pause > 0 and not isinstance(refused, OutcomeUnknown)


def _pause_s(response: http.client.HTTPResponse) -> float:
    """What the server asks for in whole seconds; 0: it does not ask."""
    text = response.getheader("Retry-After", "")
    return min(max(float(text), 0.1), MAX_PAUSE_S) if text.isdigit() else 0.0
