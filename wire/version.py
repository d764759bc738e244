"""Which version of the program this is."""

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """The installed package's version, "unknown" when it runs from a checkout that was never installed."""
    try:
        return metadata.version("speedy-registry")
    except metadata.PackageNotFoundError:
        return "unknown"
