"""Where a server is, and a connection to it."""

import os
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit


def default_url() -> str:
    """`SEEDVEC_URL`, or where a server started with the same environment listens on this machine."""
    scheme = "https" if os.environ.get("SEEDVEC_TLS_CERT") else "http"
    here = f"{scheme}://127.0.0.1:{os.environ.get('SEEDVEC_PORT', '8080')}"
    return os.environ.get("SEEDVEC_URL", here)


def default_key() -> str | None:
    """SEEDVEC_API_KEY, where it is set."""
    return os.environ.get("SEEDVEC_API_KEY") or None


def verified(host: str) -> ssl.SSLContext:
    """What a server of that name must show under https: a certificate that this machine trusts."""
    return ssl.create_default_context()


def dial(url: str, timeout_s: float, context: Callable[[str], ssl.SSLContext] = verified) -> tuple[HTTPConnection, str]:
    """A connection, not open yet, and what goes before each path. timeout_s: without a byte; context: by the host's
    name. Raises ValueError where that is no address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// or https:// address")
    base = parts.path.rstrip("/")
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=timeout_s), base
    return HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context(parts.hostname)), base
