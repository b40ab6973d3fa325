"""`seedvec health`: can a server serve? Asked of the server of this machine or container, without a key."""

import ssl
import sys
from http.client import HTTPException
from ipaddress import ip_address

from seedvec.server import dial, verified

TIMEOUT_S = 5.0
LONGEST = 64 << 10
"""Bytes of the answer that are shown."""


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
    connection, base = dial(url, TIMEOUT_S, _context)
    try:
        connection.request("GET", f"{base}/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST).decode("utf-8", "replace").strip()
    finally:
        connection.close()


def _context(host: str) -> ssl.SSLContext:
    context = verified(host)
    if _is_loopback(host):
        # The certificate bears the name by which others reach the server. Nothing secret is sent, and who can answer
        # on this machine's loopback need not fake a health check.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
