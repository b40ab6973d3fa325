"""A client of the HTTP API that needs nothing but Python; where NumPy is installed, arrays and tensors go in and arrays
come out.

One `Client` holds one kept-alive connection and is for one thread at a time; `AsyncClient` holds several.
"""

import http.client
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from seedvec.collection import Collection, collection_path
from seedvec.errors import Refused
from seedvec.exchange import Exchange
from seedvec.server import default_key
from seedvec.server import default_url as default_url

TIMEOUT_S = 60.0
RETRY_S = 30.0


class Client:
    """url: `http://host:port` or `https://…` (default: SEEDVEC_URL, else this machine at SEEDVEC_PORT or 8080); key:
    where the server wants one (default: SEEDVEC_API_KEY); timeout_s: of one exchange with the server; retry_s: how long
    a request that the server puts off, because too much waits, is tried again.

    Methods raise Refused where the server refuses (`seedvec/errors.py` has its kinds), OSError and
    http.client.HTTPException where it cannot be reached.
    """

    def __init__(
        self, url: str | None = None, key: str | None = None, timeout_s: float = TIMEOUT_S, retry_s: float = RETRY_S
    ) -> None:
        self._exchange = Exchange(url or default_url(), key or default_key(), timeout_s, retry_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self._exchange.url

    def close(self) -> None:
        """Close the connection. The next call would open another."""
        self._exchange.close()

    # -- the service

    def ready(self) -> dict[str, Any]:
        """The answer of `GET /readyz`."""
        return dict(self._exchange.json("GET", "/readyz"))

    def wait_ready(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Waits until the server can serve. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                return self.ready()
            except (ConnectionError, http.client.HTTPException):
                pass
            except Refused as error:
                if error.status != 503:
                    raise
            if time.monotonic() >= until:
                raise TimeoutError(f"{self.url} is not ready after {timeout_s:g} s")
            time.sleep(0.1)

    def info(self) -> dict[str, Any]:
        """Version and limits."""
        return dict(self._exchange.json("GET", "/v1"))

    # -- collections

    def collection(self, name: str, dimension: int | None = None, **settings: Any) -> Collection:
        """The collection of that name or alias. With a dimension it is made where there is none; one that differs in a
        setting given refuses (Conflict). settings: `metric`, `dtype`, `id_type`, `index`, `recall`, `sparse`."""
        if dimension is None:
            if settings:
                raise TypeError("settings are given with a dimension")
            self._exchange.json("GET", collection_path(name))
        else:
            self._exchange.json("PUT", collection_path(name), {"dimension": dimension, **settings})
        return self._of(name)

    def _of(self, name: str) -> Collection:
        return Collection(self._exchange, name)

    def collections(self) -> list[dict[str, Any]]:
        """All collections, each as `Collection.describe` says it."""
        return list(self._exchange.json("GET", "/v1/collections")["collections"])

    def drop(self, name: str) -> None:
        """Deletes a collection with all it holds."""
        self._exchange.json("DELETE", collection_path(name))

    # -- aliases and snapshots

    def aliases(self) -> dict[str, str]:
        """alias → collection."""
        return {led["alias"]: led["collection"] for led in self._exchange.json("GET", "/v1/aliases")["aliases"]}

    def alias(self, alias: str, collection: str) -> None:
        """Makes the alias, or switches it, in one step."""
        self._exchange.json("PUT", f"/v1/aliases/{quote(alias, safe='')}", {"collection": collection})

    def drop_alias(self, alias: str) -> None:
        self._exchange.json("DELETE", f"/v1/aliases/{quote(alias, safe='')}")

    def snapshots(self) -> list[dict[str, Any]]:
        return list(self._exchange.json("GET", "/v1/snapshots")["snapshots"])

    def take_snapshot(self, name: str, collections: Sequence[str] | None = None) -> dict[str, Any]:
        """Of these collections, or of all, as they stand at one moment."""
        body: Mapping[str, Any] = (
            {"name": name} if collections is None else {"name": name, "collections": [*collections]}
        )
        return dict(self._exchange.json("POST", "/v1/snapshots", body))

    def restore(self, /, name: str, **options: Any) -> dict[str, Any]:
        """A snapshot's collections come back. options: as in the API, `as_` for `as`: `replace`, `collections`."""
        body = {"as" if option == "as_" else option: value for option, value in options.items()}
        return dict(self._exchange.json("POST", f"/v1/snapshots/{quote(name, safe='')}/restore", body))

    def drop_snapshot(self, name: str) -> None:
        self._exchange.json("DELETE", f"/v1/snapshots/{quote(name, safe='')}")
