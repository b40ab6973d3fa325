"""One connection to a server, for bodies that stream."""

import http.client
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from seedvec.server import default_key, dial

TIMEOUT_S: Final = 600.0
"""Without a byte. A server that checks a large file tells of it every quarter of a second."""


def connect(url: str) -> "Connection":
    """Raises ValueError where that is no address."""
    return Connection(url)


class Connection:
    """Requests bear the key of SEEDVEC_API_KEY, where that is set."""

    def __init__(self, url: str) -> None:
        self._http, self._base = dial(url, TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def send(
        self, method: str, path: str, body: Iterator[bytes] | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        """The answer, from its headers on. Raises OSError, HTTPException."""
        key = default_key()
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **headers}
        chunked = body is not None and "Content-Length" not in headers
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        try:
            self._http.request(method, self._base + path, body, headers, encode_chunked=chunked)
        except BrokenPipeError:
            # Refused before all of it was sent: the server says why, and closes.
            return self._http.getresponse()
        return self._http.getresponse()
