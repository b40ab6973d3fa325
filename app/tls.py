"""TLS on the server's port, and files that are read again when they change."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from app.settings import SettingError, Settings, flag

HANDSHAKE_S = 10.0
"""A client that has not shaken hands by then is gone."""
SHUTDOWN_S = 2.0
"""For the client's own goodbye, which asyncio would wait 30 s for."""


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What connections are to be wrapped in; None: nothing. Raises SettingError."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    names = f"{flag('tls_cert')} {settings.tls_cert}"
    if settings.tls_key is not None:
        names += f", {flag('tls_key')} {settings.tls_key}"
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except ssl.SSLError as error:
        raise SettingError(f"{names}: {error.reason or 'no certificate and key in PEM that belong together'}") from None
    except OSError as error:
        raise SettingError(f"{names}: {error.strerror}") from None
    return context


def tls_files(settings: Settings) -> list[Path]:
    """The files that `server_context` reads."""
    return [path for path in (settings.tls_cert, settings.tls_key) if path is not None]


def _no_password() -> str:
    # OpenSSL would ask for it on the terminal.
    raise SettingError(f"{flag('tls_key')}: it is encrypted, and nobody is there to decrypt it")


class Watched:
    """Files of which we want to know when they change: certificates are renewed, keys come and go.

    By what `stat` says, which also sees the renames and links by which secrets are commonly replaced.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen = self._look()

    def have_changed(self) -> bool:
        """Since this was last asked."""
        seen = self._look()
        changed, self._seen = seen != self._seen, seen
        return changed

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
