"""`seedvec health`: can a server serve? Asked of the server of this machine or container, without a key."""

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from urllib.parse import urlsplit

TIMEOUT_S = 5.0
LONGEST = 64 << 10
"""Bytes of the answer that are shown."""


def default_url() -> str:
    """`SEEDVEC_URL`, or where a server started with the same environment listens on this machine."""
    scheme = "https" if os.environ.get("SEEDVEC_TLS_CERT") else "http"
    here = f"{scheme}://127.0.0.1:{os.environ.get('SEEDVEC_PORT', '8080')}"
    return os.environ.get("SEEDVEC_URL", here)


def health(url: str) -> int:
    """Says what `GET /readyz` answers. Returns the exit status: 0 where it is 200, else 1."""
    try:
        status, body = _ready(url)
    except (OSError, HTTPException, ValueError) as error:
        sys.stderr.write(f"seedvec: {url} cannot serve: {error}\n")
        return 1
    if status != 200:
        sys.stderr.write(f"seedvec: {url} cannot serve: {status} {body}\n")
        return 1
    sys.stdout.write(f"{url} can serve: {body}\n")
    return 0


def _ready(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http:// or https:// address")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if _is_loopback(parts.hostname):
            # The certificate bears the name by which others reach the server. Nothing secret is sent, and who can
            # answer on this machine's loopback need not fake a health check.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: HTTPConnection = HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT_S, context=context)
    else:
        connection = HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
