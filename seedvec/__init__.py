"""Seedvec for Python programs: `Client` speaks to a server over HTTP and needs nothing but Python."""

from seedvec.client import Client, SeedvecError

__all__ = ["Client", "SeedvecError", "__version__"]
__version__ = "0.1.0"
