"""Seedvec for Python programs: `Client` speaks to a server over HTTP and needs nothing but Python; `open` reads a data
folder without one, and needs NumPy and h5py (`seedvec[files]`)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seedvec.errors import SeedvecError

if TYPE_CHECKING:
    from seedvec.asynchronous import AsyncClient
    from seedvec.client import Client
    from seedvec.folder import open

__all__ = ["Client", "AsyncClient", "SeedvecError", "open", "__version__"]
__version__ = "0.1.0"


_PLACES = {"AsyncClient": "asynchronous", "Client": "client", "open": "folder"}


def __getattr__(name: str) -> Any:
    # What reads files costs a fifth of a second to import, and may not be installed: a client pays nothing for it. Nor
    # do the commands and the server's processes, which import from here as well, pay a tenth for the clients.
    if name in _PLACES:
        return getattr(import_module(f"seedvec.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
