"""Which version of the program this is."""

from importlib import metadata


def version() -> str:
    """The installed package's version, "unknown" when it runs from a checkout that was never installed."""
    try:
        return metadata.version("speedy-registry")
    except metadata.PackageNotFoundError:
        return "unknown"
