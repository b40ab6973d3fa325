"""One connection to a server, for bodies that stream."""

import http.client
import os
import ssl
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

TIMEOUT_S: Final = 600.0
"""Without a byte. A server that checks a large file tells of it every quarter of a second."""


def connect(url: str) -> "Connection":
    """Raises ValueError where that is no address."""
    return Connection(url)


class Connection:
    """Requests bear the key of SEEDVEC_API_KEY, where that is set."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address")
        self._base = parts.path.rstrip("/")
        self._http: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._http = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)
        else:
            self._http = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)

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
        key = os.environ.get("SEEDVEC_API_KEY")
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
